"""Trials: equal budgets, a sequence that no kill and no second process changes, and no look at the test split."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import tomllib
from pathlib import Path

import optuna
import pytest
import torch
from studying import CELL, in_storage, plan

import nsbench
from nsbench import files
from nsbench.campaign import plan as campaign
from nsbench.config import run as config
from nsbench.errors import Diverged, Misuse, RunFailed, StoreFailed
from nsbench.options import searched
from nsbench.runs import runner
from nsbench.runs.runner import RunOptions
from nsbench.tuning import study as studies_of
from nsbench.tuning import tuned
from nsbench.tuning.ledger import Ledger
from nsbench.tuning.space import LAG, STARTUP
from nsbench.tuning.trials import expected, one_trial, tune


def tau(config):
    """Highest, 1, at a temperature of 0.1."""
    return 1 / (1 + abs(math.log10(config.sampler_options.tau) + 1)) if config.sampler == "nscaching" else 0.5


def half(config):
    return 0.5


def trials_of(ledger, sampler):
    (trials,) = (trials for name, trials in in_storage(ledger.file).items() if name.startswith(sampler))
    return trials


# The budget


@pytest.mark.parametrize("backbone", ["frozen", "alike"])
def test_every_sampler_has_the_same_budget(base, ledger, backbone):
    tune(plan(base, ledger, ["uniform", "nscaching", "igan"], 3, backbone=backbone), RunOptions(device="cpu"))
    found = in_storage(ledger.file)
    assert all([number for number, *_ in trials] == list(range(len(trials))) for trials in found.values())
    count = sorted((name.partition("-")[0], len(trials)) for name, trials in found.items())
    frozen = [("igan", 3), ("nscaching", 3), ("uniform", 1), ("uniform", 3)]  # uniform has nothing to choose then
    assert count == (frozen if backbone == "frozen" else [("igan", 3), ("nscaching", 3), ("uniform", 3)])
    records = [config.from_record(json.loads(p.read_text())) for p in ledger.folder.glob("*/config.json")]
    assert {record.protocol.steps for record in records} == {12}
    assert {record.seed for record in records} == {studies_of.TRIAL_SEED}
    # as many as there are trials: no configuration was tried twice, and uniform's one is the backbone's best
    assert len(records) == 9
    assert not list(ledger.folder.glob("*/checkpoint.pt"))


def test_the_length_of_a_trial_can_be_set(base, ledger, pretend):
    seen = pretend(half)
    studies = plan(base, ledger, ["igan"], 2, steps=7)
    tune(studies)
    assert {config.protocol.steps for config in seen} == {7}
    assert "steps = 7\n" in tuned.protocol_text(studies, Path("tuned.toml"))


def test_a_small_space_is_exhausted_and_what_is_unused_is_said(base, ledger, pretend):
    seen = pretend(half)
    studies = plan(base, ledger, ["ns_kge"], 8, models=["distmult"])
    tune(studies)
    assert sorted(c.sampler_options.balance for c in seen if c.sampler == "ns_kge") == [0.1, 1.0, 10.0, 100.0]
    backbone, own = tuned.summary(studies)
    assert "8 of 8 trials;" in backbone
    assert "4 of 8 trials, 4 unused" in own


def test_a_failed_trial_is_recorded_counts_and_is_not_chosen(base, ledger, pretend):
    def fails(config):
        if config.sampler == "igan" and config.sampler_options.margin != 1.0:
            raise Diverged("scores are not finite")
        return 0.5

    pretend(fails)
    studies = plan(base, ledger, ["igan"], 6)
    tune(studies)
    trials = trials_of(ledger, "igan")
    failed = [dict(values)["sampler.margin"] for _, state, value, values in trials if state == "FAIL" and value is None]
    assert len(trials) == 6
    assert 0 < len(failed) == studies[1].failed()
    assert len(failed) == sum(dict(values)["sampler.margin"] != 1.0 for *_, values in trials)
    assert studies[1].best()[1].values["sampler.margin"] == 1.0
    assert f"{len(failed)} failed" in tuned.summary(studies)[1]
    written = tomllib.loads(tuned.protocol_text(studies, Path("tuned.toml")))
    assert written["tuning"]["studies"]["igan/transe/planted:small@932db2ef"]["failed"] == len(failed)


@pytest.mark.parametrize(
    ("reason", "error", "words"),
    [
        (ValueError("no neighbours at all"), RunFailed, r"uniform-transe-planted:small backbone .*no neighbours"),
        (RuntimeError("can't allocate memory: ..."), RunFailed, r"backbone, trial 0: out of memory"),
        (StoreFailed("no space left"), StoreFailed, "no space left"),
    ],
)
def test_failures_are_the_trials_or_the_machines(base, ledger, pretend, reason, error, words):
    """Of the machine's nothing is recorded: the same command goes on."""

    def fails(config):
        raise reason

    pretend(fails)
    with pytest.raises(error, match=words):
        tune(plan(base, ledger, ["igan"], 2))
    assert bool(in_storage(ledger.file)) == isinstance(reason, ValueError)
    if not in_storage(ledger.file):
        pretend(half)
        tune(plan(base, ledger, ["igan"], 2))
        assert {state for trials in in_storage(ledger.file).values() for _, state, *_ in trials} == {"COMPLETE"}


def test_what_a_killed_process_left_beside_an_ended_trial_is_removed(base, ledger, pretend):
    pretend(half)
    tune(plan(base, ledger, ["igan"], 2))
    ended = sorted(path.parent for path in ledger.folder.glob("*/trial.json"))
    (ended[0] / "checkpoint.pt").write_bytes(b"")
    tune(plan(base, ledger, ["igan"], 2))
    assert {path.name for folder in ended for path in folder.iterdir()} == {"trial.json"}


def test_the_time_left_goes_by_each_samplers_own(base, ledger, pretend):
    pretend(half, seconds=lambda config: 30.0 if config.sampler == "igan" else 2.0)
    studies = plan(base, ledger, ["igan", "nscaching"], 4)
    assert expected(studies) is None
    tune(studies[:1])
    assert expected(studies) == 8 * 2.0
    for study in studies[1:]:
        one_trial(study, 0)
    assert expected(studies) == 3 * 30.0 + 3 * 2.0


# The sequence


def test_trials_begin_with_the_defaults_and_go_by_what_was_found(base, tmp_path, pretend):
    found = {}
    for target in (-2, 2):
        pretend(lambda c, at=target: -abs(math.log10(c.sampler_options.tau) - at) if c.sampler == "nscaching" else 0.5)
        ledger = Ledger(tmp_path / f"{target}.db")
        tune(plan(base, ledger, ["nscaching"], 6))
        found[target] = [dict(values) for *_, values in trials_of(ledger, "nscaching")]
    assert found[2][0] == found[-2][0] == {"sampler.cache": 50, "sampler.candidates": 50, "sampler.tau": 1.0}
    assert found[2][: STARTUP + LAG - 1] == found[-2][: STARTUP + LAG - 1]
    assert found[2] != found[-2]


def test_all_samplers_try_the_same_random_backbones(base, ledger, pretend):
    pretend(half)
    tune(plan(base, ledger, ["uniform", "nscaching", "igan"], STARTUP, backbone="alike"))
    tried = [
        [{n: x for n, x in values if n.startswith("protocol.")} for *_, values in trials]
        for trials in in_storage(ledger.file).values()
    ]
    assert tried[0] == tried[1] == tried[2]
    assert len({str(values) for values in tried[0]}) == STARTUP


def test_the_order_in_which_trials_end_changes_nothing(base, tmp_path, pretend):
    """As with two processes: trial n + 1 ends before trial n."""
    pretend(tau)
    straight, swapped = Ledger(tmp_path / "a.db"), Ledger(tmp_path / "b.db")
    tune(plan(base, straight, ["nscaching"], 6, backbone="alike"))
    (study,) = plan(base, swapped, ["nscaching"], 6, backbone="alike")
    for first in range(0, 6, 2):
        assert study.open() == [first, first + 1]
        for number in (first + 1, first):
            one_trial(study, number)
    assert in_storage(swapped.file) == in_storage(straight.file)


def test_more_trials_go_on_from_those_that_are_there(base, tmp_path, pretend):
    seen = pretend(tau)
    grown, whole = Ledger(tmp_path / "a.db"), Ledger(tmp_path / "b.db")
    tune(plan(base, grown, ["nscaching"], 3, backbone="alike"))
    tune(plan(base, grown, ["nscaching"], 6, backbone="alike"))
    assert len(seen) == 6
    tune(plan(base, whole, ["nscaching"], 6, backbone="alike"))
    assert in_storage(grown.file) == in_storage(whole.file)
    fewer = plan(base, grown, ["nscaching"], 3, backbone="alike")  # its choice is among its own three
    assert len(fewer[0].done()) == 3
    assert fewer[0].best()[0] < 3


def test_another_seed_or_space_is_another_study(base, ledger, pretend, monkeypatch):
    pretend(tau)
    tune(plan(base, ledger, ["nscaching"], 2))
    tune(plan(base, ledger, ["nscaching"], 2, seed=1))
    assert len(in_storage(ledger.file)) == 4
    other = {"tau": (1.0, 2.0)}
    monkeypatch.setattr(studies_of, "searched", lambda options: other if hasattr(options, "tau") else searched(options))
    tune(plan(base, ledger, ["nscaching"], 2))
    assert len(in_storage(ledger.file)) == 5


# Killed, and shared


@pytest.fixture(scope="module")
def start():
    """start(folder, kill, meeting) tunes there in a new process, which dies at the given place; returns that process."""
    context = multiprocessing.get_context("forkserver")
    modules = ["nsbench.tuning.tuned", "nsbench.datasets.planted", "scipy.spatial", "optuna.storages._rdb.storage"]
    context.set_forkserver_preload(modules)

    def begin(folder, kill=("nowhere", 0), meeting=None):
        process = context.Process(target=drive, args=(folder, kill, meeting))
        process.start()
        return process

    return begin


def drive(folder, kill, meeting):
    """Tune and write the protocol file; the `kill[1]`-th passage of `kill[0]` is the last thing that the process does.

    In its first trial it waits for the others of the `meeting`, a barrier, to be in one too. Notes which trials it ended.
    """
    torch.set_num_threads(1)
    os.environ["NSBENCH_KERNELS"] = "eager"
    left = kill[1]

    def trap(owner, name, after=False):
        real = getattr(owner, name)

        def trapped(*args, **kwargs):
            nonlocal left
            if after:
                result = real(*args, **kwargs)
            if kill[0] == name:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result if after else real(*args, **kwargs)

        setattr(owner, name, trapped)

    meetings = [] if meeting is None else [meeting]

    def begin(study, number):
        if meetings:
            meetings.pop().wait(180)

    def end(study, number):
        with open(folder / "ended", "a") as file:
            file.write(f"{os.getpid()} {study.title}: {number}\n")

    trap(runner.Trainer, "step")
    trap(runner._Run, "_checkpoint", after=True)
    trap(Ledger, "add")
    trap(optuna.Study, "add_trial", after=True)
    trap(files, "write_text")
    studies = plan(str(folder.parent / "base.toml"), Ledger(folder / "tune.db"), ["igan", "nscaching"], 3)
    tune(studies, RunOptions(device="cpu", checkpoint_seconds=0), begin=begin, end=end)
    files.write_text(folder / "tuned.toml", tuned.protocol_text(studies, folder / "tuned.toml"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_shared_studies_end_like_an_undisturbed_one(start, base, tmp_path):
    alone, killed, shared = (tmp_path / name for name in ("alone", "killed", "shared"))
    meeting = multiprocessing.get_context("forkserver").Barrier(2)
    first, *two = start(alone), start(shared, meeting=meeting), start(shared, meeting=meeting)
    for kill in (("step", 5), ("_checkpoint", 20), ("add", 1), ("add_trial", 2), ("step", 17), ("write_text", 1)):
        process = start(killed, kill)
        process.join(180)
        assert process.exitcode == -signal.SIGKILL, kill
    for process in (first, *two, start(killed)):
        process.join(180)
        assert process.exitcode == 0
    for other in (killed, shared):
        assert in_storage(other / "tune.db") == in_storage(alone / "tune.db")
        assert (other / "tuned.toml").read_bytes() == (alone / "tuned.toml").read_bytes()
        assert {p.name for p in (other / "tune.trials").iterdir()} == {p.name for p in (alone / "tune.trials").iterdir()}
        assert {p.name for p in other.glob("tune.trials/*/*")} == {"config.json", "events.jsonl", "trial.json"}
    ended = [line.split(maxsplit=1) for line in (shared / "ended").read_text().splitlines()]
    assert {int(pid) for pid, _ in ended} == {process.pid for process in two}
    assert len(ended) == len({trial for _, trial in ended}) == 9
    assert sum(map(len, in_storage(alone / "tune.db").values())) == 9


# The test split


class Poison:
    def __getattr__(self, name):
        raise AssertionError(f"the test triples were asked for {name}")

    __len__ = __getitem__ = __iter__ = __array__ = lambda self, *arguments: self.poisoned  # looked up on the class


@pytest.mark.parametrize("sampler", ["nscaching", "sans"])
def test_no_trial_reads_a_test_triple(base, ledger, monkeypatch, sampler):
    poisoned = dataclasses.replace(campaign.load_dataset("planted:small"), test=Poison(), world=Poison())
    monkeypatch.setattr(campaign, "load_dataset", lambda *arguments, **how: poisoned)
    campaign.loaded.cache_clear()
    studies = plan(base, ledger, [sampler], 2)
    tune(studies, RunOptions(device="cpu"))
    assert all(study.ended() for study in studies)
    with pytest.raises(AssertionError, match="the test triples were asked for"):  # the poison works
        nsbench.run(sampler, *CELL, protocol=base, runs=ledger.folder)
    assert not list(ledger.folder.glob("*/ranks.npz"))
    campaign.loaded.cache_clear()


def test_no_trial_filters_by_a_test_triple(base, ledger, monkeypatch):
    """Neither those of the split nor those among the further facts, as the released valid of DB15K has them."""
    whole = campaign.load_dataset("planted:small")
    further = torch.cat([whole.test[:5], whole.train[:3], whole.test[:2], torch.tensor([[0, 0, 0]])])
    monkeypatch.setattr(campaign, "load_dataset", lambda *a, **how: dataclasses.replace(whole, extra_known=further))
    campaign.loaded.cache_clear()
    seen = campaign.dataset_of(plan(base, ledger, ["uniform"], 1)[0].configured({}), tested=False)
    campaign.loaded.cache_clear()
    known = {tuple(triple) for triple in seen.known.tolist()}
    assert known == {tuple(triple) for triple in torch.cat([whole.train, whole.valid]).tolist()} | {(0, 0, 0)}


@pytest.mark.parametrize("name", ["q?x=1/tune.db", "{x}.db", "a%20b é.db", "file:x?mode=ro", ":memory:", "a#b;c.db"])
def test_the_storage_is_the_file_that_was_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(Path(name))
    assert ledger.trials("none") == {}
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {name, str(ledger.file.with_suffix(".lock"))}


def test_a_name_that_no_database_can_have_is_refused(tmp_path):
    with pytest.raises(Misuse, match="cannot be the name of a database; give --storage a plainer one"):
        Ledger(tmp_path / "g\udce9.db").trials("none")
