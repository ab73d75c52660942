"""Predicted cost and memory of samplers, against recounts of what their steps really do and hold."""

import collections
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nsbench.bench import costs
from nsbench.bench import speed as bench
from nsbench.campaign.plan import dataset_of
from nsbench.config.run import configure
from nsbench.contracts import Dataset
from nsbench.contracts.graph import NonPositives, TrainGraph
from nsbench.contracts.scoring import Scoring
from nsbench.kernels import operators as kernels
from nsbench.samplers.sans import Adjacency
from nsbench.training.trainer import Trainer

TOY = [(0, 0, 1), (0, 0, 2), (1, 0, 2), (3, 0, 3), (2, 1, 3), (3, 1, 4), (4, 1, 0), (1, 1, 1)]  # entity 5 stays alone
CASES = {  # a cell of its own for everything that changes the counts
    "uniform": ("uniform", "transe"),
    "bernoulli": ("bernoulli", "transe"),
    "pseudo_typed": ("pseudo_typed", "distmult"),
    "pseudo_typed, unfiltered": ("pseudo_typed", "distmult", "sampler.variant=paper"),
    "sans": ("sans", "transe"),
    "sans, the kept entity too": ("sans", "transe", "sampler.variant=paper"),
    "sans, walks": ("sans", "transe", "sampler.mode=rw", "sampler.hops=3"),
    "sans, one chain": ("sans", "transe", "sampler.variant=released", "sampler.omega=9"),
    "nscaching": ("nscaching", "transe"),
    "nscaching, drawn side": ("nscaching", "transe", "sampler.update=drawn", "sampler.cache=7", "sampler.candidates=5"),
    "nscaching, lazy": ("nscaching", "distmult", "sampler.lazy=1"),
    "nscaching, unfiltered": ("nscaching", "distmult", "sampler.variant=paper"),
    "kbgan": ("kbgan", "transe", "sampler.pretrain_epochs=1"),
    "kbgan, rotate": ("kbgan", "transe", "sampler.pretrain_epochs=0", "sampler.generator=rotate", "sampler.candidates=30"),
    "igan": ("igan", "transe"),
    "igan, no turns": ("igan", "distmult", "sampler.turns=none", "sampler.width=12"),
    "one_vs_all": ("one_vs_all", "distmult"),
    "ns_kge": ("ns_kge", "distmult"),
}
cases = pytest.mark.parametrize("case", CASES)


def toy():
    triples = torch.tensor(TOY)
    return Dataset("toy", triples, triples[:1], triples[:1], [*"abcdef"], [*"pq"])


def trained(case, dataset, *settings):
    """A trainer of one of CASES whose batch is all of train, so that a step is a pass; prepared, but without a step."""
    sampler, kge, *options = CASES[case]
    sizes = ["protocol.width=8", "protocol.negatives=6", f"protocol.batch={len(dataset.train)}"]
    config = configure(sampler, kge, dataset.name, protocol="quick", settings=[*sizes, *options, *settings])
    trainer = Trainer(config, dataset)
    trainer.pretrain()
    return trainer


@pytest.fixture(scope="module")
def planted():
    return dataset_of(configure("uniform", "transe", "planted:small", protocol="quick"))


class Recount(TorchDispatchMode):
    """Counts units of each kind in whatever runs inside it, from the operators and the shapes that they are given."""

    def __init__(self, monkeypatch, entities, width):
        super().__init__()
        self.units = collections.Counter()
        self.entities = entities
        self.chosen = collections.Counter()

        def counted(owner, name, note):
            whole = getattr(owner, name)

            def call(*args, **kwargs):
                out = whole(*args, **kwargs)
                note(out, *args)
                return out

            monkeypatch.setattr(owner, name, call)

        def scored(out, similarity, q, table, ids):
            self.units["trained" if out.requires_grad else "scores"] += ids.numel() * table.shape[1] / width

        counted(kernels, "gathered", scored)
        counted(Scoring, "all", lambda out, *_: self.add("pairs", out))
        for owner, name in ((NonPositives, "draw"), (Adjacency, "step"), (TrainGraph, "is_positive")):
            counted(owner, name, lambda out, *_: self.add("draws", out))

    def add(self, kind, x, share=1.0):
        self.units[kind] += share * x.numel()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "randint":
            self.add("draws", out)
        elif name in ("sort", "topk", "multinomial"):
            self.chosen[name] += args[0].numel() * (args[0].shape[-1] != self.entities)
        elif name in ("mm", "addmm"):
            left, right = args[-2:]
            self.units["products"] += left.shape[0] * left.shape[1] * right.shape[1]
        elif name == "_fused_adam_":
            self.units["parameters"] += sum(x.numel() for x in args[0])
        elif "_softmax" in name and out.shape[-1] == self.entities:
            self.add("logits", out, 0.5)
        return out

    def total(self):
        """A row that is sorted and then searched for its largest competes once."""
        choices = max(self.chosen["sort"], self.chosen["topk"]) + self.chosen["multinomial"]
        return {k: v for k, v in {**self.units, "choices": choices}.items() if v}


@cases
def test_work_is_what_two_steps_really_do(case, planted, monkeypatch):
    """Two, because some samplers learn, or renew, in every other pass."""
    trainer = trained(case, planted)
    setting, batch = trainer.setting, trainer.protocol.batch
    with Recount(monkeypatch, setting.graph.num_entities, setting.entity_width) as recount:
        trainer.step()
        trainer.step()
    own = {"trained": batch * (setting.negatives + 1), "parameters": sum(x.numel() for x in trainer.kge.parameters())}
    found = {kind: recount.total().get(kind, 0) / 2 - own.get(kind, 0) for kind in costs.KINDS}
    if case == "one_vs_all":
        found["products"] = 0  # DistMult's pairs are a product
    stated = trainer.sampler.work(batch, setting)
    assert set(stated) <= set(costs.KINDS)
    assert found == pytest.approx(dict.fromkeys(costs.KINDS, 0) | stated)


@pytest.mark.parametrize("kind", costs.KINDS)
def test_a_probe_is_as_many_units_as_it_says_and_leaves_the_model_alone(kind, planted, monkeypatch):
    trainer = trained("uniform", planted, "protocol.width=9")  # no shape may stand for another
    before = trainer.model_state()
    units, run = costs.PROBES[kind](trainer)
    with Recount(monkeypatch, trainer.graph.num_entities, 9) as recount:
        run()
    assert recount.total()[kind] == units
    assert all(x.grad is None for x in trainer.kge.parameters())
    assert all(torch.equal(x, before[name]) for name, x in trainer.model_state().items())


def test_every_kind_is_described_and_probed():
    assert set(costs.PROBES) == set(costs.KINDS)


def test_a_ratio_is_one_step_and_the_price_of_the_difference():
    price = {"draws": 0.01, "scores": 0.001, "trained": 0.02}
    assert costs.ratio({"draws": 20}, {"draws": 20}, {}) == 1
    assert costs.ratio({"draws": 70, "scores": 300}, {"draws": 20}, price) == pytest.approx(1 + 0.5 + 0.3)
    assert costs.ratio({"trained": -10}, {"draws": 20}, price) == pytest.approx(1 - 0.2 - 0.2)
    with pytest.raises(ValueError, match="unknown kinds of work: drwas"):
        costs.ratio({"drwas": 70}, {"draws": 20}, price)


GROWTH = {  # more of it is more work
    "nscaching": ("candidates", 10, 50, 200),
    "nscaching, drawn side": ("cache", 10, 50, 200),
    "kbgan, rotate": ("candidates", 20, 40, 80),
    "kbgan": ("width", 10, 50, 200),
    "igan, no turns": ("width", 20, 50, 200),
    "sans, walks": ("hops", 1, 2, 5),
}


def test_predictions_are_positive_and_grow_with_the_work(planted, monkeypatch):
    monkeypatch.setattr(costs, "SPAN", 0.01)
    baseline = trained("uniform", planted)
    price = costs.prices(baseline, costs.KINDS)
    assert all(0 < p < 1 for p in price.values())
    batch, draws = baseline.protocol.batch, baseline.sampler.work(baseline.protocol.batch, baseline.setting)

    def of(case, *settings):
        trainer = trained(case, planted, *settings)
        return costs.ratio(trainer.sampler.work(batch, trainer.setting), draws, price)

    assert of("bernoulli") == of("pseudo_typed") == of("sans") == 1
    for case in CASES:
        assert of(case) > 0, case
    assert of("nscaching, lazy") < of("nscaching")
    for case, (option, *values) in GROWTH.items():
        rising = [of(case, f"sampler.{option}={value}") for value in values]
        assert all(b > a > 1 for a, b in itertools.pairwise(rising)), (case, rising)


def test_predictions_of_unstated_work_are_none(planted, monkeypatch):
    one, other = trained("bernoulli", planted), trained("uniform", planted)
    assert costs.predicted(one, other) == 1
    monkeypatch.setattr(type(one.sampler), "work", lambda *_: None)
    assert costs.predicted(one, other) is None


@cases
@pytest.mark.parametrize("where", ["toy", "planted"])
def test_memory_is_what_the_formula_says(case, where, request):
    trainer = trained(case, toy() if where == "toy" else request.getfixturevalue("planted"))
    trainer.step()
    assert trainer.sampler_bytes() == trainer.sampler.state_bytes(trainer.setting)


def test_adams_share_of_the_memory_is_counted(planted):
    """Bernoulli has a float per relation and no Adam; KBGAN's generator has one."""
    trainer = trained("kbgan", planted)
    before = trainer.sampler_bytes()
    trainer.step()
    tables = [x.numel() for x in trainer.sampler.generator.parameters()]
    assert trainer.sampler_bytes() - before == 8 * sum(tables) + 4 * len(tables)
    assert trained("bernoulli", planted).sampler_bytes() == 4 * planted.num_relations


@pytest.mark.parametrize("anchor", [True, False])
@pytest.mark.parametrize("hops", [1, 2])
def test_memory_of_neighbourhoods_by_breadth_first_search(anchor, hops):
    """Rows and removed pairs from sets of Python ints; the rest of the formula is the same."""
    trainer = trained("sans", toy(), f"sampler.anchor={str(anchor).lower()}", f"sampler.hops={hops}")
    ball = {e: {e} for e in range(6)}
    for _ in range(hops):
        ball = {e: near | {b for a, _, c in TOY for x, b in ((a, c), (c, a)) if x in near} for e, near in ball.items()}
    tails, heads = collections.defaultdict(set), collections.defaultdict(set)
    for h, r, t in TOY:
        tails[h, r].add(t)
        heads[t, r].add(h)
    removed = 0
    for answers in (tails, heads):
        for (kept, _), known in answers.items():
            out = known if anchor else known | {kept}
            removed += len(known) if ball[kept] <= out else len(out)
    queries = len(tails) + len(heads)
    rows = sum(map(len, ball.values()))
    assert trainer.sampler.state_bytes(trainer.setting) == 4 * (rows + 6) + 8 * removed + 25 * (queries + 1) + 8 * 6 + 8


SPEC = {  # in MB: a kernel's rows (0.3); N1 = 50 (4); d_G = 50 with Adam (5); d = 100 with Adam (6); k = 2 (7); ids (10)
    "mkg_w": (0.55, 7.3, 9.1, 36.8, 58, 0.15),
    "mkg_y": (0.34, 4.6, 9.0, 36.5, 0.7, 0.09),
    "db15k": (1.27, 15.0, 7.9, 31.9, 214, 0.30),
}


@pytest.mark.data
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "mkg_y")) for n in SPEC])
def test_memory_on_the_real_datasets_is_the_specs(name):
    """What the figures of specs/classic_samplers.md leave out (sizes per query, counters) is under a twentieth."""
    from nsbench.datasets import places
    from nsbench.datasets.loading import load_dataset

    if places.place(name).find(*places.TRIPLE_FILES) is None:
        pytest.skip(f"{name} is not on this machine; set NSBENCH_DATA or put it in ../shared/data")
    data = load_dataset(name, split="released", features="none")

    def made(sampler, *settings):
        trainer = Trainer(configure(sampler, "transe", name, protocol="cpu", settings=settings), data)
        return trainer.sampler, trainer.sampler.state_bytes(trainer.setting) / 1e6

    kernel, cache, generator, network, neighbours, ids = SPEC[name]
    graph = TrainGraph(data.train, data.num_entities, data.num_relations)
    assert 8 * len(graph.non_positives.survivors_before) / 1e6 == pytest.approx(kernel, abs=0.006)
    assert made("nscaching")[1] == pytest.approx(cache, abs=0.06)
    assert made("kbgan")[1] == pytest.approx(generator, abs=0.06)
    assert made("igan")[1] == pytest.approx(network, abs=0.06)
    assert 4 * graph.num_keys / 1e6 == pytest.approx(ids, abs=0.006)
    sans = Trainer(configure("sans", "transe", name, protocol="cpu"), data)
    sans.pretrain()
    rows = 4 * int(sans.sampler.row_size.sum()) / 1e6
    assert rows == pytest.approx(neighbours, rel=0.005, abs=0.05)
    assert sans.sampler_bytes() == sans.sampler.state_bytes(sans.setting) > 1e6 * rows


def test_a_pass_of_samplers_that_take_turns_is_a_mean_of_two(planted, monkeypatch):
    for case, passes in (("igan", 2), ("nscaching", 1), ("ns_kge", 1)):
        trainer = trained(case, planted, "protocol.batch=64")
        steps = []
        monkeypatch.setattr(trainer, "step", lambda steps=steps: steps.append(1))
        list(bench.epochs(trainer, 3))
        assert len(steps) == 3 * round(passes * len(planted.train) / 64), case


def test_bench_shows_cost_and_memory_beside_their_predictions(command):
    said = command(
        "bench",
        "--sampler",
        "sans",
        "--kge",
        "transe",
        "--dataset",
        "planted:small",
        "--protocol",
        "quick",
        *("--rounds", "1", "--pairs", "2"),
    )
    assert said.code == 0, said.err
    row = dict(line.split(None, 1) for line in said.out.splitlines() if line)
    assert float(row["measured"].split(" x uniform (95 % ")[0]) > 0
    assert row["predicted"].strip() == "1.000 x uniform"
    held, formula = row["state"].replace(",", "").split(" bytes (formula ")
    assert held == formula.rstrip(")")
