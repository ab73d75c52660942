"""How rows are named, ordered, and which of them is a row's baseline."""

import pytest

from nsbench.errors import Misuse
from nsbench.results.tables import comparison
from tests.results.tables.looking import cell, groups, labels


def test_nothing_that_differs_between_rows_is_hidden(store, run):
    run("uniform")
    run("uniform", options={"sampler": {"k": 40}})
    run("dhns", features="names", modalities=["text"], feature_fingerprint="1" * 64)
    run("dhns", features="names", modalities=["image", "text"], feature_fingerprint="1" * 64, fusion="adamf")
    run(
        "dhns",
        variant="released",
        aux={"diffusion": 1.0},
        versions={"aux.diffusion": 1},
        options={"sampler": {"timesteps": 50, "scale": 2.0}, "aux": {"diffusion": {"steps": 3}}},
    )
    run("dhns", variant="released", options={"sampler": {"timesteps": 70, "scale": 2.0}})
    run("uniform", options={"kge": {"norm": 2}})
    table = comparison(store)
    assert groups(table) == ["transe", "transe (norm=2)"]
    assert sorted(labels(table)) == sorted(
        [
            "uniform",
            "uniform (k=40)",
            "uniform",
            "dhns (features=names:text)",
            "dhns (features=names:image+text, fusion=adamf)",
            "dhns (released, aux.diffusion=1.0, aux.diffusion.steps=3, timesteps=50)",
            "dhns (released, timesteps=70)",
        ]
    )
    assert any("scale=2.0" in note for note in table.notes)  # equal in both released rows, so below the table


def test_what_the_protocol_sets_is_no_choice_of_a_row(store, run):
    run("uniform")
    for options in ({"timesteps": 20}, {"timesteps": 30}, {}):  # the last: --set put the sampler's default back
        run("dhns", options={"sampler": options}, proposed={"timesteps": 20})
    run("mmrns", options={"sampler": {"candidates": 300, "beta": 2.0}}, proposed={"candidates": 300})
    table = comparison(store)
    assert labels(table) == ["uniform", "mmrns (beta=2.0)", "dhns", "dhns (timesteps=30)", "dhns (timesteps=default)"]
    assert "candidates=300 of mmrns, timesteps=20 of dhns" in str(table.caption)
    assert "timesteps" not in str(comparison(store, where={"sampler": "uniform"}).caption)


def test_what_all_rows_share_stands_in_the_caption(store, run):
    for sampler in ("uniform", "dhns"):
        run(sampler, fusion="adamf", features="official", modalities=["text"], changed={"steps": 100})
    table = comparison(store)
    assert labels(table) == ["uniform", "dhns"]
    assert "All rows: features=official:text, fusion=adamf" in str(table.caption)
    assert "Protocol nsbench, version 1, changed: steps=100" in str(table.caption)
    assert "mkg_y (released split, mkg0y000)" in str(table.caption)


def test_rows_say_the_modalities_that_they_used(store, run):
    for modalities, content in ((["captions", "wordpieces"], "1"), (["names128"], "2"), (["names"], "3")):
        features = ",".join(modalities)
        run("dhns", fusion="adamf", features=features, modalities=modalities, feature_fingerprint=content * 64)
    table = comparison(store)
    assert sorted(labels(table)) == [
        "dhns (features=captions,wordpieces)",
        "dhns (features=names)",
        "dhns (features=names128)",
    ]
    assert [note for note in table.notes if note.startswith("captions: ")]
    kept = comparison(store, where={"features": "captions,wordpieces"})
    assert labels(kept) == ["dhns"]
    assert "All rows: features=captions,wordpieces, fusion=adamf" in str(kept.caption)
    some = comparison(store, where={"features": "names128,names"})
    assert sorted(labels(some)) == ["dhns (features=names)", "dhns (features=names128)"]
    assert not [note for note in some.notes if note.startswith("captions: ")]


def test_runs_whose_features_differ_in_the_last_bit_are_one_row(store, run):
    for seed in range(2):
        run("dhns", seed=seed, features="names", modalities=["names"], feature_bytes=f"{seed}" * 64)
    table = comparison(store)
    assert labels(table) == ["dhns"]
    assert "Mean of 2 seeds (0, 1)" in str(table.caption)
    assert "left out: 1 that differ from those shown by their seed alone" in str(
        comparison(store, where={"seed": 0}).caption
    )


def test_rows_and_groups_keep_the_order_of_the_papers(store, run):
    for sampler in ("zebra", "dhns", "uniform", "ant", "bernoulli"):
        run(sampler, "rotate")
    run("uniform", "transe")
    table = comparison(store)
    assert groups(table) == ["transe", "rotate"]
    assert labels(table)[1:] == ["uniform", "bernoulli", "dhns", "ant", "zebra"]


def test_the_baseline_is_the_row_that_is_alike_in_all_else(store, run):
    for seed in range(5):
        run("uniform", seed=seed)
        run("uniform", seed=seed, options={"sampler": {"k": 40}}, quality=1.1)
        run("uniform", seed=seed, fusion="adamf", quality=1.2)
        run("dhns", seed=seed, fusion="adamf", quality=2)
        run("dhns", seed=seed, aux={"diffusion": 1.0}, quality=2)
    table = comparison(store)
    against = {label: cell(table, label).record.get("baseline") for label in labels(table)}
    assert against == {
        "uniform": None,
        "uniform (k=40)": "uniform",
        "uniform (fusion=adamf)": None,
        "dhns (fusion=adamf)": "uniform (fusion=adamf)",
        "dhns (aux.diffusion=1.0)": "uniform",
    }
    other = comparison(store, baseline="uniform (k=40)")
    assert cell(other, "uniform").record["baseline"] == "uniform (k=40)"


def test_a_baseline_that_is_not_there(store, run):
    run("dhns", seeds=range(5))
    run("sans", seeds=range(5))
    assert "No test" in str(comparison(store).caption)  # the default may be absent
    with pytest.raises(Misuse, match="no row is the baseline 'bernoulli'; the rows are dhns, sans"):
        comparison(store, baseline="bernoulli")
    assert cell(comparison(store, baseline="sans"), "dhns").record["baseline"] == "sans"


def test_an_ambiguous_baseline_is_refused(store, run):
    for seed in range(5):
        run("uniform", seed=seed, options={"sampler": {"k": 40}})
        run("uniform", seed=seed, options={"sampler": {"k": 80}}, quality=1.1)
        run("dhns", seed=seed, quality=2)
    with pytest.raises(Misuse, match=r"fits several rows of transe, mkg_y; name one of 'uniform \(k=40\)', 'uniform"):
        comparison(store)
    assert cell(comparison(store, baseline="uniform (k=80)"), "dhns").record["baseline"] == "uniform (k=80)"
