"""`nsbench tune`: equal budgets, a sequence that no kill and no second process changes, and no look at the test split."""

import dataclasses
import itertools
import math
import multiprocessing
import os
import re
import signal
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nsbench
from nsbench.campaign import plan as campaign
from nsbench.campaign import sweep
from nsbench.config import run as config
from nsbench.errors import Diverged, Misuse, RunFailed, StoreFailed
from nsbench.options import Range, build_options, searched
from nsbench.registry import SAMPLERS
from nsbench.runs import runner
from nsbench.runs.runner import RunOptions
from nsbench.tuning import tune

CELL = ("transe", "planted:small")
BASE = 'version = 1\nextends = "quick"\nsteps = 12\nvalidate_every = 6\nbatch = 64\nwidth = 8\n'


@pytest.fixture
def base(tmp_path):
    """A protocol of a fraction of a second."""
    path = tmp_path / "base.toml"
    path.write_text(BASE)
    return str(path)


@pytest.fixture
def ledger(tmp_path):
    return tune.Ledger(tmp_path / "tune.db")


def plan(base, samplers, trials, models=("transe",), **more):
    return tune.studies(tune.Tuning(base, trials, **more), samplers, models, ["planted:small"])


@pytest.fixture
def pretend(monkeypatch):
    """pretend(f) replaces the training of a trial by f(config) -> MRR; it records the configurations."""
    seen = []

    def install(mrr):
        def select(config, dataset, folder, *_):
            seen.append(config)
            return {"valid": {"mrr": mrr(config)}, "seconds": 1.0}

        monkeypatch.setattr(tune, "select", select)
        return seen

    return install


def in_storage(file):
    """Of the storage, by Optuna alone: study -> [(number, state, value, parameters)], in their order of number."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    found = {}
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        found[study.study_name] = sorted(
            (t.user_attrs["number"], t.state.name, t.value, tuple(sorted(t.params.items()))) for t in trials
        )
    return found


def tau(config):
    """Highest, 1, at a temperature of 0.1."""
    return 1 / (1 + abs(math.log10(config.sampler_options.tau) + 1)) if config.sampler == "nscaching" else 0.5


# The budget


@pytest.mark.parametrize("backbone", ["frozen", "alike"])
def test_every_sampler_has_the_same_budget(base, ledger, backbone):
    tune.carry_out(
        plan(base, ["uniform", "nscaching", "igan"], 3, backbone=backbone), ledger, options=RunOptions(device="cpu")
    )
    found = in_storage(ledger.file)
    assert all([number for number, *_ in trials] == list(range(len(trials))) for trials in found.values())
    count = sorted((name.partition("-")[0], len(trials)) for name, trials in found.items())
    frozen = [("igan", 3), ("nscaching", 3), ("uniform", 1), ("uniform", 3)]  # uniform has nothing to choose then
    assert count == (frozen if backbone == "frozen" else [("igan", 3), ("nscaching", 3), ("uniform", 3)])
    records = [config.from_record(tune.json.loads(p.read_text())) for p in ledger.folder.glob("*/config.json")]
    assert {record.protocol.steps for record in records} == {12}
    assert {record.seed for record in records} == {tune.TRIAL_SEED}
    # as many as there are trials: no configuration was tried twice, and uniform's one is the backbone's best
    assert len(records) == 9
    assert not list(ledger.folder.glob("*/checkpoint.pt"))


def test_the_length_of_a_trial_can_be_set(base, ledger, pretend):
    seen = pretend(lambda config: 0.5)
    tune.carry_out(plan(base, ["igan"], 2, steps=7), ledger)
    assert {config.protocol.steps for config in seen} == {7}
    assert "steps = 7\n" in tune.protocol_text(plan(base, ["igan"], 2, steps=7), ledger, Path("tuned.toml"))


def test_a_small_space_is_exhausted_and_what_is_unused_is_said(base, ledger, pretend):
    seen = pretend(lambda config: 0.5)
    studies = plan(base, ["ns_kge"], 8, models=["distmult"])
    tune.carry_out(studies, ledger)
    assert sorted(c.sampler_options.balance for c in seen if c.sampler == "ns_kge") == [0.1, 1.0, 10.0, 100.0]
    backbone, own = tune.summary(studies, ledger)
    assert "backbone: 8 of 8 trials;" in backbone
    assert "4 of 8 trials, 4 unused: its space has 4 points" in own


def test_a_failed_trial_is_recorded_counts_and_is_not_chosen(base, ledger, pretend):
    def fails(config):
        if config.sampler == "igan" and config.sampler_options.margin != 1.0:
            raise Diverged("scores are not finite")
        return 0.5

    pretend(fails)
    studies = plan(base, ["igan"], 6)
    tune.carry_out(studies, ledger)
    (trials,) = (trials for name, trials in in_storage(ledger.file).items() if name.startswith("igan"))
    failed = [dict(values)["sampler.margin"] for _, state, value, values in trials if state == "FAIL" and value is None]
    assert len(trials) == 6
    assert 0 < len(failed) == studies[1].failed(ledger)
    assert len(failed) == sum(dict(values)["sampler.margin"] != 1.0 for *_, values in trials)
    assert studies[1].best(ledger)[1].values["sampler.margin"] == 1.0
    assert f"{len(failed)} failed" in tune.summary(studies, ledger)[1]
    written = tomllib.loads(tune.protocol_text(studies, ledger, Path("tuned.toml")))
    assert written["tuning"]["studies"]["igan/transe/planted:small"]["failed"] == len(failed)


def test_a_sampler_whose_trials_all_fail_is_named_with_the_reason(base, ledger, pretend):
    def fails(config):
        raise ValueError("no neighbours at all")

    pretend(fails)
    with pytest.raises(RunFailed, match=r"all 2 trials of uniform-transe-planted:small backbone failed .*no neighbours"):
        tune.carry_out(plan(base, ["igan"], 2), ledger)


def test_out_of_memory_is_the_machines_doing(base, ledger, pretend):
    def crowded(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    pretend(crowded)
    with pytest.raises(RunFailed, match=r"uniform-transe-planted:small backbone, trial 0: out of memory; .*, or try again"):
        tune.carry_out(plan(base, ["igan"], 2), ledger)
    assert in_storage(ledger.file) == {}
    pretend(lambda config: 0.5)
    tune.carry_out(plan(base, ["igan"], 2), ledger)
    assert {state for trials in in_storage(ledger.file).values() for _, state, *_ in trials} == {"COMPLETE"}


def test_what_a_killed_process_left_beside_an_ended_trial_is_removed(base, ledger, pretend):
    pretend(lambda config: 0.5)
    tune.carry_out(plan(base, ["igan"], 2), ledger)
    ended = sorted(path.parent for path in ledger.folder.glob("*/trial.json"))
    (ended[0] / "checkpoint.pt").write_bytes(b"")
    tune.carry_out(plan(base, ["igan"], 2), ledger)
    assert {path.name for folder in ended for path in folder.iterdir()} == {"trial.json"}


def test_a_full_disk_is_no_failed_trial(base, ledger, monkeypatch):
    def full(*arguments):
        raise StoreFailed("no space left")

    monkeypatch.setattr(tune, "select", full)
    with pytest.raises(StoreFailed):
        tune.carry_out(plan(base, ["igan"], 2), ledger)
    assert not any(in_storage(ledger.file).values())


def test_the_time_left_goes_by_each_samplers_own(base, ledger, monkeypatch):
    def select(config, dataset, folder, *_):
        return {"valid": {"mrr": 0.5}, "seconds": 30.0 if config.sampler == "igan" else 2.0}

    monkeypatch.setattr(tune, "select", select)
    studies = plan(base, ["igan", "nscaching"], 4)
    assert tune.expected(studies, ledger) is None
    tune.carry_out(studies[:1], ledger)
    assert tune.expected(studies, ledger) == 8 * 2.0
    for study in studies[1:]:
        tune.carry_out_one(study, 0, ledger, lambda *_: None)
    assert tune.expected(studies, ledger) == 3 * 30.0 + 3 * 2.0


# The sequence


def test_trials_begin_with_the_defaults_and_go_by_what_was_found(base, tmp_path, pretend):
    found = {}
    for target in (-2, 2):
        pretend(
            lambda config, target=target: (
                -abs(math.log10(config.sampler_options.tau) - target) if config.sampler == "nscaching" else 0.5
            )
        )
        ledger = tune.Ledger(tmp_path / f"{target}.db")
        tune.carry_out(plan(base, ["nscaching"], 7), ledger)
        (found[target],) = (
            [dict(values) for *_, values in trials]
            for name, trials in in_storage(ledger.file).items()
            if name.startswith("nscaching")
        )
    assert found[2][0] == found[-2][0] == {"sampler.cache": 50, "sampler.candidates": 50, "sampler.tau": 1.0}
    assert found[2][: tune.STARTUP + tune.LAG - 1] == found[-2][: tune.STARTUP + tune.LAG - 1]
    assert found[2] != found[-2]


def test_the_search_comes_closer_than_chance():
    space, distances = {"tau": Range(1e-2, 1e2)}, []
    for target, seed in itertools.product((-2, 2), range(4)):
        trials = [tune.Trial({"tau": 1.0}, 0.0)]
        while len(trials) < 20:
            history = trials[: len(trials) - tune.LAG + 1]
            values = tune.propose(space, history, [trial.values for trial in trials], seed)
            trials.append(tune.Trial(values, -abs(math.log10(values["tau"]) - target)))
        distances += [-trial.mrr for trial in trials[10:]]
    assert sum(distances) / len(distances) < 2 - 2 * 1.15 / math.sqrt(len(distances))  # at random: 2 +- 1.15 each


def test_all_samplers_try_the_same_random_backbones(base, ledger, pretend):
    pretend(lambda config: 0.5)
    tune.carry_out(plan(base, ["uniform", "nscaching", "igan"], tune.STARTUP, backbone="alike"), ledger)
    tried = [
        [{n: x for n, x in values if n.startswith("protocol.")} for *_, values in trials]
        for trials in in_storage(ledger.file).values()
    ]
    assert tried[0] == tried[1] == tried[2]
    assert len({str(values) for values in tried[0]}) == tune.STARTUP


def test_the_order_in_which_trials_end_changes_nothing(base, tmp_path, pretend):
    """As with two processes: trial n + 1 ends before trial n."""
    pretend(tau)
    straight, swapped = tune.Ledger(tmp_path / "a.db"), tune.Ledger(tmp_path / "b.db")
    tune.carry_out(plan(base, ["nscaching"], 6), straight)
    studies = plan(base, ["nscaching"], 6)
    for study, first in itertools.product(studies, range(0, 6, 2)):
        assert study.open(swapped) == [first, first + 1]
        for number in (first + 1, first):
            tune.carry_out_one(study, number, swapped, lambda *_: None)
    assert in_storage(swapped.file) == in_storage(straight.file)


def test_more_trials_go_on_from_those_that_are_there(base, tmp_path, pretend):
    seen = pretend(tau)
    grown, whole = tune.Ledger(tmp_path / "a.db"), tune.Ledger(tmp_path / "b.db")
    tune.carry_out(plan(base, ["nscaching"], 3, backbone="alike"), grown)
    tune.carry_out(plan(base, ["nscaching"], 7, backbone="alike"), grown)
    assert len(seen) == 7
    tune.carry_out(plan(base, ["nscaching"], 7, backbone="alike"), whole)
    assert in_storage(grown.file) == in_storage(whole.file)
    fewer = plan(base, ["nscaching"], 3, backbone="alike")  # its choice is among its own three
    assert len(fewer[0].done(grown)) == 3
    assert fewer[0].best(grown)[0] < 3


def test_another_seed_or_space_is_another_study(base, ledger, pretend, monkeypatch):
    pretend(tau)
    tune.carry_out(plan(base, ["nscaching"], 2), ledger)
    tune.carry_out(plan(base, ["nscaching"], 2, seed=1), ledger)
    assert len(in_storage(ledger.file)) == 4
    monkeypatch.setattr(
        tune, "searched", lambda options: {"tau": (1.0, 2.0)} if hasattr(options, "tau") else searched(options)
    )
    tune.carry_out(plan(base, ["nscaching"], 2), ledger)
    assert len(in_storage(ledger.file)) == 5


# Killed, and shared


@pytest.fixture(scope="module")
def start():
    """start(folder, kill, meeting) tunes there in a new process, which dies at the given place; returns that process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "nsbench.tuning.tune",
            "nsbench.datasets.planted",
            "scipy.spatial",
            "optuna.storages._rdb.storage",
        ]
    )

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
    trap(tune.Ledger, "add")
    trap(optuna.Study, "add_trial", after=True)
    trap(tune, "write")
    studies = plan(str(folder.parent / "base.toml"), ["igan", "nscaching"], 3)
    ledger = tune.Ledger(folder / "tune.db")
    tune.carry_out(studies, ledger, begin=begin, end=end, options=RunOptions(device="cpu", checkpoint_seconds=0))
    tune.write(folder / "tuned.toml", tune.protocol_text(studies, ledger, folder / "tuned.toml"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_shared_studies_end_like_an_undisturbed_one(start, base, tmp_path):
    alone, killed, shared = (tmp_path / name for name in ("alone", "killed", "shared"))
    meeting = multiprocessing.get_context("forkserver").Barrier(2)
    first, *two = start(alone), start(shared, meeting=meeting), start(shared, meeting=meeting)
    for kill in (("step", 5), ("_checkpoint", 20), ("add", 1), ("add_trial", 2), ("step", 17), ("write", 1)):
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
    studies = plan(base, [sampler], 2)
    tune.carry_out(studies, ledger, options=RunOptions(device="cpu"))
    assert all(study.ended(ledger) for study in studies)
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
    seen = campaign.dataset_of(plan(base, ["uniform"], 1)[0].configured({}, ledger), tested=False)
    campaign.loaded.cache_clear()
    known = {tuple(triple) for triple in seen.known.tolist()}
    assert known == {tuple(triple) for triple in torch.cat([whole.train, whole.valid]).tolist()} | {(0, 0, 0)}


# The protocol file, and what is said of it


def test_what_was_chosen_is_what_runs_get(base, ledger, pretend, tmp_path):
    pretend(tau)
    studies = plan(base, ["uniform", "nscaching"], 6)
    tune.carry_out(studies, ledger)
    tuned = tmp_path / "tuned.toml"
    tune.write(tuned, tune.protocol_text(studies, ledger, tuned))
    backbone, own = studies[0].best(ledger)[1].values, studies[2].best(ledger)[1].values

    run = config.configure("nscaching", *CELL, protocol=str(tuned))
    assert {n: getattr(run.sampler_options, n.removeprefix("sampler.")) for n in own} == own
    assert {n: getattr(run.protocol, n.removeprefix("protocol.")) for n in backbone} == backbone
    assert (run.protocol.name, run.protocol.steps, run.changed) == ("tuned", 12, {})
    assert run.tuning == {
        "base": "base",
        "budget": 6,
        "backbone": "frozen",
        "search": ledger.search,
        "seed": 0,
        "fusion": "none",
        "split": "",
        "features": "auto",
        "trials": 6,
        "failed": 0,
        "steps": 12,
        "space": tune.space_hash(studies[2].space),
        "chosen": own,
    }
    record = run.record(campaign.dataset_of(run))
    assert record["tuning"] == run.tuning
    assert config.from_record(record).record(campaign.dataset_of(run)) == record
    uniform = config.configure("uniform", *CELL, protocol=str(tuned))
    assert (uniform.tuning["budget"], uniform.tuning["trials"], uniform.tuning["chosen"]) == (6, 1, {})
    yardstick = runner.reference_of(run, campaign.dataset_of(run), tmp_path)
    assert yardstick.path == campaign.folder_of(uniform, tmp_path).path

    untuned = config.configure("igan", *CELL, protocol=str(tuned))
    assert (untuned.tuning["budget"], untuned.tuning["trials"], untuned.tuning["chosen"]) == (6, 0, {})
    variant = config.configure("nscaching", *CELL, protocol=str(tuned), settings=["sampler.variant=released"])
    assert (variant.sampler_options.cache, variant.sampler_options.tau, variant.tuning["trials"]) == (30, 1.0, 0)
    other = config.configure("nscaching", *CELL, protocol=str(tuned), settings=["sampler.tau=7"])
    assert (other.sampler_options.tau, other.sampler_options.cache) == (7.0, own["sampler.cache"])
    assert other.tuning["trials"] == 0
    for different in ({"split": "clean"}, {"features": "names"}, {"settings": ["aux.diffusion=1"], "fusion": "none"}):
        same = config.configure("nscaching", *CELL, protocol=str(tuned), **different)
        assert (same.tuning["trials"], same.tuning["chosen"], same.sampler_options.tau) == (0, {}, 1.0)
    elsewhere = config.configure("nscaching", "distmult", CELL[1], protocol=str(tuned))
    assert (elsewhere.sampler_options.tau, elsewhere.tuning["trials"]) == (1.0, 0)
    assert elsewhere.protocol.learning_rate == config.resolve_protocol(base, "distmult", CELL[1], {}).learning_rate
    assert config.configure("nscaching", *CELL, protocol=base).tuning is None
    grid = tmp_path / "grid.toml"
    cell = f'sampler = "nscaching"\nkge = "{CELL[0]}"\ndataset = "{CELL[1]}"\n'
    grid.write_text(f'[[grid]]\n{cell}protocol = "{tuned}"\nseeds = 1\n')
    assert sweep.read(str(grid)) == [run]


def test_what_the_protocol_fixes_is_not_tuned(tmp_path):
    path = tmp_path / "fixed.toml"
    path.write_text(BASE + "[sampler.nscaching]\ncache = 20\n")
    study = plan(str(path), ["nscaching"], 2)[1]
    assert set(study.space) == {"sampler.candidates", "sampler.tau"}


def test_a_range_of_whole_numbers_is_exhausted():
    space = {"sampler.size": Range(1, 3, log=False), "sampler.kind": ("a", "b")}
    assert tune.size(space) == 6
    assert tune.size({**space, "sampler.tau": Range(0.1, 1.0)}) == math.inf
    tried = []
    for _ in range(6):
        tried.append(tune.propose(space, [], tried, seed=0))
    assert sorted(tuple(values.values()) for values in tried) == [(n, kind) for n in (1, 2, 3) for kind in "ab"]


def test_a_default_outside_of_the_space_joins_it(tmp_path):
    path = tmp_path / "far.toml"
    path.write_text(BASE + "learning_rate = 0.5\nmargin = 7.5\n")
    space = plan(str(path), ["uniform"], 2)[0].space
    assert space["protocol.learning_rate"] == Range(1e-4, 0.5)
    assert 7.5 in space["protocol.margin"]
    path.write_text(BASE + "learning_rate = 0\n")
    with pytest.raises(Misuse, match=r"protocol\.learning_rate = 0 cannot be tuned by decades"):
        plan(str(path), ["uniform"], 2)


def test_from_the_command_to_the_caption(command, base, tmp_path):
    tuned = tmp_path / "tuned.toml"
    first = [
        "tune",
        "--sampler",
        "uniform,nscaching",
        "--kge",
        "transe,distmult",
        "--dataset",
        "planted:small",
        "--protocol",
        base,
        "--trials",
        "2",
        "--threads",
        "1",
        "-o",
        str(tuned),
    ]
    before = command(*first, "--plan")
    assert before.code == 0, before.err
    assert before.out.count("0 of 2 trials are done") == 4
    assert "sampler.tau: 0.01 to 100, by decades" in before.out
    said = command(*first)
    assert said.code == 0, said.err
    assert "uniform-transe-planted:small: 1 of 2 trials, 1 unused: it has no option to choose" in said.out
    assert "uniform-distmult-planted:small backbone: 2 of 2 trials" in said.out
    assert "left for the whole" in said.err
    assert "A new study" not in said.err  # Optuna's own words
    assert (tmp_path / "tune.db").exists()  # beside the run store
    again = command(*first)
    assert "0 of 10 trials are missing" in again.err
    assert again.out == said.out

    runs = ["run", "--kge", "transe,distmult", "--dataset", "planted:small", "--protocol", str(tuned), "--no-diagnostics"]
    assert command(*runs, "--sampler", "uniform,nscaching").code == 0
    assert command(*runs, "--sampler", "bernoulli").code == 0
    table = command("table", "--format", "md").out
    assert re.search(r"^\| +\| nscaching +\|", table, re.M)  # one row for both models, whatever was chosen for each
    words = (
        "Tuning budget: for each sampler 2 trials of 12 steps under protocol base, by validation MRR without the test split "
        f"(TPE of Optuna {optuna.__version__} after 5 trials, seed 0), of its own options, on the backbone that 2 such "
        "trials with uniform had chosen for all; where that exhausts the choice, fewer: uniform 1"
    )
    assert words in table
    assert re.search(r"Chosen by tuning: .*nscaching \(transe, planted:small\) cache=\d+, candidates=\d+, tau=\d", table)
    assert re.search(r"Not tuned, unlike the other rows: bernoulli \(\w+, planted:small\), bernoulli", table)
    refused = command("tune", "--protocol", str(tuned), "--dataset", "planted:small", "-o", str(tmp_path / "twice.toml"))
    assert (refused.code, "is tuned already; name the one that it extends, base" in refused.err) == (2, True)


def test_backbones_tuned_alike_stand_in_one_table(command, base, tmp_path):
    tuned = tmp_path / "tuned.toml"
    cell = ["--sampler", "uniform,nscaching", "--dataset", "planted:small"]
    said = command("tune", *cell, "--protocol", base, "--trials", "2", "--backbone", "alike", "-o", str(tuned))
    assert said.code == 0, said.err
    assert "unused" not in said.out
    chosen = tomllib.loads(tuned.read_text())["tuning"]["studies"]
    for sampler in ("uniform", "nscaching"):
        values = chosen[f"{sampler}/transe/planted:small"]["chosen"]
        run = config.configure(sampler, *CELL, protocol=str(tuned))
        assert run.protocol.learning_rate == values["protocol.learning_rate"]
        assert run.protocol.margin == values["protocol.margin"]
        assert run.changed == {}
        yardstick = runner.reference_of(run, campaign.dataset_of(run), tmp_path)
        assert yardstick.path.name.startswith("uniform-transe-planted_small-s0-")
        assert yardstick.path == campaign.folder_of(config.configure("uniform", *CELL, protocol=str(tuned)), tmp_path).path
    text = tuned.read_text().replace(  # two backbones that differ for certain
        f'"protocol.margin" = {chosen["uniform/transe/planted:small"]["chosen"]["protocol.margin"]}\n',
        '"protocol.margin" = 2.0\n',
        1,
    )
    tuned.write_text(text)
    cell += ["--protocol", str(tuned), "--no-diagnostics"]
    assert command("run", *cell).code == 0
    table = command("table", "--format", "md")
    assert table.code == 0, table.err
    assert "of its own options and the backbone's together" in table.out
    assert command("run", *cell, "--set", "protocol.margin=3", "--seed", "1").code == 0
    assert "differ in" in command("table", "--format", "md").err


def test_an_untuned_table_says_so(command):
    assert command("run", "--dataset", "planted:small", "--protocol", "quick", "--set", "protocol.steps=5").code == 0
    assert "Tuning budget: none." in command("table", "--format", "md").out


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)


@given(st.text() | NUMBERS | st.booleans())
def test_values_survive_the_file(value):
    found = tomllib.loads(f"[{tune._toml(str(value))}]\nx = {tune._toml(value)}\n")
    assert found == {str(value): {"x": value}}
    assert type(found[str(value)]["x"]) is type(value)


# What is searched

PUBLISHED = {  # numeric options for which the papers or their scripts give several values (shared/specs)
    "nscaching": {"cache", "candidates", "tau"},
    "kbgan": {"l2"},
    "igan": {"width", "learning_rate", "margin"},
    "sans": {"hops"},
    "mans": {"visual_epochs", "visual_share"},
    "ns_kge": {"balance"},
    "mmrns": {"exploration", "beta", "learning_rate"},
    "dhns": {"timesteps", "learning_rate", "weight"},
}


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_what_a_paper_tuned_has_a_space_of_values_that_the_option_takes(name):
    options = SAMPLERS.get(name).Options
    spaces = searched(options)
    assert PUBLISHED.get(name, set()) <= set(spaces)
    for option, search in spaces.items():
        values = search if isinstance(search, tuple) else (search.low, search.high)
        assert len(set(values)) == len(values) > 1
        for value in values:
            assert getattr(build_options(options, {option: value}, "sampler"), option) == value
        default = getattr(options(), option)
        assert tune.including(search, default, option) == search  # the default is one of them


@settings(max_examples=20)
@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6), st.booleans(), st.integers(0, 9))
def test_proposals_lie_in_their_range(low, high, log, seed):
    space = {"sampler.x": Range(low, high * 2, log), "sampler.y": Range(1, 9, log), "sampler.z": ("a", "b")}
    tried = []
    for _ in range(2):
        tried.append(tune.propose(space, [], tried, seed))
        assert low <= tried[-1]["sampler.x"] <= high * 2
        assert tried[-1]["sampler.y"] in range(1, 10)
        assert tried[-1]["sampler.z"] in ("a", "b")
    assert tried == [tune.propose(space, [], tried[:n], seed) for n in range(2)]


# What is amiss


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sampler", "unifrom"], "did you mean 'uniform'?"),
        (["--trials", "0"], "--trials"),
        (["--backbone", "thawed"], "'frozen', 'alike'"),
        (["-o", "tuned.json"], "its name ends in .toml, not 'tuned.json'"),
        (["-o", "cpu.toml"], "tables would take cpu.toml for the protocol cpu"),
        (["-o", "nowhere/tuned.toml"], "there is no folder nowhere"),
        (["-o", "mine.toml"], "mine.toml was not written by nsbench tune"),
        (["--sampler", "mans"], "needs two views of an entity"),
        (["--protocol", "big.toml"], "larger than the"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(command, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(BASE)
    (tmp_path / "big.toml").write_text(BASE.replace("64", "1000000"))
    said = command("tune", "--dataset", "planted:small", "--protocol", "mine.toml", *options)
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "tune.db").exists()


def test_a_storage_that_is_none_is_said_to_be(command, base, tmp_path):
    (tmp_path / "tune.db").write_text("not a database, " * 100)
    said = command("tune", "--dataset", "planted:small", "--protocol", base, "-o", str(tmp_path / "tuned.toml"))
    assert said.code == 1
    assert re.search(r"cannot use .*tune\.db: file is not a database; name another file with --storage", said.err)


def test_without_optuna_the_extra_is_named(command, base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = command("tune", "--dataset", "planted:small", "--protocol", base, "-o", str(tmp_path / "tuned.toml"))
    assert (said.code, 'pip install "nsbench[tune]"' in said.err) == (2, True)


def test_ctrl_c_leaves_a_checkpoint_and_the_command_goes_on(command, base, tmp_path, monkeypatch):
    real, steps = runner.Trainer.step, SimpleNamespace(left=8)

    def step(trainer):
        real(trainer)
        steps.left -= 1
        if steps.left == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runner.Trainer, "step", step)
    call = [
        "tune",
        "--sampler",
        "igan",
        "--dataset",
        "planted:small",
        "--protocol",
        base,
        "--trials",
        "2",
        "-o",
        str(tmp_path / "tuned.toml"),
    ]
    stopped = command(*call)
    assert stopped.code == 130
    assert "the same command goes on" in stopped.err
    (checkpoint,) = (tmp_path / "tune.trials").glob("*/checkpoint.pt")
    assert not (tmp_path / "tuned.toml").exists()
    assert command(*call).code == 0
    assert steps.left == 8 - 4 * 12  # nothing was trained twice
    assert not checkpoint.exists()
