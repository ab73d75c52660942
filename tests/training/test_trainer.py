"""What the trainer promises whatever the sampler: seeds, order, sides, rates, regulariser, resumption."""

import io
from collections import Counter

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Negatives, Sampler
from nsbench.kernels import operators as kernels
from nsbench.registry import SAMPLERS
from nsbench.testing.rules import registered, toy
from nsbench.training.seeds import generator
from nsbench.training.trainer import Trainer


def make(sampler="uniform", *settings, kge="transe", seed=0):
    values = ["protocol.width=6", "protocol.batch=16", "protocol.negatives=4", "protocol.steps=40", *settings]
    return Trainer(configure(sampler, kge, "toy", protocol="quick", seed=seed, settings=values), toy())


def batches(trainer, steps):
    """Positives of each step."""
    seen, original = [], trainer._next_positives
    trainer._next_positives = lambda: seen.append(original()) or seen[-1]
    for _ in range(steps):
        trainer.step()
    return seen


def differs(a, b):
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_the_same_seed_gives_the_same_model_bit_for_bit(kge):
    one, other, third = make(kge=kge), make(kge=kge), make(kge=kge, seed=1)
    for trainer in (one, other, third):
        batches(trainer, 20)
    assert not differs(one.model_state(), other.model_state())
    assert torch.equal(one.loss_sum, other.loss_sum)
    assert "kge.entity" in differs(one.model_state(), third.model_state())


def test_samplers_start_from_one_model_and_see_one_order():
    class Thirsty(Sampler):
        """Uses more random numbers than uniform, and the global generator too."""

        def __init__(self, setting, options):
            super().__init__(setting, options)
            self.layer = torch.nn.Linear(3, 3)
            torch.rand(5)

        def sample(self, positives, view):
            torch.rand(7, generator=view.rng)
            side = view.draw_side(positives)
            return Negatives(side, ids=view.graph.draw(positives.key(side), self.k, view.rng))

    with registered(SAMPLERS, "thirsty", Thirsty):
        one, other = make("uniform"), make("thirsty")
    assert not differs(one.model_state(), other.model_state())
    first, second = batches(one, 20), batches(other, 20)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(first, second))


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    batches(make(), 3)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("batch", [16, 50, 128])
def test_every_triple_equally_often_with_batches_that_straddle_passes(batch):
    trainer = make("uniform", f"protocol.batch={batch}")
    n = len(trainer.graph)
    steps = 4 * n // batch
    seen = batches(trainer, steps)
    assert all(len(b) == batch for b in seen)
    rows = torch.cat([b.rows for b in seen]).tolist()
    for whole in range(len(rows) // n):  # each run of n is one pass
        assert sorted(rows[whole * n : (whole + 1) * n]) == list(range(n))
    assert set(Counter(rows).values()) <= {len(rows) // n, len(rows) // n + 1}
    assert rows[:n] != rows[n : 2 * n]
    for b in seen:
        assert torch.equal(b.hrt, trainer.graph.triples[b.rows])


def test_order_differs_between_seeds():
    one, other = batches(make(), 1), batches(make(seed=1), 1)
    assert not torch.equal(one[0].rows, other[0].rows)


def test_alternating_sides_begin_with_the_tail():
    seen = batches(make("uniform", "protocol.sides=alternate"), 4)
    assert [b.side.tolist() for b in seen] == [[False] * 16, [True] * 16] * 2
    assert all(b.side is None for b in batches(make(), 2))


@pytest.mark.parametrize(("decay_at", "first_low"), [(0.5, 20), (0.26, 11), (0.0, 0), (1.0, None)])
def test_learning_rate_drops_once(decay_at, first_low):
    trainer = make("uniform", f"protocol.decay_at={decay_at}", "protocol.learning_rate=0.01", "protocol.decay_factor=0.1")
    rates = []
    for _ in range(40):
        trainer.step()
        rates.append(trainer.model_adam.param_groups[0]["lr"])
    low = 40 if first_low is None else first_low
    assert rates == pytest.approx([0.01] * low + [0.001] * (40 - low))


@pytest.mark.parametrize("power", [2, 3])
def test_the_regulariser_adds_its_gradient_on_the_full_tables(power):
    gradients = []
    for strength in (0.0, 0.01):
        trainer = make("uniform", f"protocol.regularizer={strength}", f"protocol.regularizer_power={power}")
        before = {n: p.detach().clone() for n, p in trainer.kge.named_parameters()}
        step = trainer.model_adam.step
        trainer.model_adam.step = lambda trainer=trainer, step=step: (
            gradients.append({n: p.grad.clone() for n, p in trainer.kge.named_parameters()}),
            step(),
        )
        trainer.step()
    for name, x in before.items():
        slope = 2 * x if power == 2 else 3 * x * x.abs()
        assert torch.allclose(gradients[1][name] - gradients[0][name], 0.01 * slope, atol=1e-6)


class Stateful(Sampler):
    """A buffer, a parameter with its own Adam, and draws that depend on both."""

    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.register_buffer("last", torch.zeros(setting.graph.num_entities))
        self.bias = torch.nn.Parameter(torch.zeros(setting.graph.num_entities))

    def sample(self, positives, view):
        side = view.draw_side(positives)
        pool = view.graph.draw(positives.key(side), 6, view.rng)
        self.last[pool.flatten()] += 1
        log_p = (self.bias[pool] - 0.1 * self.last[pool]).log_softmax(1)
        chosen = torch.multinomial(log_p.exp(), self.k, generator=view.rng)
        return Negatives(side, ids=pool.gather(1, chosen), log_q=log_p.gather(1, chosen))

    def feedback(self, negatives, s_pos, s_neg):
        return -(s_neg * negatives.log_q).mean()


@pytest.mark.parametrize("at", [1, 7, 23])  # within a pass, and after the learning rate has dropped
def test_a_saved_run_goes_on_bit_for_bit(at):
    with registered(SAMPLERS, "stateful", Stateful):
        whole, resumed = make("stateful"), make("stateful", seed=0)
        for _ in range(at):
            whole.step()
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        file.seek(0)
        for _ in range(12):
            whole.step()
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert resumed.step_count == at
        for _ in range(12):
            resumed.step()
    assert not differs(whole.model_state(), resumed.model_state())
    assert not differs(whole.sampler.state_dict(), resumed.sampler.state_dict())
    assert torch.equal(whole.loss_sum, resumed.loss_sum)
    assert torch.equal(whole.view.rng.get_state(), resumed.view.rng.get_state())


def test_model_state_is_a_copy_that_loads():
    trainer = make()
    before = trainer.model_state()
    kept = {name: x.clone() for name, x in before.items()}
    trainer.step()
    assert not differs(before, kept)
    assert differs(before, trainer.model_state())
    trainer.load_model_state(before)
    assert not differs(before, trainer.model_state())


def test_streams_of_random_numbers_are_independent():
    draws = {(s, p): tuple(torch.rand(4, generator=generator(s, p)).tolist()) for s in (0, 1) for p in ("a", "b", "sampler")}
    assert len(set(draws.values())) == 6
    assert draws[0, "a"] == tuple(torch.rand(4, generator=generator(0, "a")).tolist())


def test_the_view_tells_the_time():
    seen = []

    class Looks(Sampler):
        def sample(self, positives, view):
            seen.append((view.step, view.epoch, view.total_steps, view.total_epochs))
            side = view.draw_side(positives)
            return Negatives(side, ids=view.graph.draw(positives.key(side), self.k, view.rng))

    with registered(SAMPLERS, "looks", Looks):
        trainer = make("looks")
        batches(trainer, 40)
    n = len(trainer.graph)
    assert seen == [(step, step * 16 // n, 40, -(-40 * 16 // n)) for step in range(40)]
    assert seen[-1][1] == seen[-1][3] - 1


@pytest.mark.skipif(kernels.name() != "native", reason="only the native kernels add gradients up in a fixed order")
@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_one_thread_and_two_give_the_same_model(kge):
    threads, states = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            trainer = make("uniform", "protocol.batch=100", "protocol.width=64", "protocol.negatives=20", kge=kge)
            batches(trainer, 4)
            states.append(trainer.model_state())
    finally:
        torch.set_num_threads(threads)
    assert not differs(*states)


def test_the_samplers_memory_counts_its_adam():
    """Bernoulli has a float per relation and no Adam; KBGAN's generator has two moments and a count per tensor."""
    kbgan = make("kbgan")
    before = kbgan.sampler_bytes()
    kbgan.step()
    tables = [x.numel() for x in kbgan.sampler.generator.parameters()]
    assert kbgan.sampler_bytes() - before == 8 * sum(tables) + 4 * len(tables)
    assert make("bernoulli").sampler_bytes() == 4 * toy().num_relations
