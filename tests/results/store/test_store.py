import json

import numpy as np
import pytest

from nsbench.errors import Misuse
from nsbench.identity import PUBLIC
from nsbench.results import load
from nsbench.results.store import COST, FIGURES, METRICS, SETTINGS, read, select

OUTCOMES = ("mrr", "hits@10", "valid_mrr", "valid_hits@1", "converged", "steps", "seconds", "converged@uniform", "mr@mkg_y")
COLUMNS = ("path", *SETTINGS, *FIGURES, "config", "result")


def test_a_run_becomes_a_row_with_the_figures_of_its_files(store, run):
    path = run("dhns", "rotate", "db15k", seed=3, split="clean", aux={"diffusion": 0.5, "anchor": 1.0})
    frame = load(store)
    assert list(frame.columns) == list(COLUMNS)
    row = frame.iloc[0]
    result = json.loads((path / "result.json").read_text())
    assert {name: row[name] for name in METRICS} == result["test"]
    assert {name: row[f"valid_{name}"] for name in METRICS} == result["valid"]
    assert {name: row[name] for name in COST} == {name: result["cost"][name] for name in COST}
    assert (row.sampler, row.kge, row.dataset, row.split, row.seed) == ("dhns", "rotate", "db15k", "clean", 3)
    assert (row.protocol, row.protocol_version, row.aux) == ("nsbench", 1, "anchor+diffusion")
    assert (row.device, row.threads, row.kernels) == ("cpu x86_64", 2, "native")
    assert row.config == result["config"]
    assert frame.attrs == {"folder": str(store), "skipped": {}}


def test_ranks_are_read_on_demand(store, run):
    path = run(arrays={"seen": np.arange(60) % 7 > 0})
    found = read(store).runs[0].ranks()
    with np.load(path / "ranks.npz") as stored:
        for name in set(found._fields) - {"twin"}:
            assert np.array_equal(getattr(found, name), stored[name])
    assert found.twin is None
    run("bernoulli", arrays={"twin": np.arange(60) % 5 > 0})
    (other,) = [run.ranks() for run in read(store).runs if run["sampler"] == "bernoulli"]
    assert other.seen is None
    assert other.twin.tolist() == [i % 5 > 0 for i in range(60)]


def break_result(path, change):
    result = json.loads((path / "result.json").read_text())
    change(result)
    (path / "result.json").write_text(json.dumps(result))


DAMAGE = {
    "not finished": lambda path: (path / "result.json").unlink(),
    "no config.json": lambda path: [(path / name).unlink() for name in ("result.json", "config.json")],
    "not JSON": lambda path: (path / "result.json").write_text('{"config": {"sampler'),
    "result.json is not JSON": lambda path: (path / "result.json").write_bytes(b"\xff\xfe\x00"),
    "result.json lacks what a table needs": lambda path: (path / "result.json").write_text("3"),
    "lacks what a table needs": lambda path: (path / "result.json").write_text("[]"),
    "'mrr'": lambda path: break_result(path, lambda result: result["test"].pop("mrr")),
    "'protocol'": lambda path: break_result(path, lambda result: result["config"].pop("protocol")),
    "'fingerprint'": lambda path: break_result(path, lambda result: result["config"].pop("fingerprint")),
    "metrics that cannot be": lambda path: break_result(path, lambda result: result["test"].update(mrr=float("nan"))),
    "holds metrics that cannot be": lambda path: break_result(path, lambda result: result["test"].update({"mrr": 34.5})),
    "ranks.npz is missing": lambda path: (path / "ranks.npz").unlink(),
    "cut off": lambda path: (path / "ranks.npz").write_bytes((path / "ranks.npz").read_bytes()[:-100]),
    "cannot be read": lambda path: [(path / "result.json").unlink(), (path / "result.json").mkdir()],
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_damaged_folders_are_named_and_left_out(store, run, reason):
    good, bad = run("uniform"), run("bernoulli")
    DAMAGE[reason](bad)
    found = read(store)
    assert [run.path for run in found.runs] == [good]
    assert list(found.skipped) == [bad.name]
    assert reason in found.skipped[bad.name]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("config.options", 3),
        ("config.options.sampler", []),
        ("config.changed", 3),
        ("config.tuning", 3),
        ("config.seed", "a"),
        ("config.seed", True),
        ("config.kge", 3),
        ("config.protocol.version", "1"),
        ("config.modalities", 3),
        ("diagnostics", 3),
        ("diagnostics.end", 3),
        ("breakdown", []),
        ("breakdown.category", 3),
        ("cost.seconds", "x"),
        ("cost.steps", 2.5),
        ("selected_at", "x"),
        ("env.threads", "x"),
        ("code", 3),
        ("diagnostics", None),
        ("diagnostics.end", None),
        ("config.modalities", None),
        ("config.tuning", {"trials": "x", "chosen": {}}),
    ],
)
def test_what_is_of_another_kind_is_damage(store, run, where, value):
    good, bad = run("uniform"), run("bernoulli", result={"diagnostics": {"end": {}}, "breakdown": {"category": {}}})

    def change(result):
        *path, last = where.split(".")
        for name in path:
            result = result[name]
        result[last] = value

    break_result(bad, change)
    found = read(store)
    assert [run.path for run in found.runs] == [good]
    assert list(found.skipped) == [bad.name]
    assert (f"{where}.trials" if isinstance(value, dict) else where) in found.skipped[bad.name]


def test_a_copied_folder_counts_once(store, run):
    path = run()
    run(seed=1)
    copy = store / "zz-copy"
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    found = read(store)
    assert len(found.runs) == 2
    assert found.skipped == {"zz-copy": f"the same run as {path.name}"}


def test_a_store_that_is_not_there_is_empty(tmp_path):
    frame = load(tmp_path / "nowhere")
    assert frame.empty
    assert list(frame.columns) == list(COLUMNS)


def test_the_default_store(monkeypatch, store, run):
    run()
    monkeypatch.setenv("NSBENCH_RUNS", str(store))
    assert len(load()) == 1


def test_damaged_ranks_are_a_sentence(store, run):
    path = run()
    (made,) = read(store).runs
    data = bytearray((path / "ranks.npz").read_bytes())
    data[60:200] = bytes(140)
    (path / "ranks.npz").write_bytes(data)
    with pytest.raises(Misuse, match=r"damaged.*run it again"):
        made.ranks()
    np.savez(path / "ranks.npz", ranks=np.ones((4, 2)), candidates=np.ones((4, 2)), triples=np.ones((4, 3)))
    with pytest.raises(Misuse, match=r"shapes.*run it again"):
        made.ranks()


def test_filters(small_store):
    runs = read(small_store).runs
    assert {run["dataset"] for run in select(runs, {"dataset": "db15k"})} == {"db15k"}
    for seeds in ("0,3", [0, 3]):
        assert {run["seed"] for run in select(runs, {"seed": seeds})} == {0, 3}
    assert select(runs, {"protocol.steps": 6000, "kernels": "native", "code": "none"}) == runs
    assert len(select(runs, {"kge": "rotate", "sampler": ["dhns", "uniform"], "seed": 0})) == 3
    assert len(select(runs, {"fingerprint": "mkg0y000"})) == sum(run["dataset"] == "mkg_y" for run in runs)


def test_a_filter_with_a_scope_leaves_the_rest_alone(small_store):
    runs = read(small_store).runs
    kept = select(runs, {"seed@dhns": 4, "split@db15k": "clean"})
    assert {run["seed"] for run in kept if run["sampler"] == "dhns"} == {4}
    assert [run for run in kept if run["sampler"] != "dhns"] == [run for run in runs if run["sampler"] != "dhns"]


def test_a_run_that_was_begun_passes_what_it_does_not_say(store, run):
    done, begun = run("uniform"), run("bernoulli")
    (begun / "result.json").unlink()
    found = read(store)
    known = [*found.runs, *found.begun]
    assert [each.name for each in select(known, {"kernels": "native"})] == [done.name, begun.name]
    assert [each.name for each in select(known, {"sampler": "bernoulli"})] == [begun.name]
    assert found.begun[0].record == {}


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"sampler": "dnhs"}, ["sampler=dnhs", "bernoulli, dhns, uniform"]),
        ({"dataset": "mkg_y", "split": "clean"}, ["split=clean", "released"]),
        ({"split@mkg_w": "clean"}, ["split@mkg_w=clean", "no such run"]),
        ({"colour": "red"}, ["'colour'", "sampler, "]),
        *(({name: 1}, [name.partition("@")[0], "a result"]) for name in OUTCOMES),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is_and_outcomes_are_none(small_store, filters, words):
    with pytest.raises(Misuse) as refusal:
        select(read(small_store).runs, filters)
    assert all(word in str(refusal.value) for word in words)


# Names are labels


def labels_of(found):
    return [(run["dataset"], run["protocol"], run["sampler"]) for run in found.runs]


def test_one_thing_has_one_name_whatever_it_was_called(run):
    graph, protocol, source = {"fingerprint": "a" * 64}, {"protocol_digest": "d" * 64}, {"sources": {"sampler": "e" * 64}}
    run("./old/mine.py:Mine", dataset="old", seed=0, folder="a", protocol={"name": "first"}, **graph, **protocol, **source)
    run("new.py:Mine", dataset="new", seed=1, folder="b", protocol={"name": "second"}, **graph, **protocol, **source)
    store = run("new.py:Other", dataset="new", seed=1, folder="c", **source).parent
    found = read(store)
    assert labels_of(found)[:2] == [("old", "first", "mine.py:Mine")] * 2
    assert labels_of(found)[2] == ("new", "nsbench", "new.py:Other")  # another graph, protocol and class
    assert len(select(found.runs, {"sampler": "./anywhere/mine.py:Mine"})) == 2


def test_two_files_of_one_name_are_told_apart(run):
    for letter, folder in ("e", "one"), ("f", "two"):
        store = run(f"{folder}/mine.py:Mine", folder=folder, sources={"sampler": letter * 64}).parent
    assert [name for _, _, name in labels_of(read(store))] == ["mine.py:Mine@eeeeeeee", "mine.py:Mine@ffffffff"]


def test_a_public_name_is_of_the_public_graph_alone(run):
    run("uniform", dataset="copy", fingerprint=next(digits for digits, name in PUBLIC.items() if name == "mkg_y"))
    store = run("uniform", "rotate", dataset="mkg_y", fingerprint="a" * 64).parent
    assert sorted(name for name, _, _ in labels_of(read(store))) == ["mkg_y", "mkg_y@aaaaaaaa"]


def test_a_run_under_two_names_counts_once(run):
    store = run("uniform", dataset="old", fingerprint="a" * 64, folder="old-00000001").parent
    run("uniform", dataset="new", fingerprint="a" * 64, folder="new-00000001")
    run("uniform", dataset="old", fingerprint="b" * 64, folder="other-00000001")
    found = read(store)
    assert (len(found.runs), found.skipped) == (2, {"old-00000001": "the same run as new-00000001"})
