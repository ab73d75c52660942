"""`nsbench sweep`: a file becomes the runs that it means, each once, and only what is missing is run."""

import itertools
import re
from pathlib import Path

import pytest

from nsbench.campaign import conduct, sweep
from nsbench.campaign import plan as campaign
from nsbench.config.protocol import Content, read_protocol
from nsbench.config.run import Config, from_record
from nsbench.errors import Busy, Misuse
from nsbench.options import non_default
from nsbench.results import store as stores
from nsbench.runs import claim

SMALL = """
protocol = "quick"
seeds = 1
set = ["protocol.steps=2", "protocol.width=8"]
[[grid]]
sampler = ["uniform", "bernoulli"]
kge = ["transe", "distmult"]
dataset = "planted:small"
"""
GRID = """
protocol = "quick"
seeds = 2
set = ["protocol.steps=20", "protocol.validate_every=10"]

[[grid]]
sampler = ["uniform", "bernoulli"]
kge = ["transe", "distmult"]
dataset = "planted:small"

[[grid]]
sampler = "uniform"
kge = ["transe"]
dataset = ["planted:small"]
seeds = [1, 7]
fusion = ["none", "adamf"]
aux = ["", "mat=0.1"]
"""


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    return str(file)


def test_paths_go_by_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(
        campaign, "identify", lambda name, split, features: Content(name, "")
    )  # nothing lies in these folders
    (tmp_path / "sub" / "graph").mkdir(parents=True)
    (tmp_path / "sub" / "planted").mkdir()  # the name of a dataset, which wins
    (tmp_path / "sub" / "mine.toml").write_text('extends = "quick"\nsteps = 7\n')
    (tmp_path / "sub" / "own.py").write_text("from nsbench.samplers.uniform import Uniform\nclass Own(Uniform): ...\n")
    text = """protocol = "mine.toml"
        [[grid]]
        sampler = ["uniform", "./own.py:Own"]
        kge = "transe"
        dataset = ["./graph", "graph", "planted", "~/graph", "/graph"]
        seeds = 1
        """
    (tmp_path / "sub" / "grid.toml").write_text(text)
    for folder, name, prefix in (
        (".", "sub/grid.toml", "sub/"),
        ("sub", "grid.toml", ""),
        ("sub", "../sub/grid.toml", "../sub/"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        configs = sweep.read(name)
        first = "./graph" if not prefix else f"{prefix}graph"
        assert configs[0].dataset == first
        assert [c.dataset for c in configs[::2]] == [first, "planted", "~/graph", "/graph"]  # graph is ./graph
        assert {c.sampler for c in configs} == {"uniform", f"{prefix}own.py:Own" if prefix else "./own.py:Own"}
        assert {c.protocol.steps for c in configs} == {7}


def test_every_list_is_a_factor_and_every_run_is_there_once(tmp_path):
    text = GRID.replace('aux = ["", "mat=0.1"]\n', "")
    configs = sweep.read(written(tmp_path, text))
    cells = [(c.sampler, c.kge, c.seed, c.fusion) for c in configs]
    first = list(itertools.product(["transe", "distmult"], [0, 1], ["uniform", "bernoulli"]))
    expected = [(sampler, kge, seed, "none") for kge, seed, sampler in first]
    expected += [("uniform", "transe", 7, "none"), ("uniform", "transe", 1, "adamf"), ("uniform", "transe", 7, "adamf")]
    assert cells == expected  # seed 1 without fusion is in both blocks
    assert all(c.protocol.steps == 20 and c.protocol.name == "quick" for c in configs)


def test_auxiliary_losses_are_a_factor(tmp_path):
    text = GRID.replace('["none", "adamf"]', '"adamf"')
    configs = [c for c in sweep.read(written(tmp_path, text)) if c.fusion == "adamf"]
    assert [(c.seed, dict(c.aux)) for c in configs] == [(1, {}), (7, {}), (1, {"mat": 0.1}), (7, {"mat": 0.1})]


def test_changes_are_a_factor_beside_what_is_set_for_all(tmp_path):
    text = GRID.replace('aux = ["", "mat=0.1"]', 'change = ["", "protocol.width=8, protocol.negatives=3"]')
    configs = [c for c in sweep.read(written(tmp_path, text)) if c.seed == 7 and c.fusion == "none"]
    assert [(c.protocol.steps, c.protocol.width, c.protocol.negatives) for c in configs] == [(20, 32, 8), (20, 8, 3)]


def test_seeds_default_to_the_protocols_own(tmp_path):
    text = '[[grid]]\nsampler = "uniform"\nkge = "transe"\ndataset = "planted:small"\nprotocol = "quick"\n'
    assert [c.seed for c in sweep.read(written(tmp_path, text))] == list(range(read_protocol("quick")["seeds"]))


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("", "[[grid]]"),
        ("grid = 3", "[[grid]]"),
        ("protokoll = 'cpu'\n[[grid]]", "'protokoll'"),
        ("[[grid]]\nsampler = 'uniform'\nkge = 'transe'", "dataset"),
        ("[[grid]]\nsamplers = 'uniform'", "'samplers'"),
        ("[[grid]]\nsampler = 3\nkge = 'transe'\ndataset = 'mkg_y'", "not 3"),
        ("[[grid]]\nsampler = 'unifrom'\nkge = 'transe'\ndataset = 'mkg_y'", "'unifrom'"),
        ("[[grid]]\nseeds = 'all'\nsampler = 'uniform'\nkge = 'transe'\ndataset = 'mkg_y'", "'all'"),
        ("[[grid]", "TOML"),
    ],
)
def test_what_is_amiss_is_said(tmp_path, text, culprit):
    with pytest.raises(Misuse, match=re.escape(culprit)):
        sweep.read(written(tmp_path, text))


def test_unknown_files_and_names():
    with pytest.raises(Misuse, match=r"no sweep file nowhere\.toml"):
        sweep.read("nowhere.toml")
    with pytest.raises(Misuse, match=r"did you mean 'classic'\?"):
        sweep.read("clasic")


@pytest.mark.parametrize("name", sweep.names())
def test_shipped_grids_are_well_formed(name):
    configs = sweep.read(name)
    assert len(configs) == len({repr(config) for config in configs})
    assert sweep.content(name)["description"]


RUNS = Path(__file__).parents[2] / "results" / "runs"
SHIPPED = sorted(RUNS.glob("*.nsb"))


def asked(config: Config, split: str) -> str:
    """What a run was asked to be. A protocol's version, its values and the sizes that it proposes may be others by now."""
    options = non_default(config.sampler_options)
    own = {name: value for name, value in options.items() if config.proposed.get(name) != value}
    parts = (config.name, config.fusion, config.variant, config.protocol.name, split, dict(config.changed), dict(config.aux))
    return repr((*parts, own, non_default(config.kge_options), config.wants_features))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_sweep_of_its_name_makes_a_shipped_store(file):
    """No run more, none less; and exactly those where the store was made with the protocol as it is."""
    made = {asked(c, c.split or ("clean" if c.dataset == "db15k" else "released")): c for c in sweep.read(file.stem)}
    shipped = {asked(c, c.split): c for c in (from_record(run.config) for run in stores.read(file).runs)}
    assert made.keys() == shipped.keys()
    for name, config in shipped.items():
        if config.protocol.version == made[name].protocol.version:
            assert config.protocol == made[name].protocol, name
    text = (RUNS / "README.md").read_text()
    assert f"    nsbench sweep {file.stem}\n" in text


def test_every_sweep_makes_what_is_shipped_or_is_said_to_be_for_more():
    text = (RUNS / "README.md").read_text()
    assert [name for name in sweep.names() if f"nsbench sweep {name}" not in text] == []


def test_the_command_runs_what_is_missing(command, tmp_path, store):
    file = written(tmp_path, SMALL)
    plan = command("sweep", file, "--plan", "--no-calibrate")
    assert plan.code == 0, plan.err
    assert plan.out.count("missing") == 4
    first = sweep.read(file)[0]
    campaign.carry_out(first, store)
    said = command("sweep", file, "--threads", "1", "--no-diagnostics")
    assert said.code == 0, said.err
    assert "1 of 4 runs were already done" in said.err
    assert command("sweep", file, "--plan", "--no-calibrate").out.strip().endswith("4 of 4 runs are done")


def test_a_run_of_another_process_is_left_to_it(command, tmp_path, store, monkeypatch):
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(conduct, "PATIENCE", 0.2)
    file = written(tmp_path, SMALL)
    theirs = campaign.folder_of(sweep.read(file)[1], store)
    with theirs.claimed():
        theirs.write_json("config.json", {})
        said = command("sweep", file, "--threads", "1", "--no-diagnostics")
        assert said.code == 0, said.err
        assert "1 runs are with other processes" in said.err
        with pytest.raises(Busy):
            campaign.carry_out(sweep.read(file)[1], store)
    assert not theirs.complete
    assert command("sweep", file, "--threads", "1", "--no-diagnostics").code == 0
    assert theirs.complete
