"""What is measured of a sampler's draws: against counting by hand, and without a trace in the run."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.config.run import configure
from nsbench.contracts import Auxiliary, Generated, Need, Negatives, Objective, Sampler
from nsbench.registry import AUXILIARIES, FUSIONS, SAMPLERS
from nsbench.runs.runner import Interrupted, RunOptions, execute
from nsbench.testing.rules import registered, toy
from nsbench.training.diagnostics import Diagnosis, percentile
from nsbench.training.trainer import Trainer
from tests.testing import fakes

SHORT = ["protocol.steps=20", "protocol.validate_every=10", "protocol.width=8", "protocol.batch=32", "protocol.negatives=4"]
ALONE = [name for name in SAMPLERS.names() if not SAMPLERS.get(name).needs_run]
SAMPLING = [name for name in ALONE if not issubclass(SAMPLERS.get(name), Objective)]


def planned(sampler, *settings, kge="transe", seed=0):
    fusion = "two_view" if "views" in SAMPLERS.get(sampler).requires else "none"
    (config,) = campaign.plan(
        [sampler], [kge], ["planted:small"], [seed], protocol="quick", fusion=fusion, settings=[*SHORT, *settings]
    )
    return config


def diagnosis_of(sampler, dataset, *settings, kge="transe", fusion="none"):
    with registered(SAMPLERS, "subject", sampler):
        config = configure("subject", kge, "toy", protocol="quick", settings=[*SHORT, *settings], fusion=fusion)
        return Diagnosis(Trainer(config, dataset), dataset)


class Constant(Sampler):
    """The same entities for everyone, heads replaced in every second row; the last slot is not valid."""

    drawn = [0, 20, 39, 7]
    filtered = False

    def sample(self, positives, view):
        side = torch.arange(len(positives)) % 2 == 0
        ids = torch.tensor(self.drawn).expand(len(positives), -1).contiguous()
        valid = torch.tensor([True, True, True, False]).expand_as(ids)
        return Negatives(side, ids=ids, valid=valid)


def test_figures_against_counting_by_hand():
    dataset = toy()
    dataset = dataclasses.replace(dataset, world=torch.cat([dataset.known, torch.tensor([[0, 4, 1]])]))
    diagnosis = diagnosis_of(Constant, dataset)
    found = diagnosis.measure()["figures"]
    train, known = (set(map(tuple, x.tolist())) for x in (dataset.train, dataset.known))
    heads, tails = ({(t[1], t[i]) for t in train} for i in (0, 2))
    asked = [tuple(triple) for rows in diagnosis.batches for triple in dataset.train[rows].tolist()]
    false, false_known, typed, n = 0, 0, 0, 0
    for rows in diagnosis.batches:
        for row, (h, r, t) in enumerate(dataset.train[rows].tolist()):
            for entity in Constant.drawn[:3]:
                triple = (entity, r, t) if row % 2 == 0 else (h, r, entity)
                false += triple in train
                false_known += triple in known
                typed += (r, entity) in (heads if row % 2 == 0 else tails)
                n += 1
    assert n == 3 * len(asked)
    assert 0 < false < false_known < n
    assert found["false_negatives_train"] == pytest.approx(false / n)
    assert found["false_negatives_known"] == pytest.approx(false_known / n)
    assert found["false_negatives_world"] == pytest.approx(false_known / n)  # (0, 4, 1) can never be drawn
    assert found["type_valid"] == pytest.approx(typed / n)
    assert found["unseen"] == pytest.approx(1 / 3)  # entity 20
    assert found["entropy"] == pytest.approx(math.log(3) / math.log(40))
    assert found["coverage"] == pytest.approx(3 / 40)
    assert found["distinct"] == pytest.approx(3 / n)


def test_uniform_has_the_figures_of_its_distribution():
    dataset = toy()
    diagnosis = diagnosis_of(fakes.Stateless, dataset)
    measured = diagnosis.measure()
    found = measured["figures"]
    assert found["false_negatives_train"] == 0
    ranked = sum(int(block["counted"].sum()) for block in measured["drawn"])
    deviation = 1 / math.sqrt(12 * ranked)  # spec L5: of a mean of independent uniform percentiles
    assert ranked >= 512
    assert abs(found["hardness_now"] - 0.5) < 4 * deviation
    assert abs(diagnosis.hardness(measured, diagnosis.trainer.scoring()) - found["hardness_now"]) < 1e-6
    assert found["entropy"] > 0.98
    assert found["coverage"] == 1


@pytest.mark.parametrize("sides", ["per_row", "per_slot", "alternate"])
def test_percentile_against_counting(sides):
    dataset = toy()
    config = configure("uniform", "distmult", "toy", protocol="quick", settings=[*SHORT, f"protocol.sides={sides}"])
    trainer = Trainer(config, dataset)
    with torch.no_grad():
        trainer.kge.entity.round_(decimals=1)  # many ties
        trainer.kge.entity[5:15] = trainer.kge.entity[4]
    scoring, graph = trainer.scoring(), trainer.graph
    positives = graph.positives(torch.arange(0, 128, 5), torch.arange(26) % 3 == 0 if sides == "alternate" else None)
    block = trainer.draw(positives, torch.Generator().manual_seed(1))[0]
    found = percentile(scoring, graph, positives, block.side, block.ids)
    facts = set(map(tuple, dataset.train.tolist()))
    for row, (h, r, t) in enumerate(positives.hrt.tolist()):
        for slot in range(4):
            head = bool(block.side[row] if block.side.dim() == 1 else block.side[row, slot])
            side = torch.tensor([head])
            anchor = torch.tensor([t if head else h])
            every = scoring.all(anchor, torch.tensor([r]), side)[0].tolist()
            others = [every[e] for e in range(40) if ((e, r, t) if head else (h, r, e)) not in facts]
            own = every[block.ids[row, slot]]
            expected = (sum(x < own for x in others) + 0.5 * sum(x == own for x in others)) / len(others)
            assert found[row, slot].item() == pytest.approx(expected, abs=1e-6)


class Answers(Sampler):
    """Generates the answer's own vector and, for the second half, the vector of entity 20, which is in no fact."""

    filtered = False

    def sample(self, positives, view):
        side = torch.zeros(len(positives), dtype=torch.bool)
        ids = torch.cat([positives.t.unsqueeze(1).expand(-1, 2), torch.full((len(positives), 2), 20)], dim=1)
        return Negatives(side, generated=Generated(view.vectors(ids) + 1e-4))


def test_generated_vectors_are_judged_by_the_nearest_entity():
    diagnosis = diagnosis_of(Answers, toy())
    measured = diagnosis.measure()
    found = measured["figures"]
    assert found["generated_false_negatives_train"] == pytest.approx(0.5)
    assert found["generated_unseen"] == pytest.approx(0.5)
    assert found["generated_type_valid"] == pytest.approx(0.5)
    assert 0 < found["generated_hardness_now"] < 1
    assert "entropy" not in found
    assert diagnosis.hardness(measured, diagnosis.trainer.scoring()) is None


def test_slots_without_an_entry_take_no_part_in_the_nearest_entity():
    class Slotted(Sampler):
        filtered = False

        def sample(self, positives, view):
            vectors = view.slots(positives.t).unsqueeze(1).repeat(1, 4, 1, 1)
            mask = view.slot_mask(positives.t)
            vectors[~mask.unsqueeze(1).expand(vectors.shape[:3])] = torch.nan
            return Negatives(torch.zeros(len(positives), dtype=torch.bool), generated=Generated(vectors, mask))

    with registered(FUSIONS, "slots", fakes.Slots):
        found = diagnosis_of(Slotted, toy(features=True), fusion="slots").measure()["figures"]
    assert found["generated_false_negatives_train"] == 1  # the answers themselves, whatever they lack


STATEFUL = {"uniform", "nscaching", "igan", "mmrns", "dhns", "mans"}  # each keeps something else; others like one of these


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in STATEFUL)) for n in SAMPLING])
def test_measuring_leaves_no_trace(name, tmp_path):
    """Ranks, the sampler's own figures and its seconds' place: all as without."""
    with_it, without = planned(name), planned(name)
    dataset = campaign.dataset_of(with_it)
    one = execute(with_it, dataset, tmp_path / "with")
    other = execute(without, dataset, tmp_path / "without", RunOptions(diagnose=False))
    a, b = np.load(one.path / "ranks.npz"), np.load(other.path / "ranks.npz")
    assert np.array_equal(a["ranks"], b["ranks"])
    assert one.result()["diagnostics"]["sampler"] == other.result()["diagnostics"]["sampler"]
    assert set(one.result()["diagnostics"]) == {"sampler", "reference", "start", "middle", "end"}
    assert set(other.result()["diagnostics"]) == {"sampler"}


@pytest.mark.filterwarnings("ignore:dhns:UserWarning")
def test_pulls_of_a_loss_of_many_parts_are_shares_and_leave_no_trace(tmp_path):
    settings = ["sampler.timesteps=10", "aux.diffusion=0.5", "aux.diffusion.timesteps=10"]
    one, other = planned("dhns_released", *settings), planned("dhns_released", *settings)
    dataset = campaign.dataset_of(one)
    one = execute(one, dataset, tmp_path / "with")
    other = execute(other, dataset, tmp_path / "without", RunOptions(diagnose=False))
    assert np.array_equal(np.load(one.path / "ranks.npz")["ranks"], np.load(other.path / "ranks.npz")["ranks"])
    pulls = {name: x for name, x in one.result()["diagnostics"]["end"].items() if name.startswith("pull_")}
    assert set(pulls) == {"pull_drawn", "pull_generated", "pull_feedback", "pull_diffusion"}
    assert sum(pulls.values()) == pytest.approx(1)
    assert all(x > 0 for x in pulls.values())


def test_pulls_by_hand():
    """Two linear auxiliaries, whose gradients are constants; the drawn negatives count nothing."""

    class Silent(Constant):
        def sample(self, positives, view):
            return dataclasses.replace(super().sample(positives, view), coef=0.0)

    class Linear(Auxiliary):
        requires = frozenset({Need.LIVE})
        row = 3

        def loss(self, positives, view):
            return 2 * view.scoring.entity[self.row].sum()

    class OtherLinear(Linear):
        row = 5

        def loss(self, positives, view):
            return super().loss(positives, view) + 2 * view.scoring.relation[0].sum()

    with registered(AUXILIARIES, "one", Linear), registered(AUXILIARIES, "other", OtherLinear):
        found = diagnosis_of(Silent, toy(), "aux.one=3", "aux.other=1").measure()["figures"]
        assert not any(name.startswith("pull") for name in diagnosis_of(Constant, toy()).measure()["figures"])
    norms = {"drawn": 0.0, "one": 3 * 2 * 8**0.5, "other": 2 * 16**0.5}
    for name, norm in norms.items():
        assert found[f"pull_{name}"] == pytest.approx(norm / sum(norms.values()))


@pytest.mark.parametrize("name", ["Cache", "Memory", "Alternating", "StraightThrough"])
def test_measuring_leaves_no_trace_of_outsiders(name):
    dataset = toy()
    with registered(SAMPLERS, "subject", getattr(fakes, name)):
        config = configure("subject", "distmult", "toy", protocol="quick", settings=SHORT)
        plain, watched = Trainer(config, dataset), Trainer(config, dataset)
        diagnosis = Diagnosis(watched, dataset)
        for trainer in (plain, watched):
            trainer.pretrain()
        for _ in range(6):
            diagnosis.measure()
            plain.step()
            watched.step()
    for (key, x), y in zip(plain.model_state().items(), watched.model_state().values()):
        assert torch.equal(x, y), key
    assert str(plain.sampler.state_dict()) == str(watched.sampler.state_dict())


def test_hardness_refers_to_uniform_of_seed_0(tmp_path):
    def diagnostics(config):
        return execute(config, campaign.dataset_of(config), tmp_path).result()["diagnostics"]

    early = diagnostics(planned("nscaching"))
    assert early["reference"] is None
    assert "hardness" not in early["end"]
    uniform = diagnostics(planned("uniform"))
    late = diagnostics(planned("nscaching", seed=1))
    assert uniform["reference"] == late["reference"]
    assert late["reference"].startswith("uniform-transe-planted_small-s0-")
    for moment in ("start", "middle", "end"):
        assert abs(uniform[moment]["hardness"] - 0.5) < 4 / math.sqrt(12 * 512 * 4)
    assert abs(late["end"]["hardness_now"] - late["end"]["hardness"]) > 1e-3  # two models, two orders
    other = diagnostics(planned("nscaching", "protocol.width=10"))  # another cell
    assert other["reference"] is None
    assert [late[m]["step"] for m in ("start", "middle", "end")] == [0, 10, 20]


def test_a_stopped_run_measures_each_moment_once(tmp_path):
    config = planned("nscaching")
    dataset = campaign.dataset_of(config)
    whole = execute(config, dataset, tmp_path / "whole").result()["diagnostics"]
    questions = iter(range(1000))
    with pytest.raises(Interrupted):
        execute(config, dataset, tmp_path / "cut", stopping=lambda: next(questions) > 12)
    resumed = execute(config, dataset, tmp_path / "cut").result()
    assert 10 <= resumed["resumed_at"] < 20
    assert resumed["diagnostics"] == whole


def test_objectives_draw_nothing(tmp_path: Path):
    config = planned("one_vs_all")
    folder = execute(config, campaign.dataset_of(config), tmp_path)
    assert json.loads((folder.path / "result.json").read_text())["diagnostics"] == {}
