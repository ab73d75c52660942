"""Under its source's seed a replay is its source; under another it sees the same negatives; what cannot be is refused."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.config.run import Config, configure, from_record, replaying
from nsbench.contracts import Negatives
from nsbench.errors import Misuse, RunFailed
from nsbench.registry import SAMPLERS
from nsbench.results import compare, tables
from nsbench.runs import inspection
from nsbench.runs.folder import RunFolder
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted, RunOptions
from nsbench.testing.rules import registered, toy
from nsbench.training.replay import Replay, constant
from nsbench.training.trainer import Trainer
from tests.testing import fakes

SIZES = ["protocol.width=8", "protocol.batch=32", "protocol.negatives=4", "protocol.steps=60", "protocol.validate_every=20"]


def config(sampler: str, *settings: str, kge: str = "transe", fusion: str = "none") -> Config:
    return configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=[*SIZES, *settings])


def replay_of(source: Config, seed: int = 0) -> Replay:
    data = toy(features=source.wants_features)
    record = json.loads(json.dumps(source.record(data)))  # as a file holds it
    made = replaying(record, source.kge, "toy", protocol="quick", fusion=source.fusion, seed=seed)
    assert made.wants_features == source.wants_features
    return Replay(made, data)


def trained(trainer: Trainer, steps: int) -> dict[str, torch.Tensor]:
    trainer.pretrain()
    for _ in range(steps):
        trainer.step()
    return trainer.model_state()


def same(one: dict, other: dict) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("sampler", "kge", "fusion", "settings"),
    [
        ("uniform", "distmult", "none", ["protocol.sides=alternate", "protocol.subsampling=true"]),
        ("uniform", "transe", "adamf", ["aux.mat=0.3", "protocol.regularizer=0.001"]),
        ("nscaching", "rotate", "none", ["protocol.temperature=1"]),
        ("kbgan", "transe", "none", ["sampler.pretrain_epochs=2"]),
        ("igan", "transe", "none", ["sampler.turns=step"]),
        ("igan", "transe", "none", []),
        ("mans", "transe", "two_view", []),
        ("sans", "transe", "none", []),
    ],
)
def test_under_the_seed_of_its_source_it_is_its_source(sampler: str, kge: str, fusion: str, settings: list[str]) -> None:
    source = config(sampler, *settings, kge=kge, fusion=fusion)
    alone, replay = Trainer(source, toy(features=source.wants_features)), replay_of(source)
    expected = trained(alone, 25)
    assert same(trained(replay, 25), expected)
    assert same(replay.source.model_state(), expected)
    assert torch.equal(replay.loss_sum, alone.loss_sum)


def test_another_seed_has_other_initial_values_and_the_same_positives_and_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spied in the loss: what each model's step really scores."""
    source, seen = config("nscaching"), []
    real = Trainer._sampled_step

    def spy(trainer: Trainer, sampler, positives, scoring) -> None:
        block = scoring.block
        scoring.block = lambda p, b: seen.append((type(trainer), p.rows, b.side, b.ids.clone())) or block(p, b)
        real(trainer, sampler, positives, scoring)

    monkeypatch.setattr(Trainer, "_sampled_step", spy)
    replay = replay_of(source, seed=5)
    initial = replay.model_state()
    assert same(initial, Trainer(dataclasses.replace(source, seed=5), toy()).model_state())
    assert not same(initial, replay.source.model_state())
    trained(replay, 25)
    trained(Trainer(source, toy()), 25)
    of = {kind: [rest for who, *rest in seen if who is kind] for kind in {who for who, *_ in seen}}
    fresh, alone = of[Replay], of[Trainer]
    assert len(fresh) == len(alone) == 25
    assert all(torch.equal(a, b) for one, other in zip(fresh, alone) for a, b in zip(one, other))
    assert not same(replay.model_state(), replay.source.model_state())


def test_a_coupled_sampler_learns_from_the_sources_model_alone() -> None:
    source = config("mmrns")
    replay = replay_of(source, seed=1)
    assert replay.source.coupled
    assert not replay.coupled
    assert replay.sampler_adam is None
    trained(replay, 5)
    alone = Trainer(source, toy(features=True))
    trained(alone, 5)
    assert same(replay.source.model_state(), alone.model_state())
    assert replay.sampler_bytes() == alone.sampler_bytes()


def test_a_block_keeps_its_constants_and_nothing_of_the_sources_graph() -> None:
    leaf = torch.rand(2, 3, requires_grad=True)
    weight, ids = torch.rand(2, 3), torch.arange(6).view(2, 3)
    block = Negatives(
        torch.tensor([True, False]), ids=ids, delta=torch.rand(2, 3, 4), valid=ids > 0, weight=weight, margin_shift=leaf * 2,
        log_q=leaf.log(), reduce="weighted", positive="per_negative", coef=0.5, tape="private",
    )  # fmt: skip
    kept = constant(block)
    ids += 1  # the source's own, in its next step
    assert kept.ids.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(kept.weight, weight)
    assert torch.equal(kept.margin_shift, 2 * leaf.detach())
    assert torch.equal(kept.valid, block.valid)
    assert (kept.reduce, kept.positive, kept.coef) == ("weighted", "per_negative", 0.5)
    assert kept.delta is None
    assert kept.tape is None
    assert not kept.margin_shift.requires_grad
    assert not kept.log_q.requires_grad


def test_generated_vectors_are_refused_at_the_first_such_block() -> None:
    with registered(SAMPLERS, "generated", fakes.Generated):
        replay = replay_of(config("generated"))
        with pytest.raises(RunFailed, match="generates vectors in the space of its own model"):
            replay.step()


# Runs

OPTIONS = RunOptions(device="cpu")


def planned(sampler: str, store: Path, *settings: str, seed: int = 0, kge: str = "transe") -> Config:
    asked = settings or (() if sampler.startswith("replay:") else SIZES)
    (made,) = campaign.plan([sampler], [kge], ["planted:small"], [seed], protocol="quick", store=store, settings=asked)
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished run of nscaching, alone in its store."""
    store = tmp_path_factory.mktemp("store")
    return campaign.carry_out(planned("nscaching", store), store, OPTIONS)


def same_ranks(one: Result, other: Result) -> bool:
    a, b = one.ranks(), other.ranks()
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_ranks_are_those_of_the_source_under_its_seed(source: Result, tmp_path: Path) -> None:
    found = campaign.carry_out(planned("replay:nscaching", source.folder.parent), tmp_path, OPTIONS)
    assert same_ranks(found, source)
    for name in ("start", "middle", "end", "sampler"):
        assert found.record["diagnostics"][name] == source.record["diagnostics"][name]
    assert found.record["cost"]["sampler_state"] == source.record["cost"]["sampler_state"]
    with pytest.raises(Misuse, match="drew nothing itself"):
        inspection.inspect(found.folder, head="person 184", relation="spouse of", tail=None)


def test_a_replay_that_is_stopped_ends_as_if_it_had_not_been(source: Result, tmp_path: Path) -> None:
    """Stopped twice; the source's folder is gone by then."""
    store = tmp_path / "sources"
    shutil.copytree(source.folder, store / source.folder.name)
    made = planned("replay:nscaching", store, seed=1)
    undisturbed = campaign.carry_out(made, tmp_path / "undisturbed", OPTIONS)
    assert not same_ranks(undisturbed, source)
    shutil.rmtree(store)
    for steps in (10, 27):
        with pytest.raises(Interrupted):
            campaign.carry_out(made, tmp_path / "stopped", OPTIONS, stopping=after(steps))
    folder = campaign.folder_of(made, tmp_path / "stopped")
    made = from_record(json.loads((folder.path / "config.json").read_text()))  # it holds its source
    resumed = campaign.carry_out(made, tmp_path / "stopped", OPTIONS)
    assert resumed.folder == folder.path
    assert resumed.record["resumed_at"] > 10
    assert same_ranks(resumed, undisturbed)
    assert resumed.record["diagnostics"] == undisturbed.record["diagnostics"]


def after(steps: int) -> Callable[[], bool]:
    """A `stopping` that says yes from the question after so many on."""
    questions = itertools.count()
    return lambda: next(questions) >= steps


def test_the_identity_holds_the_sources_and_no_path(source: Result, tmp_path: Path) -> None:
    shutil.copytree(source.folder, tmp_path / "elsewhere")
    by_path = planned(f"replay:{tmp_path / 'elsewhere'}", tmp_path / "empty", seed=1)
    by_id = planned(f"replay:{source.record['config']['id']}", source.folder.parent, seed=1)
    data = campaign.dataset_of(by_path)
    record = by_path.record(data)
    assert record == by_id.record(data)
    assert str(tmp_path) not in json.dumps(record)
    assert record["options"]["sampler"] == {"of": "nscaching"}
    assert from_record(json.loads(json.dumps(record))).record(data) == record
    other = dataclasses.replace(by_path, replayed={**by_path.replayed, "id": "another"})
    assert other.record(data)["id"] != record["id"]
    told = dataclasses.replace(by_path, replayed={**by_path.replayed, "proposed": {}})  # not part of the source's id
    assert told.record(data)["id"] == record["id"]


def test_options_that_the_protocol_did_not_set_are_in_the_label() -> None:
    made = replay_of(config("sans", "sampler.variant=released", "sampler.hops=3"))
    assert made.config.sampler_options.of.startswith("sans released ")
    assert "hops=3" in made.config.sampler_options.of


def test_tables_and_contrasts_tell_a_replay_from_what_it_replays(source: Result, tmp_path: Path) -> None:
    shutil.copytree(source.folder, tmp_path / source.folder.name)
    for seed in (0, 1):
        campaign.carry_out(
            planned("replay:nscaching", tmp_path, seed=seed), tmp_path, RunOptions(device="cpu", diagnose=False)
        )
    assert {row.label for row in tables.comparison(tmp_path).rows} == {"nscaching", "replay (of=nscaching)"}
    said = compare.compare("sampler=replay,seed=0", "sampler=nscaching", tmp_path, {})
    assert "sampler (replay and nscaching)" in said
    assert "replayed" not in said


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"models": ["distmult"]}, "was trained with --kge transe, and its replay must be too, not with distmult"),
        ({"datasets": ["mkg_y"]}, "was trained on other data than mkg_y is here"),
        ({"protocol": "cpu"}, "was trained with --protocol quick"),
        ({"fusion": "adamf"}, "was trained with --fusion none"),
        ({"settings": ["protocol.steps=5"]}, "takes all options from its run"),
        ({"samplers": ["replay:no such run"]}, "no finished run in"),
        ({"samplers": ["replay"]}, "with --sampler replay:RUN"),
        ({"seeds": [-1]}, "the seed must be at least 0"),
    ],
)
def test_what_is_asked_otherwise_is_refused(source: Result, asked: dict, words: str) -> None:
    given = {"samplers": ["replay:nscaching"], "models": ["transe"], "datasets": ["planted:small"], "seeds": [0]}
    with pytest.raises(Misuse, match=words):
        campaign.plan(**{**given, "protocol": "quick", "store": source.folder.parent, **asked})


def test_a_run_that_cannot_be_made_again_is_refused(source: Result, tmp_path: Path) -> None:
    def refused(folder: Path, words: str) -> None:
        with pytest.raises(Misuse, match=words):
            planned(f"replay:{folder}", tmp_path)

    def changed(name: str, **changes) -> Path:
        shutil.copytree(source.folder, tmp_path / name)
        record = source.record["config"]
        RunFolder(tmp_path / name).write_json("result.json", {"config": {**record, **changes}})
        return tmp_path / name

    refused(changed("data", fingerprint="f00"), "on other data than planted:small")
    refused(changed("code", versions={**source.record["config"]["versions"], "sampler": 0}), "other versions of its parts")
    refused(changed("damaged", options=None), "is damaged")
    refused(
        changed("objective", sampler="one_vs_all", options={**source.record["config"]["options"], "sampler": {}}),
        "objective",
    )
    shutil.copytree(source.folder, tmp_path / "incomplete")
    (tmp_path / "incomplete" / "result.json").unlink()
    refused(tmp_path / "incomplete", "no finished run")
    replay = planned("replay:nscaching", source.folder.parent)
    twice = changed("twice")
    RunFolder(twice).write_json("result.json", {"config": replay.record(campaign.dataset_of(replay))})
    refused(twice, "is a replay itself")
