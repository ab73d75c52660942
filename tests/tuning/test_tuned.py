"""`nsbench tune`: from the command to the protocol file, its runs and the caption."""

import functools
import math
import re
import signal
import sys
import tomllib
from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studying import BASE, CELL, plan

from nsbench.campaign import plan as campaign
from nsbench.campaign import sweep
from nsbench.config import run as config
from nsbench.files import write_text
from nsbench.runs import runner
from nsbench.tuning import tuned as writing
from nsbench.tuning.space import space_hash
from nsbench.tuning.trials import tune

configure = functools.partial(config.configure, identify=campaign.identify)  # which reads a dataset once


def tau(config):
    """Highest, 1, at a temperature of 0.1."""
    return 1 / (1 + abs(math.log10(config.sampler_options.tau) + 1)) if config.sampler == "nscaching" else 0.5


def test_what_was_chosen_is_what_runs_get(base, ledger, pretend, tmp_path):
    pretend(tau)
    studies = plan(base, ledger, ["uniform", "nscaching"], 6)
    tune(studies)
    tuned = tmp_path / "tuned.toml"
    write_text(tuned, writing.protocol_text(studies, tuned))
    backbone, own = studies[0].best()[1].values, studies[2].best()[1].values

    run = configure("nscaching", *CELL, protocol=str(tuned))
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
        "space": space_hash(studies[2].space),
        "chosen": own,
    }
    record = run.record(campaign.dataset_of(run))
    assert record["tuning"] == run.tuning
    assert config.from_record(record).record(campaign.dataset_of(run)) == record
    uniform = configure("uniform", *CELL, protocol=str(tuned))
    assert (uniform.tuning["budget"], uniform.tuning["trials"], uniform.tuning["chosen"]) == (6, 1, {})
    yardstick = runner.reference_of(run, campaign.dataset_of(run), tmp_path)
    assert yardstick.path == campaign.folder_of(uniform, tmp_path).path

    untuned = configure("igan", *CELL, protocol=str(tuned))
    assert (untuned.tuning["budget"], untuned.tuning["trials"], untuned.tuning["chosen"]) == (6, 0, {})
    variant = configure("nscaching", *CELL, protocol=str(tuned), settings=["sampler.variant=released"])
    assert (variant.sampler_options.cache, variant.sampler_options.tau, variant.tuning["trials"]) == (30, 1.0, 0)
    other = configure("nscaching", *CELL, protocol=str(tuned), settings=["sampler.tau=7"])
    assert (other.sampler_options.tau, other.sampler_options.cache) == (7.0, own["sampler.cache"])
    assert other.tuning["trials"] == 0
    for different in ({"fusion": "adamf"}, {"settings": ["aux.diffusion=1"], "fusion": "none"}):
        same = configure("nscaching", *CELL, protocol=str(tuned), **different)
        assert (same.tuning["trials"], same.tuning["chosen"], same.sampler_options.tau) == (0, {}, 1.0)
    for alike in ({"split": "released"}, {"features": "none"}):  # the same graph, and no features are read
        assert configure("nscaching", *CELL, protocol=str(tuned), **alike).tuning == run.tuning
    elsewhere = configure("nscaching", "distmult", CELL[1], protocol=str(tuned))
    resolved = config.resolve_protocol(base, config.Cell("distmult", CELL[1]), {})
    assert (elsewhere.sampler_options.tau, elsewhere.tuning["trials"]) == (1.0, 0)
    assert elsewhere.protocol.learning_rate == resolved.learning_rate
    assert configure("nscaching", *CELL, protocol=base).tuning is None
    grid = tmp_path / "grid.toml"
    cell = f'sampler = "nscaching"\nkge = "{CELL[0]}"\ndataset = "{CELL[1]}"\n'
    grid.write_text(f'[[grid]]\n{cell}protocol = "{tuned}"\nseeds = 1\n')
    assert sweep.read(str(grid)) == [run]


def test_from_the_command_to_the_caption(command, base, tmp_path):
    tuned = tmp_path / "tuned.toml"
    first = ["tune", "--sampler", "uniform,nscaching", "--kge", "transe,distmult", "--dataset", "planted:small"]
    first += ["--protocol", base, "--trials", "2", "--threads", "1", "-o", str(tuned)]
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


@pytest.mark.slow
def test_backbones_tuned_alike_stand_in_one_table(command, base, tmp_path):
    tuned = tmp_path / "tuned.toml"
    cell = ["--sampler", "uniform,nscaching", "--dataset", "planted:small"]
    said = command("tune", *cell, "--protocol", base, "--trials", "2", "--backbone", "alike", "-o", str(tuned))
    assert said.code == 0, said.err
    assert "unused" not in said.out
    chosen = tomllib.loads(tuned.read_text())["tuning"]["studies"]
    for sampler in ("uniform", "nscaching"):
        values = chosen[f"{sampler}/transe/planted:small@932db2ef"]["chosen"]
        run = configure(sampler, *CELL, protocol=str(tuned))
        assert run.protocol.learning_rate == values["protocol.learning_rate"]
        assert run.protocol.margin == values["protocol.margin"]
        assert run.changed == {}
        yardstick = runner.reference_of(run, campaign.dataset_of(run), tmp_path)
        assert yardstick.path.name.startswith("uniform-transe-planted_small-s0-")
        assert yardstick.path == campaign.folder_of(configure("uniform", *CELL, protocol=str(tuned)), tmp_path).path
    text = tuned.read_text().replace(  # two backbones that differ for certain
        f'"protocol.margin" = {chosen["uniform/transe/planted:small@932db2ef"]["chosen"]["protocol.margin"]}\n',
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


@settings(max_examples=30)
@given(st.text() | NUMBERS | st.booleans())
def test_values_survive_the_file(value):
    found = tomllib.loads(f"[{writing._toml(str(value))}]\nx = {writing._toml(value)}\n")
    assert found == {str(value): {"x": value}}
    assert type(found[str(value)]["x"]) is type(value)


# What is amiss


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--sampler", "unifrom"], "'unifrom'"),
        (["--trials", "0"], "--trials"),
        (["--backbone", "thawed"], "'thawed'"),
        (["-o", "tuned.json"], "'tuned.json'"),
        (["-o", "cpu.toml"], "cpu.toml"),
        (["-o", "nowhere/tuned.toml"], "nowhere"),
        (["-o", "mine.toml"], "mine.toml"),
        (["--sampler", "mans", "--fusion", "none"], "mans"),
        (["--protocol", "big.toml"], "1000000"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(command, tmp_path, monkeypatch, options, culprit):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(BASE)
    (tmp_path / "big.toml").write_text(BASE.replace("64", "1000000"))
    said = command("tune", "--dataset", "planted:small", "--protocol", "mine.toml", *options)
    assert said.code == 2
    assert culprit in said.err
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
    call = ["tune", "--sampler", "igan", "--dataset", "planted:small", "--protocol", base, "--trials", "2"]
    call += ["-o", str(tmp_path / "tuned.toml")]
    stopped = command(*call)
    assert stopped.code == 130
    assert "the same command goes on" in stopped.err
    (checkpoint,) = (tmp_path / "tune.trials").glob("*/checkpoint.pt")
    assert not (tmp_path / "tuned.toml").exists()
    assert command(*call).code == 0
    assert steps.left == 8 - 4 * 12  # nothing was trained twice
    assert not checkpoint.exists()
