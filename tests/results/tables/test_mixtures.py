"""What may not stand in one table is refused with the filter that helps."""

import functools
import json

import numpy as np
import pytest

from nsbench.errors import Misuse
from nsbench.results.tables import comparison, mixtures
from tests.results.tables.looking import cell, labels

MIXTURES = {
    "protocol": {"protocol": {"name": "cpu"}},
    "protocol_version": {"protocol": {"version": 2}},
    "protocol.steps": {"protocol": {"steps": 2000}},
    "changed.steps": {"protocol": {"steps": 2000}, "changed": {"steps": 2000}},
    "protocol.margin": {"protocol": {"margin": 9.0}},
    "split": {"split": "clean"},
    "fingerprint": {"fingerprint": "f" * 64},
    "versions.sampler": {"versions": {"sampler": 2}},
    "versions.kge": {"versions": {"kge": 2}},
    "versions.fusion": {"versions": {"fusion": 2}},
    "sources.sampler": {"sources": {"sampler": "e" * 64}},
    "sources.kge": {"sources": {"kge": "e" * 64}},
    "sources.fusion": {"sources": {"fusion": "e" * 64}},
    "tuning.base": {"tuning": {"base": "cpu"}},
    "tuning.budget": {"tuning": {"budget": 30}},
    "tuning.backbone": {"tuning": {"backbone": "frozen"}},
    "tuning.search": {"tuning": {"search": "random"}},
    "tuning.seed": {"tuning": {"seed": 1}},
    "tuning.fusion": {"tuning": {"fusion": "adamf"}},
    "tuning.split": {"tuning": {"split": "clean"}},
    "tuning.features": {"tuning": {"features": "names"}},
}


ALL_ROWS = ("protocol", "protocol_version", "protocol.steps", "changed.steps", "versions.fusion", "sources.fusion")


@pytest.mark.fact(54)
@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_stores_are_refused_and_the_filter_that_is_named_helps(store, run, name):
    own = {"dataset": "mine"} if name == "fingerprint" else {}  # no other graph goes by a public name
    run("uniform", seeds=range(2), **own)
    run("dhns", seeds=range(2), **own)
    run("dhns", "rotate", "db15k", seeds=range(2))  # not concerned; its split or version may be another
    run("dhns", seeds=[7], quality=2, **own, **MIXTURES[name])
    with pytest.raises(Misuse) as refusal:
        comparison(store)
    sentence = str(refusal.value)
    assert sentence.startswith(f"the runs differ in {name}")
    where = dict([sentence.rpartition("with the filter ")[2].split("=", 1)])
    table = comparison(store, where=where)
    assert set(labels(table)) == {"uniform", "dhns"}
    assert cell(table, "dhns", **own).record["seeds"] == "0 1"
    if name not in ALL_ROWS and not name.startswith("tuning"):
        assert cell(table, "dhns", dataset="db15k", group="rotate").record["seeds"] == "0 1"


def test_features_of_one_name_must_be_the_same(store, run):
    run("uniform")
    run("dhns", features="names", modalities=["text"], feature_fingerprint="1" * 64)
    assert len(comparison(store).rows) == 2
    run("sans", features="names", modalities=["text"], feature_fingerprint="2" * 64)
    with pytest.raises(Misuse, match="differ in feature_fingerprint of mkg_y"):
        comparison(store)


def test_mixed_versions_of_an_auxiliary_loss_are_refused(store, run):
    run("uniform")
    run("dhns", aux={"diffusion": 1.0}, versions={"aux.diffusion": 1})
    run("sans", aux={"diffusion": 1.0}, versions={"aux.diffusion": 1})
    assert len(comparison(store).rows) == 3
    run("kbgan", aux={"diffusion": 1.0}, versions={"aux.diffusion": 2})
    with pytest.raises(Misuse, match=r"differ in versions.aux.diffusion of diffusion \(1 in 2 runs, 2 in 1 runs\)"):
        comparison(store)


def test_trials_of_several_lengths_are_refused(store, run):
    tuning = {
        "base": "cpu",
        "budget": 4,
        "backbone": "frozen",
        "search": "random",
        "seed": 0,
        "fusion": "none",
        "trials": 4,
        "failed": 0,
        "chosen": {},
        "steps": 100,
    }
    run("uniform", tuning=tuning)
    run("dhns", tuning={**tuning, "trials": 0, "steps": 300})  # that had no trials
    assert len(comparison(store).rows) == 2
    run("sans", tuning={**tuning, "steps": 200})
    with pytest.raises(Misuse, match=r"differ in tuning.steps of mkg_y"):
        comparison(store)


def test_values_that_a_protocol_sets_per_cell_are_those_of_the_configuration():
    from nsbench.config.protocol import PER_PAIR

    assert mixtures.PER_PAIR == PER_PAIR


def test_margins_may_differ_between_datasets_and_models(store, run):
    run("uniform", "transe", "mkg_y")
    run("uniform", "transe", "db15k", protocol={"margin": 6.0})
    run("uniform", "rotate", "mkg_y", protocol={"margin": 9.0})
    assert len(comparison(store).rows) == 2


@pytest.mark.parametrize("layout", ["dhns4", "claims"])
def test_in_the_middle_of_a_sweep_a_table_stands_on_the_seeds_in_common(store, run, layout):
    where = {"metric": "difference", "dataset": "", "group": "transe, mkg_y"} if layout == "claims" else {}
    dhns = functools.partial(cell, label="dhns against uniform" if where else "dhns", **where)
    run("uniform", seeds=range(7))
    run("dhns", seeds=range(5), quality=2)
    run("sans", seeds=range(1, 4))
    run("uniform", "rotate", seeds=range(6))
    found = comparison(store, layout=layout)
    common = comparison(store, layout=layout, where={"seed@transe": "0,1,2,3,4"})
    assert found.rows == common.rows
    (note,) = set(found.notes) - set(common.notes)
    assert note == "transe on mkg_y stands on the seeds that its rows have in common; left out: 2 runs of uniform."
    assert dhns(found).record["p_holm"] < 0.01
    apart = comparison(store, layout=layout, where={"seed@uniform": [1, 2, 3, 4, 5]})
    assert "p_holm" not in dhns(apart).record
    assert any(note.startswith("Rows of transe on mkg_y have fewer than 5 seeds in common") for note in apart.notes)


def test_copies_under_another_seed_are_refused(store, run):
    one, two = run("uniform", seeds=range(5))[:2]
    run("dhns", seeds=range(5), quality=2)
    for name in ("ranks.npz", "result.json"):
        (two / name).write_bytes((one / name).read_bytes())
    result = json.loads((two / "result.json").read_text())
    result["config"]["seed"] = 1
    (two / "result.json").write_text(json.dumps(result))
    with pytest.raises(Misuse, match="different seeds and identical ranks"):
        comparison(store)


def test_ranks_that_do_not_belong_to_the_result_are_refused(store, run):
    one, two = run("uniform", seeds=range(5))[:2]
    run("dhns", seeds=range(5), quality=2)
    kept = (one / "ranks.npz").read_bytes()
    (one / "ranks.npz").write_bytes((two / "ranks.npz").read_bytes())
    with pytest.raises(Misuse, match="does not give its MRR"):
        comparison(store)
    (one / "ranks.npz").write_bytes(kept)
    arrays = dict(np.load(one / "ranks.npz"))
    np.savez(one / "ranks.npz", **{**arrays, "triples": arrays["triples"][::-1]})
    with pytest.raises(Misuse, match="rank different triples"):
        comparison(store)


def test_two_runs_of_one_seed_are_refused(store, run):
    run("uniform", seed=0)
    run("uniform", seed=0, source="another file")
    with pytest.raises(Misuse, match="two runs of one seed"):
        comparison(store)


def test_times_of_different_hardware_never_share_a_table(store, run):
    run("uniform")
    run("dhns", result={"env": {"kernels": "eager"}})
    assert len(comparison(store).rows) == 2  # ranks do not depend on it
    assert "eager kernels and cpu x86_64, 2 threads, native kernels" in str(comparison(store).caption)
    with pytest.raises(Misuse, match="differ in kernels"):
        comparison(store, layout="cost")
    assert len(comparison(store, layout="cost", where={"kernels": "eager"}).rows) == 1


def test_by_which_filters_the_runs_were_chosen_stands_in_the_caption(store, run):
    run("uniform", seeds=range(3))
    run("dhns", seeds=range(5), quality=2)
    run("dhns", "rotate", seeds=range(5), quality=2)
    assert "Runs chosen by" not in str(comparison(store).caption)
    assert "Runs chosen by kge=transe." in str(comparison(store, where={"kge": "transe"}).caption)
    where = {"kge": ["transe"], "seed@dhns": [0, 1, 2]}
    for layout in ("dhns4", "claims", "cost"):
        said = str(comparison(store, layout=layout, where=where).caption)
        assert "Runs chosen by kge=transe, seed@dhns=0,1,2 (left out: 2 that differ from those shown by their seed" in said
