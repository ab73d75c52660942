"""What things are goes by their content, whatever their names: graphs, plugins, protocols, and so the identity of a run."""

import shutil
from pathlib import Path

import pytest

from nsbench.campaign import plan as campaign
from nsbench.config.protocol import Cell, name_of, protocol_names, resolve_protocol, sizes_of
from nsbench.config.run import configure
from nsbench.config.tuned import dataset_key, study_key
from nsbench.datasets.loading import load_dataset
from nsbench.errors import Misuse
from nsbench.registry import same_component

TRAIN = "".join(f"e{i}\tr{i % 2}\te{(3 * i + 1) % 9}\n" for i in range(18))
TWIN = "from nsbench.samplers.uniform import Uniform\n\n\nclass Twin(Uniform):\n    pass\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the graph g, its copy of another name, another graph of its name, and a plugin."""
    campaign.forget()  # what g is in another test's folder
    monkeypatch.chdir(tmp_path)
    graph("g", TRAIN)
    shutil.copytree("g", "copy")
    graph("other/g", TRAIN.replace("e0\tr0", "e5\tr0"))
    Path("twin.py").write_text(TWIN)
    return tmp_path


def graph(folder: str, train: str) -> None:
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "train.tsv").write_text(train)
    (path / "valid.tsv").write_text("e0\tr1\te2\ne1\tr0\te3\n")
    (path / "test.tsv").write_text("e2\tr1\te0\ne4\tr1\te8\n")


def protocol(text: str, file: str = "mine.toml") -> str:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(f'extends = "quick"\nbatch = 4\n{text}')
    return file


def spellings(name: str) -> list[str]:
    return [f"./{name}", f"{name}/", f"{Path.cwd() / name}", f"other/../{name}"]


def margin(file: str, dataset: str, kge: str = "transe") -> float:
    return resolve_protocol(file, Cell(kge, dataset, identify=campaign.identify), {}).margin


# Graphs


@pytest.mark.parametrize("key", ["./g", "g", "copy", "transe/./g", "DIGITS", "transe/DIGITS"])
def test_a_cell_of_a_protocol_is_of_a_graph_and_not_of_a_spelling(key):
    key = key.replace("DIGITS", f"whatever@{load_dataset('./g').fingerprint[:8]}")
    file = protocol(f'[margin]\n"{key}" = 1.0\ndefault = 3.0\n')
    assert [margin(file, name) for name in [*spellings("g"), "./copy"]] == [1.0] * 5
    assert margin(file, "other/g") == 3.0
    assert margin(file, "planted:500") == 3.0


def test_paths_in_a_protocol_go_by_its_file_also_where_another_extends_it():
    protocol('[margin]\n"./g" = 1.0\ndefault = 3.0\n', "other/base.toml")
    Path("top.toml").write_text('extends = "other/base.toml"\n[margin]\n"./g" = 2.0\n')
    assert (margin("top.toml", "other/g"), margin("top.toml", "./g")) == (1.0, 2.0)
    for key in ("./gone", "transe/gone/too", "gone.py:Model"):
        with pytest.raises(Misuse, match=rf"\[margin\] is for '{key}', which is not there"):
            margin(protocol(f'[margin]\n"{key}" = 1.0\ndefault = 3.0\n'), "./g")
    with pytest.raises(Misuse, match=r"\[margin\] is for 'g' twice"):
        margin(protocol('[margin]\n"./g" = 1.0\ng = 2.0\ndefault = 3.0\n'), "./g")


def test_a_public_graph_has_its_name_in_any_folder_and_no_other_graph_has_it(no_files):
    data = load_dataset("mkg_y", features="none")
    Path("mine").mkdir()
    for part, names in (("entity", data.entities), ("relation", data.relations)):
        lines = "".join(f"{part}{i}\t{i}\n" for i in range(len(names)))
        Path(f"mine/{part}2id.txt").write_text(f"{len(names)}\n{lines}")
    for part in ("train", "valid", "test"):
        triples = getattr(data, part).tolist()
        lines = "".join(f"{h} {t} {r}\n" for h, r, t in triples)
        Path(f"mine/{part}2id.txt").write_text(f"{len(triples)}\n{lines}")
    with pytest.warns(UserWarning, match="mine holds the triples of mkg_y, and goes by that name"):
        assert load_dataset("./mine").name == "mkg_y"
    assert margin(protocol("[margin]\nmkg_y = 1.0\ndefault = 3.0\n"), "./mine") == 1.0
    shutil.copytree("g", "mkg_y")
    with pytest.warns(UserWarning, match=r"\./mkg_y is not the dataset mkg_y, but another graph; here it is mkg_y@"):
        assert load_dataset("./mkg_y").name == f"mkg_y@{load_dataset('./g').fingerprint[:8]}"
    assert margin("mine.toml", "./mkg_y") == 3.0
    with pytest.warns(UserWarning, match=r"mkg_y is the dataset of that name; for the folder mkg_y here write \./mkg_y"):
        assert load_dataset("mkg_y", features="none").fingerprint == data.fingerprint


# Plugins


def test_a_plugin_is_the_class_in_the_content_of_its_file():
    Path("sub").mkdir()
    shutil.copy("twin.py", "sub/renamed.py")
    Path("sub/twin.py").write_text(TWIN + "# edited\n")
    assert same_component("./twin.py:Twin", "sub/renamed.py:Twin")
    assert not same_component("twin.py:Twin", "sub/twin.py:Twin")
    assert not same_component("twin.py:Twin", "twin.py:Uniform")
    file = protocol('[sampler."sub/renamed.py:Twin"]\nk = 3\n')
    assert [sizes_of(file, name) for name in ("./twin.py:Twin", "sub/twin.py:Twin", "uniform")] == [{"k": 3}, {}, {}]


# Protocols


@pytest.mark.parametrize("name", protocol_names())
def test_a_copy_of_a_shipped_protocol_is_that_protocol(checkout, name):
    shutil.copy(checkout / "nsbench" / "config" / "protocols" / f"{name}.toml", "mine.toml")
    assert name_of("mine.toml") == name
    one, other = (configure("uniform", "transe", "planted:500", protocol=p) for p in (name, "mine.toml"))
    assert one == other
    Path("mine.toml").write_text(Path("mine.toml").read_text().replace("version = ", "version = 9"))
    assert name_of("mine.toml") == "mine"


def test_another_protocol_of_a_shipped_name_is_refused():
    with pytest.raises(
        Misuse, match=r"cpu.toml differs from protocol cpu, for which tables would take it; give the file an"
    ):
        configure("uniform", "transe", "planted:500", protocol=protocol("", "cpu.toml"))


# Runs


def identity(sampler="uniform", dataset="./g", file="mine.toml"):
    (config,) = campaign.plan([sampler], ["transe"], [dataset], [0], protocol=file)
    return campaign.folder_of(config, Path("runs")).path.name.rpartition("-")[2]


def test_names_of_ones_own_leave_a_run_what_it_is_and_content_does_not():
    protocol("")
    shutil.copy("mine.toml", "renamed.toml")
    shutil.copy("twin.py", "renamed.py")
    assert {identity(dataset=name) for name in [*spellings("g"), "./copy"]} | {identity(file="renamed.toml")} == {identity()}
    twin = identity("twin.py:Twin")
    assert {identity(name) for name in ("./twin.py:Twin", "renamed.py:Twin")} == {twin}
    Path("twin.py").write_text(TWIN + "# edited\n")
    protocol("steps = 3\n", "longer.toml")
    others = [identity(dataset="other/g"), identity(file="longer.toml"), twin, identity("twin.py:Twin")]
    assert len({identity(), *others}) == 5


def test_a_run_is_found_under_whatever_name_it_was_made():
    protocol("")
    (config,) = campaign.plan(["uniform"], ["transe"], ["./g"], [0], protocol="mine.toml")
    made = campaign.folder_of(config, Path("runs")).path
    assert made.name.startswith("uniform-transe-g-s0-")
    made.mkdir(parents=True)
    (renamed,) = campaign.plan(["uniform"], ["transe"], ["./copy"], [0], protocol="mine.toml")
    assert campaign.folder_of(renamed, Path("runs")).path == made


def test_a_run_that_is_named_twice_is_planned_once():
    protocol("")
    samplers, datasets = ["uniform", "twin.py:Twin", "./twin.py:Twin"], [*spellings("g"), "other/g"]
    assert len(campaign.plan(samplers, ["transe"], datasets, [0, 1], protocol="mine.toml")) == 8


# Tuned protocols

TUNED = """extends = "mine.toml"
[tuning]
base = "mine"
budget = 3
fusion = "none"
split = ""
features = "auto"
[tuning.studies."KEY"]
trials = 3
feature_fingerprint = ""
chosen = {"protocol.learning_rate" = 0.5}
"""


def test_what_was_tuned_goes_by_content():
    protocol("")
    key = study_key("twin.py:Twin", "transe", dataset_key("called_so_then", load_dataset("./g").fingerprint))
    Path("tuned.toml").write_text(TUNED.replace("KEY", key))

    def tuned(sampler="./twin.py:Twin", dataset="./g", **how):
        config = configure(sampler, "transe", dataset, protocol="tuned.toml", identify=campaign.identify, **how)
        assert (config.protocol.learning_rate == 0.5) == (config.tuning["trials"] == 3) == (config.untuned == "")
        return config.untuned or "tuned"

    assert {tuned(dataset=name) for name in [*spellings("g"), "./copy"]} == {"tuned"}
    assert tuned(split="released", features="none") == "tuned"  # the same graph, of which no features are read
    words = f"./twin.py:Twin with transe on other/g is not tuned in tuned.toml: its studies are {key}"
    assert tuned(dataset="other/g") == words
    assert tuned("uniform") == words.replace("./twin.py:Twin", "uniform").replace("other/g", "./g")
    assert tuned(fusion="adamf").endswith("it was tuned with --fusion none")
    assert tuned(settings=["sampler.variant=recommended", "aux.diffusion=1"]).endswith("is tuned for itself")
    Path("twin.py").write_text(TWIN + "# edited\n")
    assert tuned() == words.replace("other/g", "./g")
    said = []
    campaign.plan(["./twin.py:Twin"], ["transe"], ["./g"], range(3), protocol="tuned.toml", say=said.append)
    assert said == [tuned()]
