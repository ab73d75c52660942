from pathlib import Path

import pytest

from nsbench.registry import FUSIONS, MODELS
from nsbench.results.tables.papers import caveats, figures, models, print_order


def of(source):
    return {(f.sampler, f.kge, f.dataset, f.metric): f for f in figures() if f.source == source}


def test_names_and_scale_are_ours():
    printed = of("mmrns2022 Table 2")["uniform", "transe", "mkg_y", "mrr"]
    assert (printed.printed, printed.value) == ("30.73", 0.3073)
    assert of("mmrns2022 Table 2")["uniform", "transe", "mkg_y", "mr"].value == 1987
    assert {f.dataset for f in figures()} == {"mkg_w", "mkg_y", "db15k"}
    assert {"ns_kge", "gcote"} <= {f.sampler for f in figures()} | {f.kge for f in figures()}
    assert all(0 < f.value < 1 for f in figures() if f.metric != "mr")
    assert list(print_order("sampler"))[:2] == ["uniform", "bernoulli"]


def test_whole_models_are_pairs_of_a_model_and_a_fusion():
    cells = {(f.kge, f.fusion, f.dataset, f.metric): f for f in models()}
    assert len(cells) == len(models()) == 15 * 3 * 4  # seven unimodal and eight multimodal models
    assert {f.sampler for f in models()} == {"uniform"}
    assert cells["transe", "ikrl", "mkg_y", "mrr"].printed == "33.22"
    assert cells["complex", "otkge", "db15k", "hits@1"].printed == "18.45"
    assert cells["rotate", "adamf", "mkg_w", "mrr"].note == "a whole model with its authors' loss, sampler and size"
    built = {(kge, fusion) for kge, fusion, _, _ in cells}
    assert all(kge in MODELS.names() and (fusion or "none") in FUSIONS.names() for kge, fusion in built)
    assert {f.kge for f in figures() if f.paper == "mmrns2022"} == {
        "transe",
        "distmult",
        "complex",
        "rotate",
        "pairre",
        "gcote",
    }
    assert not [note for note in caveats(models()) if "prints" in note]


def test_no_source_prints_a_cell_twice():
    cells = [(f.source, f.sampler, f.kge, f.dataset, f.metric) for f in figures()]
    assert len(cells) == len(set(cells))


def test_what_the_notes_say_holds_for_the_figures():
    """published/README.md: 29 copied cells differ; two impossible cells; two values for RotatE with uniform negatives."""
    original, copied = of("mmrns2022 Table 2"), of("dhns2025 Table 4")
    differing = [cell for cell in copied if cell in original and copied[cell].value != original[cell].value]
    assert len(differing) == 29
    notes = caveats([*original.values(), *copied.values()])
    assert any("29 of those cells differ" in note for note in notes)

    impossible = [(f.sampler, f.kge, f.dataset) for f in figures() if "impossible" in f.note]
    assert sorted(impossible) == [("dhns", "distmult", "mkg_y"), ("ns_kge", "distmult", "mkg_y")]
    for source in ("mmrns2022 Table 2", "dhns2025 Table 4", "dhns2025 Tables 2-3"):
        cells = of(source)
        above = [c[:3] for c in cells if c[3] == "hits@1" and cells[c].value > cells[*c[:3], "mrr"].value]
        assert above == [cell for cell in impossible if (*cell, "mrr") in cells and cell in above]

    twice = caveats([*copied.values(), *of("dhns2025 Tables 2-3").values()])
    assert [note for note in twice if "rotate" in note] == [
        "dhns2025 prints 30.79 and 33.67 for the MRR of rotate with uniform negatives on mkg_w.",
        "dhns2025 prints 29.96 and 34.95 for the MRR of rotate with uniform negatives on mkg_y.",
    ]
    assert caveats([]) == []


def test_the_packaged_file_is_the_shared_one():
    here = Path(__file__).parents[2]
    shared = here.parent / "shared" / "published" / "published_results.csv"
    if not shared.exists():
        pytest.skip("no ../shared/published beside the checkout")
    assert (here / "results" / "published" / "published_results.csv").read_bytes() == shared.read_bytes()
