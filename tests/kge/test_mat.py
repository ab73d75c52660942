"""Modality adversarial training against loops in numpy float64, and who learns from which term."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from nsbench.campaign.plan import dataset_of
from nsbench.config.run import configure
from nsbench.contracts.scoring import Scoring
from nsbench.errors import Misuse
from nsbench.kge.auxiliaries.mat import NOISE
from nsbench.testing.rules import assert_contract
from nsbench.training.seeds import generator
from tests.kge.fusions import steps, trainer_of

MODEL_NAMES = ("transe", "distmult", "rotate")
WIDTH, MARGIN = 4, 3.0


SETTINGS = (
    "protocol.width=4",
    "protocol.batch=8",
    "protocol.margin=3",
    "protocol.regularizer=0",
    "protocol.subsampling=false",
)
plain = functools.partial(trainer_of, *SETTINGS, fusion="adamf")


def trainer_for(*settings, weight=0.5, **how):
    return plain(f"aux.mat={weight}", *settings, **how)


def view_of(trainer, rng=0):
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    return dataclasses.replace(trainer._view(scoring, live=True), rng=generator(rng, "test"))


def array(x):
    return x.detach().double().numpy()


def score(kge, h, r, t):
    """The textbook formulas in numpy."""
    if kge == "transe":
        return MARGIN - np.abs(h + r - t).sum()
    if kge == "distmult":
        return (h * r * t).sum()
    phase = r * np.pi * WIDTH / (MARGIN + 2)
    h, t = (x[:WIDTH] + 1j * x[WIDTH:] for x in (h, t))
    return MARGIN - np.abs(h * np.exp(1j * phase) - t).sum()


def looped_scores(trainer, kge, hrt, rng):
    """f of the triples and of their three fakes, [4, B], triple by triple; the same noise from a generator of its own."""
    mat, fusion = trainer.auxiliaries["mat"], trainer.fusion
    noise = torch.randn(2, 2, len(hrt), NOISE, generator=generator(rng, "test"))  # modality, end, row
    structure, relation = array(trainer.kge.entity), array(trainer.kge.relation)
    true, q = array(trainer.scoring().tables["fused"]), array(fusion.q)

    def fake(entity, end, row):
        slots = [structure[entity]]
        for m, network in enumerate(mat.generators):
            x = np.concatenate([array(noise[m, end, row]), structure[entity]])
            x = array(network[0].weight) @ x + array(network[0].bias)
            x = np.where(x > 0, x, 0.01 * x)
            slots.append(array(network[2].weight) @ x + array(network[2].bias))
        power = [np.exp(q @ np.tanh(s)) for s in slots]
        return sum(p / sum(power) * s for p, s in zip(power, slots))

    out = np.zeros((4, len(hrt)))
    for row, (h, r, t) in enumerate(hrt.tolist()):
        fake_h, fake_t = fake(h, 0, row), fake(t, 1, row)
        for i, (head, tail) in enumerate([(true[h], true[t]), (fake_h, true[t]), (true[h], fake_t), (fake_h, fake_t)]):
            out[i, row] = score(kge, head, relation[r], tail)
    return out


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("kge", MODEL_NAMES)
def test_the_models_term_is_the_sum_of_three_half_losses(kge, temperature):
    trainer = trainer_for(f"aux.mat.temperature={temperature}", kge=kge)
    positives = trainer.graph.positives(torch.arange(0, 120, 15))
    assert not trainer.setting.present["text"][positives.hrt[:, [0, 2]]].all()  # fakes have every modality all the same
    found = trainer.auxiliaries["mat"].loss(positives, view_of(trainer))
    s_pos, *s_fakes = looped_scores(trainer, kge, positives.hrt, 0)
    wanted = 0.0
    for s in s_fakes:
        weight = np.exp(temperature * s) / np.exp(temperature * s).sum()  # over the batch
        wanted += 0.5 * (softplus(-s_pos).mean() + (weight * softplus(s)).sum())
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_weights_over_the_batch_are_constants():
    trainer = trainer_for("aux.mat.temperature=2", kge="distmult")
    mat, positives = trainer.auxiliaries["mat"], trainer.graph.positives(torch.arange(0, 120, 15))
    view, again = view_of(trainer), view_of(trainer)
    learnt = [trainer.kge.entity, trainer.kge.relation, trainer.fusion.q]
    found = torch.autograd.grad(mat.loss(positives, view), learnt)
    s_pos, s_fake = mat._scores(positives.hrt, again.scoring, again.rng)
    weight = torch.tensor(np.exp(2 * array(s_fake)) / np.exp(2 * array(s_fake)).sum(1, keepdims=True))
    wanted = 0.5 * (3 * torch.nn.functional.softplus(-s_pos).mean() + (weight * torch.nn.functional.softplus(s_fake)).sum())
    for one, other in zip(found, torch.autograd.grad(wanted, learnt)):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)


def test_the_models_term_reaches_the_model_and_no_generator():
    trainer = trainer_for("fusion.features=train")
    positives = trainer.graph.positives(torch.tensor([0, 30]))
    trainer.auxiliaries["mat"].loss(positives, view_of(trainer)).backward()
    parameters = {**dict(trainer.kge.named_parameters()), **dict(trainer.fusion.named_parameters())}
    assert not [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    ends = sorted({*positives.h.tolist(), *positives.t.tolist()})
    assert trainer.kge.entity.grad.any(1).nonzero().flatten().tolist() == ends
    assert all(p.grad is None for p in trainer.auxiliaries.parameters())


def test_structure_learns_through_the_generators_input():
    """With generators that pass no gradient on, that of the structural rows is another."""
    found = []
    for blind in (False, True):
        trainer = trainer_for()
        mat = trainer.auxiliaries["mat"]
        with torch.no_grad():
            for network in mat.generators:
                network[2].weight.mul_(3)
        if blind:
            for network in mat.generators:
                network.forward = lambda x, forward=network.forward: forward(x.detach())
        mat.loss(trainer.graph.positives(torch.tensor([0, 30])), view_of(trainer)).backward()
        found.append(trainer.kge.entity.grad)
    assert (found[0] - found[1]).abs().max() > 1e-6


def test_generators_step_after_the_model_on_the_same_batch_and_raise_their_fakes():
    """The step for a batch is Adam's on -sum 1/2 log sigma(f_i), all but the generators constant."""
    trainer = trainer_for("aux.mat.learning_rate=0.001")
    mat, graph = trainer.auxiliaries["mat"], trainer.graph
    first, second = graph.positives(torch.arange(8)), graph.positives(torch.arange(50, 58))
    before = {name: p.clone() for name, p in mat.named_parameters()}
    mat.loss(first, view_of(trainer))
    assert all(torch.equal(p, before[name]) for name, p in mat.named_parameters())  # the model has not stepped yet
    with torch.no_grad():
        trainer.kge.entity.add_(0.1 * torch.randn_like(trainer.kge.entity))  # the model's step
    steepest = looped_gradient(trainer, first.hrt, rng=5)
    mat.loss(second, view_of(trainer, rng=5))
    for name, p in mat.named_parameters():
        step = p - before[name]
        assert step.abs().max() <= 0.00101  # the first step of Adam: the learning rate against the sign of the gradient
        clear = steepest[name].abs() > 1e-5
        assert clear.any()
        assert torch.equal(step[clear].sign(), -steepest[name][clear].sign())
    assert all(p.grad is None for p in [*trainer.kge.parameters(), *trainer.fusion.parameters()])
    assert not any(p.requires_grad for p in mat.parameters())


def looped_gradient(trainer, hrt, rng):
    """Central differences of the generators' loss, by the loop in float64: for the biases and some of the weights."""
    mat, found = trainer.auxiliaries["mat"], {}

    def loss():
        return 0.5 * softplus(-looped_scores(trainer, "transe", hrt, rng)[1:]).mean(1).sum()

    mat.double()
    for name, p in mat.named_parameters():
        flat, gradient = p.data.view(-1), torch.zeros(p.numel(), dtype=torch.float64)
        for i in range(0, p.numel(), max(1, p.numel() // 8)):
            kept = flat[i].item()
            flat[i] = kept + 1e-5
            above = loss()
            flat[i] = kept - 1e-5
            gradient[i] = (above - loss()) / 2e-5
            flat[i] = kept
        found[name] = gradient.view_as(p)
    mat.float()
    return found


def test_weight_zero_leaves_the_model_as_it_is_without():
    """And its noise is not the sampler's: `mu` = 0, as the released scripts have it, is plain adamf, bit for bit."""
    with_mat = trainer_for(weight=0)
    without = plain()
    steps(with_mat, 10)
    steps(without, 10)
    one, other = with_mat.model_state(), without.model_state()
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert with_mat.auxiliaries["mat"].adam.state_dict()["state"]  # yet the generators learn
    moved = trainer_for(weight=0.5)
    steps(moved, 10)
    assert not torch.equal(moved.model_state()["kge.entity"], other["kge.entity"])


@pytest.mark.parametrize(("sampler", "kge"), [("uniform", "transe"), ("kbgan", "rotate"), ("igan", "distmult")])
def test_the_battery(sampler, kge):
    """With `resume` and `host sync` among its rules."""
    settings = ("aux.mat=0.1", "aux.mat.temperature=2")
    assert_contract(sampler, kge, fusion="adamf", settings=settings, device="cpu")


def test_what_it_needs_is_asked_for():
    with pytest.raises(Misuse, match="auxiliary loss 'mat' needs a fusion with a slot per modality, which 'none' is not"):
        configure("uniform", "transe", "planted:small", settings=["aux.mat=0.1"])
    config = configure("uniform", "transe", "planted:small", fusion="adamf", features="none", settings=["aux.mat=0.1"])
    with pytest.raises(Misuse, match="auxiliary loss 'mat' needs features"):
        dataset_of(config)
