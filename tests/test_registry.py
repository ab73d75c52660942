"""The registry as the small library it is."""

import importlib
from dataclasses import dataclass
from importlib import metadata

import pytest

from nsbench.campaign.attempt import attempt
from nsbench.campaign.plan import plan
from nsbench.contracts import KGE, Sampler
from nsbench.errors import Misuse, RunFailed, suggest
from nsbench.options import build_options, option
from nsbench.registry import MODELS, MOVED, SAMPLERS, Registry, plugin_file
from nsbench.runs.runner import RunOptions


@pytest.fixture
def registry():
    """Of samplers, and empty: the built-in ones have registered with SAMPLERS."""
    return Registry("sampler", "nsbench.samplers", "Sampler", "Objective")


def plugin(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


MINE = "from nsbench.contracts import Sampler\n\nclass Mine(Sampler):\n    version = 3\n"


def test_register_returns_the_class_and_makes_it_known(registry):
    @registry.register("mine")
    class Mine(Sampler):
        pass

    assert Mine.__name__ == "Mine"
    assert registry.get("mine") is Mine
    assert "mine" in registry.names()


def test_built_in_components_are_found_without_being_named():
    assert {"uniform", "bernoulli"} <= set(SAMPLERS.names())
    assert {"transe", "distmult", "rotate"} <= set(MODELS.names())
    assert SAMPLERS.names() == sorted(SAMPLERS.names())
    assert SAMPLERS.source("uniform") == "built-in"


def test_a_second_owner_of_a_name_is_refused_naming_both_files(registry, tmp_path):
    first, second = plugin(tmp_path, MINE, "first.py"), plugin(tmp_path, MINE, "second.py")
    registry.register("mine")(registry.get(f"{first}:Mine"))
    with pytest.raises(Misuse) as error:
        registry.register("mine")(registry.get(f"{second}:Mine"))
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)
    assert "rename" in str(error.value)


def test_the_same_component_may_be_registered_again(registry, tmp_path):
    mine = registry.get(f"{plugin(tmp_path, MINE)}:Mine")
    assert registry.register("mine")(registry.register("mine")(mine)) is mine


@pytest.mark.parametrize(("wrong", "right"), [("unifrom", "uniform"), ("bernouli", "bernoulli")])
def test_a_miss_suggests_the_nearest_name(wrong, right):
    with pytest.raises(Misuse, match=f"unknown sampler '{wrong}'; did you mean '{right}'?"):
        SAMPLERS.get(wrong)


def test_a_miss_far_from_everything_suggests_nothing():
    with pytest.raises(Misuse) as error:
        SAMPLERS.get("zzzzzz")
    assert "did you mean" not in str(error.value)
    assert suggest("zzzzzz", ["uniform"]) == ""


@pytest.mark.parametrize("component", [KGE, dict, len, 3])
def test_what_is_no_sampler_is_refused(registry, component):
    with pytest.raises(Misuse, match=r"must be a subclass of nsbench\.contracts\.Sampler or Objective"):
        registry.register("odd")(component)
    assert "odd" not in registry.names()


def test_a_file_plugin(registry, tmp_path):
    path = plugin(tmp_path, MINE)
    found = registry.get(f"{path}:Mine")
    assert issubclass(found, Sampler)
    assert found.version == 3
    assert plugin_file(f"{path}:Mine") == path
    assert plugin_file("uniform") is None
    assert str(path) in registry.source(f"{path}:Mine")
    assert registry.get(f"{path}:Mine") is found


def test_what_can_be_wrong_with_a_file_plugin(registry, tmp_path):
    with pytest.raises(Misuse, match=r"no file .*nowhere\.py"):
        registry.get(f"{tmp_path}/nowhere.py:Mine")
    with pytest.raises(Misuse, match="defines no 'Other'"):
        registry.get(f"{plugin(tmp_path, MINE)}:Other")
    with pytest.raises(Misuse, match="must be a subclass"):
        registry.get(f"{plugin(tmp_path, 'class Mine: pass', 'plain.py')}:Mine")
    with pytest.raises(Misuse, match="cannot be loaded"):
        registry.get(f"{plugin(tmp_path, 'import no_such_module', 'bad.py')}:Mine")


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_plugin_that_imports_a_module_that_has_moved_is_told_where_it_is(registry, tmp_path, old, new):
    importlib.import_module(new)
    with pytest.raises(Misuse, match=rf"{old} has moved.* {new}\b"):
        registry.get(f"{plugin(tmp_path, f'import {old}')}:Mine")


class Entry:
    """Stands in for an installed distribution's entry point."""

    value, dist = "outside:Component", None

    def __init__(self, name, component):
        self.name, self.component = name, component

    def load(self):
        return self.component


def installed(monkeypatch, *entries):
    asked = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: asked.append(group) or entries)
    return asked


class Outside(Sampler):
    pass


def test_entry_points_of_the_group_are_loaded(registry, monkeypatch):
    asked = installed(monkeypatch, Entry("outside", Outside))
    assert registry.get("outside") is Outside
    assert asked == ["nsbench.samplers"]
    assert __file__ in registry.source("outside")


def test_an_entry_point_that_takes_a_built_in_name_is_refused(registry, monkeypatch):
    from nsbench.samplers.uniform import Uniform

    registry.register("uniform")(Uniform)
    installed(monkeypatch, Entry("uniform", Outside))
    with pytest.raises(Misuse, match=r"two samplers are called 'uniform'.*uniform\.py.*test_registry\.py"):
        registry.names()


@dataclass(frozen=True)
class Options:
    size: int = option(5, "how many", minimum=1)
    rate: float = option(0.5, "how fast", minimum=0)
    mode: str = option("a", "which way", choices=("a", "b"))
    exact: bool = option(False, "or not")
    limit: int | None = option(None, "at most")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, Options()),
        ({"size": "7", "rate": "1e-3", "mode": "b", "exact": "true", "limit": "3"}, Options(7, 1e-3, "b", True, 3)),
        ({"size": 7.0, "rate": 2, "exact": "no", "limit": "none"}, Options(7, 2.0, "a", False, None)),
    ],
)
def test_options_are_read_from_texts_and_values(texts, expected):
    built = build_options(Options, texts, "sampler")
    assert built == expected
    assert isinstance(built.rate, float)
    assert isinstance(built.size, int)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sizes": "3"}, "unknown option sampler.sizes; did you mean 'size'?"),
        ({"zzz": "3"}, "unknown option sampler.zzz; it has size, rate, mode, exact, limit"),
        ({"size": "many"}, "sampler.size must be a whole number, not 'many'"),
        ({"size": "2.5"}, "sampler.size must be a whole number, not '2.5'"),
        ({"size": "0"}, "sampler.size must be at least 1, not 0"),
        ({"rate": "fast"}, "sampler.rate must be a number, not 'fast'"),
        ({"rate": "nan"}, "sampler.rate must be a finite number, not nan"),
        ({"rate": "-0.1"}, "sampler.rate must be at least 0, not -0.1"),
        ({"mode": "c"}, "sampler.mode must be one of a, b, not 'c'"),
        ({"exact": "perhaps"}, "sampler.exact must be true or false, not 'perhaps'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(values, words):
    with pytest.raises(Misuse) as error:
        build_options(Options, values, "sampler")
    assert str(error.value) == words


def test_a_sampler_that_ends_the_process_fails_its_run_alone(tmp_path):
    file = plugin(tmp_path, MINE + "\n    def sample(self, positives, view):\n        raise SystemExit('no licence')\n")
    settings = ["protocol.steps=2"]
    (config,) = plan([f"{file}:Mine"], ["transe"], ["planted:small"], [0], protocol="quick", settings=settings)
    ending = attempt(config, tmp_path / "runs", RunOptions(device="cpu"))
    assert isinstance(ending, RunFailed)
    assert "it ends the process (SystemExit: no licence)" in str(ending)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise SystemExit(3)", "it ends the process while it is imported, exit code 3; keep that below if __name__"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--x'])", "it ends the process while it is imported"),
        ("class Skipped(BaseException): pass\nraise Skipped('no GPU')", "Skipped: no GPU"),
    ],
)
def test_a_file_that_ends_what_imports_it_is_named(registry, tmp_path, monkeypatch, text, reason):
    file = plugin(tmp_path, text, "ending.py")
    with pytest.raises(Misuse, match=rf"ending.py cannot be loaded \({reason}"):
        registry.get(f"{file}:Mine")
    monkeypatch.syspath_prepend(tmp_path)
    entry = metadata.EntryPoint("mine", "ending:Mine", "nsbench.samplers")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(registry, "packages", ())
    assert registry.names() == []
    assert reason in registry.broken["mine"]


def test_a_keyboard_interrupt_is_nobodys_fault(registry, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        registry.get(f"{plugin(tmp_path, 'raise KeyboardInterrupt')}:Mine")
