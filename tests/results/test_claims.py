"""Verdicts, the repetition on parts of the triples, doubts that are printed, and the layouts claims and ablation."""

import numpy as np
import pytest
import scipy

from nsbench.errors import Misuse
from nsbench.metrics import reciprocal
from nsbench.results import load
from nsbench.results.stats import statistics
from nsbench.results.stats.clusters import labels
from nsbench.results.store import read
from nsbench.results.tables import ablation
from nsbench.results.tables.build import comparison
from nsbench.results.tables.contrasts import Contrast
from nsbench.results.tables.fields import cliffs_delta, p_rope, p_text
from nsbench.results.writers import write

TRIPLES = 400


def lines(table):
    """label -> metric -> cell."""
    names = [column.metric.name for column in table.columns]
    return {f"{row.group}: {row.label}": dict(zip(names, row.cells)) for row in table.rows}


def shifted(seed, gain, gained=slice(None)):
    """Ranks [T, 2, 2] of about 100, whose reciprocals, of about 0.01, are larger by `gain` on the triples `gained`."""
    value = 0.01 + np.random.default_rng(seed).normal(0, 0.001, (TRIPLES, 2))
    value[gained] += gain
    rank = np.round(1 / value).astype(np.int32)
    return np.stack([rank, rank], axis=2), np.full((TRIPLES, 2), 10_000, np.int32)


def pair(run, gain, gained=slice(None), **arrays):
    """Five seeds of dhns, better by `gain` on the triples `gained`, and five of uniform, which record `arrays`."""
    for seed in range(5):
        run("uniform", seed=seed, ranks=shifted(seed, 0.0), arrays=arrays)
        run("dhns", seed=seed, ranks=shifted(50 + seed, gain, gained), arrays=arrays)


# Verdicts


@pytest.mark.parametrize(
    ("gain", "word", "marks"),
    [(0.001, "better", ("▲", "≈")), (-0.001, "worse", ("▼", "≈")), (0.0, "practically equal", ("≈",))],
)
def test_small_differences_within_the_rope(store, run, gain, word, marks):
    pair(run, gain)
    table = comparison(store)
    (cell,) = [row.cells[0] for row in table.rows if row.label == "dhns"]
    assert cell.marks == marks
    assert cell.record["verdict"] == word
    assert "the 95 % interval of the difference lies within ±0.50" in table.caption.signs
    assert ["▲" in table.caption.signs, "▼" in table.caption.signs] == ["▲" in marks, "▼" in marks]
    claim = lines(comparison(store, layout="claims"))["transe, mkg_y: dhns against uniform"]
    assert claim["verdict"].value == word
    assert claim["verdict"].marks == (("≈",) if word != "practically equal" else ())


def test_figures_of_a_claim(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=1.2)
    record = lines(comparison(store, layout="claims"))["transe, mkg_y: dhns against uniform"]["difference"].record
    frame = load(store)
    ours, theirs = (frame[frame["sampler"] == name] for name in ("dhns", "uniform"))
    wins = np.sign(ours["mrr"].to_numpy()[:, None] - theirs["mrr"].to_numpy())
    assert record["cliffs_delta"] == pytest.approx(wins.mean())
    spread = scipy.stats.t(record["df"], record["difference"], record["standard_error"])
    assert record["p_rope"] == pytest.approx(spread.cdf(0.005) - spread.cdf(-0.005))
    low, high = spread.interval(0.95)
    assert (record["difference_low"], record["difference_high"]) == pytest.approx((low, high))
    t = abs(record["difference"] / record["standard_error"])
    assert record["p"] == pytest.approx(2 * scipy.stats.t.sf(t, record["df"]))


def test_what_a_claim_would_see_is_seen_with_that_power_at_the_first_step_of_holm(store, run):
    for sampler, quality in (("uniform", 1.0), ("dhns", 1.2), ("kbgan", 1.1)):
        run(sampler, seeds=range(5), quality=quality)
    made = comparison(store, layout="claims")
    for cells in lines(made).values():
        record = cells["detectable"].record
        critical, shift = scipy.stats.t.isf(0.025 / 2, record["df"]), record["detectable"] / record["standard_error"]
        below, above = (scipy.stats.nct(record["df"], shift).cdf(end) for end in (-critical, critical))
        assert 1 - above + below == pytest.approx(0.8, abs=1e-4)
        assert cells["detectable"].value == f"{100 * record['detectable']:.2f}"
    assert "with 80 % power, whatever the others show (noncentral t, p < 0.05/2)" in str(made.caption)
    least, most = sorted((cells["detectable"].value for cells in lines(made).values()), key=float)
    words = f"With 80 % power this table would have seen a difference of {least} to {most} points"
    assert words in str(comparison(store).caption)


def test_mass_in_the_rope_without_spread():
    sure = statistics.TwoWayT(0.004, 0.0, np.inf, 0.0, (0.004, 0.004))
    assert (p_rope(sure), p_rope(sure._replace(difference=0.006))) == (1, 0)


def test_captions_say_what_intervals_are_and_claims_alone_explain_the_test(store, run):
    run("dhns", seeds=range(5), quality=2.5)
    run("dhns", seeds=range(5), quality=1.5, options={"sampler": {"hard": False}})
    run("uniform", seeds=range(5))
    claims = str(comparison(store, layout="claims").caption)
    assert "Holm over all 2" in claims
    assert "as in an analysis of variance" in claims
    assert "±" not in claims.replace("±0.50", "")
    assert "Seeds: 0,1,2,3,4." in claims
    table, parts = comparison(store), comparison(store, layout="ablation", baseline="dhns")
    assert "95 % interval, not adjusted for the other rows" in str(parts.caption)
    for caption in (str(table.caption), str(parts.caption)):
        assert "two-way t over seeds and test triples; Holm over all" in caption
        assert "analysis of variance" not in caption


def test_p_is_never_printed_as_zero():
    assert [p_text(p) for p in (0.0, 0.00009, 0.0001, 0.04996)] == ["< 0.0001", "< 0.0001", "0.0001", "0.0500"]


def test_claims_at_a_budget_are_said_to_be(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5, result={"converged": False})
    (cells,) = lines(comparison(store, layout="claims")).values()
    assert (cells["verdict"].value, cells["verdict"].spread) == ("better", "at this budget")


def test_claims_need_a_baseline_and_no_papers(store, run):
    run("dhns", seeds=range(5))
    with pytest.raises(Misuse, match="no row has the baseline uniform beside it"):
        comparison(store, layout="claims")
    with pytest.raises(Misuse, match="leave out --published"):
        comparison(store, layout="claims", published=True)


def test_cliffs_delta_counts_equals_for_neither():
    """G4, and two runs that one of the baseline equals and one does not reach."""
    worked = ([0.30, 0.32, 0.31, 0.33, 0.34], [0.29, 0.31, 0.30, 0.30, 0.32])
    test = statistics.TwoWayT(0, 1, 1, 1, (0, 0))
    for arms, delta in ((worked, 0.6), (([0.3, 0.3], [0.3, 0.2]), 0.5)):
        assert cliffs_delta(Contrast("uniform", test, arms=arms)) == pytest.approx(delta)


def test_how_far_the_tests_are_can_be_heard(store, run):
    run("uniform", seeds=range(5))
    for quality, sampler in enumerate(("dhns", "sans", "kbgan")):
        run(sampler, seeds=range(5), quality=quality)
    heard = []
    comparison(store, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(0, 3), (1, 3), (2, 3)]


# Parts of the triples


def test_claims_are_repeated_without_twins(store, run):
    twins = np.arange(TRIPLES) % 3 == 0
    pair(run, 0.2, gained=twins, twin=twins)  # all that is gained is gained on twins
    (cells,) = lines(comparison(store, layout="claims")).values()
    assert (cells["verdict"].value, cells["seen_verdict"].value) == ("better", "not recorded")
    assert (cells["untwinned_verdict"].value, cells["untwinned_verdict"].spread) == ("practically equal", "(changed)")
    note = (
        "dhns (transe, mkg_y) is better, but practically equal on the test triples whose pair of entities train has under no"
    )
    assert any(text.startswith(note) for text in comparison(store).notes)
    again = statistics.two_way_t(*(arm[:, ~twins] for arm in arms_of(read(store).runs, "dhns", "uniform")))
    record = cells["verdict"].record
    assert record["untwinned_difference"] == pytest.approx(again.difference)
    assert record["untwinned_p_holm"] == pytest.approx(again.p)
    assert "seen_p_holm" not in record


def test_older_runs_that_do_not_record_twins_say_so_in_one_sentence(store, run):
    pair(run, 0.02, seen=np.arange(TRIPLES) >= 80)
    (cells,) = lines(comparison(store, layout="claims")).values()
    assert (cells["seen_verdict"].value, cells["untwinned_verdict"].value) == ("better", "not recorded")
    (said,) = [note for note in comparison(store).notes if "do not record" in note]
    assert said == (
        "Not repeated on test triples whose pair of entities train has under no other relation: the runs of mkg_y do not "
        "record which those are."
    )


def test_claims_are_repeated_on_triples_of_seen_entities(store, run):
    flags = np.arange(TRIPLES) >= 80
    pair(run, 0.2, gained=~flags, seen=flags)  # all that is gained is gained on unseen entities
    table = comparison(store, layout="claims")
    (cells,) = lines(table).values()
    assert cells["verdict"].value == "better"
    assert (cells["seen_verdict"].value, cells["seen_verdict"].spread) == ("practically equal", "(changed)")
    note = "dhns (transe, mkg_y) is better, but practically equal on the test triples whose entities both occur in train"
    assert any(text.startswith(note) for text in comparison(store).notes)
    arms = [arm[:, flags] for arm in arms_of(read(store).runs, "dhns", "uniform")]
    again = statistics.two_way_t(*arms)
    record = cells["verdict"].record
    assert record["seen_difference"] == pytest.approx(again.difference)
    assert record["seen_p_holm"] == pytest.approx(again.p)


def by_hand(raw):
    """Holm: sorted p, each times how many are not smaller, never less than the one before."""
    adjusted, least = {}, 0.0
    for i, name in enumerate(sorted(raw, key=raw.get)):
        least = adjusted[name] = max(least, min(1.0, raw[name] * (len(raw) - i)))
    return adjusted


def arms_of(runs, *samplers):
    return [np.stack([reciprocal(run.ranks().ranks) for run in runs if run["sampler"] == name]) for name in samplers]


def test_the_repetitions_are_a_family_of_their_own(store, run):
    flags = np.arange(TRIPLES) >= 80
    pair(run, 0.0003, seen=flags)
    for i, sampler in enumerate(("sans", "kbgan"), 1):
        for seed in range(5):
            run(sampler, seed=seed, ranks=shifted(100 * i + seed, 0.0002), arrays={"seen": flags})
    runs, found = read(store).runs, lines(comparison(store, layout="claims"))
    samplers = ("dhns", "sans", "kbgan")
    raw = {name: statistics.two_way_t(*(arm[:, flags] for arm in arms_of(runs, name, "uniform"))).p for name in samplers}
    adjusted = by_hand(raw)
    for name in samplers:
        record = found[f"transe, mkg_y: {name} against uniform"]["verdict"].record
        assert record["seen_p_holm"] == pytest.approx(adjusted[name])
        assert record["seen_p_holm"] != pytest.approx(record["p_holm"])
    assert any(adjusted[name] != pytest.approx(raw[name]) for name in samplers)


def test_an_unchanged_verdict_is_no_note(store, run):
    pair(run, 0.02, seen=np.arange(TRIPLES) >= 80)
    (cells,) = lines(comparison(store, layout="claims")).values()
    assert (cells["seen_verdict"].value, cells["seen_verdict"].spread) == ("better", "")
    assert not any("occur in train" in note for note in comparison(store).notes)


def test_runs_that_do_not_record_seen_entities_say_so(store, run):
    pair(run, 0.02)
    (cells,) = lines(comparison(store, layout="claims")).values()
    assert cells["seen_verdict"].value == "not recorded"
    said = (
        "Not repeated on test triples whose entities both occur in train: the runs of mkg_y do not record which those are."
    )
    assert said in comparison(store).notes


# Doubts


def around_hubs(run):
    """Five seeds each of uniform and of dhns, which differ by what 20 hubs do; triples [T, 3]."""
    hub = np.repeat(np.arange(20), TRIPLES // 20)
    factor = np.exp(np.random.default_rng(5).normal(0, 0.5, 20))[hub]
    triples = np.stack([1000 + np.arange(TRIPLES), np.zeros(TRIPLES, int), hub], axis=1)
    for seed in range(5):
        run("uniform", seed=seed, ranks=shifted(seed, 0.0), arrays={"triples": triples})
        stored, candidates = shifted(50 + seed, 0.0)
        moved = np.round(stored * factor[:, None, None]).astype(np.int32)
        run("dhns", seed=seed, ranks=(moved, candidates), arrays={"triples": triples})
    return triples


def test_the_bootstrap_draws_hubs_whole_where_the_test_does(store, run):
    triples = around_hubs(run)
    (cells,) = lines(comparison(store, layout="claims")).values()
    record, (ours, theirs) = cells["bootstrap"].record, arms_of(read(store).runs, "dhns", "uniform")
    drawn = {}
    for by, clusters in (("hub", labels(triples)), ("triple", None)):
        draws = statistics.crossed_bootstrap(ours, theirs, np.random.default_rng(0), clusters)
        drawn[by] = statistics.percentile_interval(draws)
    assert (record["bootstrap_low"], record["bootstrap_high"]) == drawn["hub"]
    assert np.diff(drawn["hub"]) > 1.25 * np.diff(drawn["triple"])


def test_hubs_widen_the_interval_and_are_named(store, run):
    triples = around_hubs(run)
    table = comparison(store)
    (cell,) = [row.cells[0] for row in table.rows if row.label == "dhns"]
    assert cell.record["inflation"] > 1.25
    (note,) = [note for note in table.notes if "hub entity" in note]
    assert f"{cell.record['inflation']:.2f} times the plain one for dhns (transe, mkg_y)" in note
    arms = arms_of(read(store).runs, "dhns", "uniform")
    assert cell.record["p"] > statistics.two_way_t(*arms).p
    assert cell.record["p"] == pytest.approx(statistics.two_way_t(*arms, clusters=labels(triples)).p)


def test_ties_that_could_move_the_mrr_are_named(store, run):
    pair(run, 0.0)
    assert not any(note.startswith("Ties") for note in comparison(store).notes)
    tied, candidates = shifted(7, 0.0)
    tied[:, :, 0] //= 2
    run("sans", seed=0, ranks=(tied, candidates))
    for seed in range(1, 5):
        run("sans", seed=seed, ranks=shifted(70 + seed, 0.0))
    (note,) = [note for note in comparison(store).notes if note.startswith("Ties")]
    assert "for sans (transe, mkg_y)" in note
    assert "dhns" not in note


def test_seeds_beyond_the_plan_are_named(store, run):
    for sampler in ("uniform", "dhns"):
        run(sampler, seeds=range(7), quality=1 + (sampler == "dhns"), protocol={"seeds": 5})
    (note,) = [note for note in comparison(store).notes if note.startswith("Seeds beyond")]
    assert "5, 6." in note
    assert not any(note.startswith("Seeds beyond") for note in comparison(store, where={"seed": "0,1,2,3,4"}).notes)


def test_a_cell_whose_runs_are_unfinished_says_so(store, run):
    run("uniform", seeds=range(2))
    run("dhns", "rotate", seeds=range(2))
    run("dhns", seeds=range(2), dataset="mkg_w")
    for path in run("uniform", seeds=range(2), dataset="mkg_w"):
        (path / "result.json").unlink()
    table = comparison(store)
    rows = [row for row in table.rows if row.group == "transe"]
    shown = {(row.label, column.dataset): cell for row in rows for column, cell in zip(table.columns, row.cells)}
    assert shown["uniform", "mkg_w"].value == "unfinished"
    assert shown["uniform", "mkg_w"].record["status"] == "unfinished"
    assert shown["dhns", "mkg_y"].value == "-"


# Ablation


def test_ablation(store, run):
    loss = {"aux": {"diffusion": 1.0}, "versions": {"aux.diffusion": 1}}
    run("dhns", seeds=range(5), quality=2.5, **loss)
    run("dhns", seeds=range(5), quality=1.5)
    run("dhns", seeds=range(5), quality=1.8, options={"sampler": {"hard": False}}, **loss)
    run("dhns", seeds=range(5), quality=1.0, options={"sampler": {"hard": False, "k": 3}})
    run("uniform", seeds=range(5))
    full = "dhns (aux.diffusion=1.0)"
    table = comparison(store, layout="ablation", baseline=full)
    assert [row.label for row in table.rows] == [
        f"{full}: full",
        "without diffusion",
        "without hard",
        "without diffusion and without hard and k=3",
    ]
    assert [column.header for column in table.columns] == ["MRR ↑", "Δ MRR", "H@1 ↑", "H@3 ↑", "H@10 ↑"]
    deltas = [row.cells[1] for row in table.rows]
    assert deltas[0].value == "-"
    assert [cell.marks for cell in deltas[1:]] == [("▼",), ("▼",), ("▼",)]
    means = [row.cells[0].record["mean"] for row in table.rows]
    for cell, mean in zip(deltas[1:], means[1:]):
        assert cell.record["difference"] == pytest.approx(mean - means[0])
        assert cell.record["family"] == 3
        low, high = cell.record["difference_low"], cell.record["difference_high"]
        assert cell.spread == f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    assert not any(row.cells[0].marks for row in table.rows)
    assert "Holm over all 3" in str(table.caption)
    assert "Δ MRR" in write(table, "md")


def test_ablation_without_enough_seeds_shows_differences_and_tests_nothing(store, run):
    run("dhns", seeds=range(2), quality=2.5)
    run("dhns", seeds=range(2), quality=1.5, options={"sampler": {"hard": False}})
    table = comparison(store, layout="ablation", baseline="dhns")
    cell = table.rows[1].cells[1]
    assert (cell.spread, cell.marks, cell.record["verdict"]) == ("", (), "not testable")
    means = [row.cells[0].record["mean"] for row in table.rows]
    assert cell.value == f"{100 * (means[1] - means[0]):+.2f}"


def test_ablation_must_know_the_full_method(store, run):
    run("dhns", options={"sampler": {"hard": False}})
    run("dhns", options={"sampler": {"k": 3}})
    with pytest.raises(Misuse, match=r"which row is the full method\? name one .*: dhns \(hard=false\), dhns \(k=3\)"):
        comparison(store, layout="ablation", baseline="dhns")
    run("sans")
    with pytest.raises(Misuse, match="no run of 'uniform' to ablate"):
        comparison(store, layout="ablation")
    assert ablation.sampler_of(read(store).runs, "dhns (k=3)") == "dhns"


def rows_of(store, **how):
    return [row.label for row in comparison(store, layout="ablation", **how).rows]


def test_the_full_method_of_a_protocol_that_sets_sizes_is_known(store, run):
    """As the runs of results/runs/weight.nsb are: sizes of the protocol, a weight of the user, and what a variant sets."""
    sizes = {"timesteps": 20, "weight": 1.0}
    made = {"protocol": {"name": "cpu"}, "proposed": {"timesteps": 20}, "seeds": range(2)}
    run("dhns", quality=2, options={"sampler": sizes}, **made)
    run("dhns", options={"sampler": {**sizes, "chain": "forward"}}, variant="forward", **made)
    run("dhns", options={"sampler": {"weight": 1.0}}, **made)
    run("dhns", fusion="adamf", options={"sampler": sizes}, **made)
    assert rows_of(store) == ["dhns (weight=1.0): full", "forward", "fusion=adamf", "timesteps=default"]
    made["proposed"] = {}
    run("uniform", **made)
    run("uniform", fusion="adamf", **made)
    for full in ("uniform", "uniform (fusion=adamf)"):
        with pytest.raises(Misuse, match="only the full method, uniform"):
            comparison(store, layout="ablation", baseline=full)
    assert rows_of(store, baseline="dhns") == ["dhns (weight=1.0): full", "forward", "fusion=adamf", "timesteps=default"]


def test_the_published_ablation_stands_beside_ours(store, run):
    run("dhns", "rotate", seeds=range(3), quality=2.5)
    run("dhns", "rotate", seeds=range(3), quality=1.5, variant="wo_mmc")
    run("dhns", "rotate", seeds=range(3), quality=1.2, variant="wo_mmc", options={"sampler": {"k": 3}})
    run("dhns", "transe", seeds=range(3), quality=1.5)
    table = comparison(store, layout="ablation", baseline="dhns", published=True, where={"variant": "recommended,wo_mmc"})
    shown = [(row.group, row.label, *(cell.value for cell in row.cells)) for row in table.rows if row.published]
    # dhns2025, Table 5: 39.11 / 34.70 / 41.23 in full, 35.75 / 33.06 / 39.02 without MMC
    assert shown == [
        ("rotate", "published: dhns2025 Table 5", "39.11", "-", "34.70", "41.23", "-"),
        ("rotate", "published: dhns2025 Table 5", "35.75", "-3.36", "33.06", "39.02", "-"),
    ]
    assert [row.label for row in table.rows if not row.published] == ["dhns: full", "dhns: full", "wo_mmc", "k=3 and wo_mmc"]
    assert [row.published for row in table.rows] == [False, False, True, False, True, False]
    assert any("never tested" in note for note in table.notes)
    ours, theirs = table.rows[1].cells[0].record, table.rows[2].cells[0].record
    assert theirs["ours_minus_published"] == pytest.approx(ours["mean"] - 0.3911)


def test_the_published_ablation_alone(tmp_path):
    table = comparison(tmp_path, layout="ablation", published=True, where={"dataset": "mkg_y,mkg_w"})
    names = ["dhns", *(f"dhns ({name})" for name in ("wo_diffheg", "wo_mmc", "wo_mhld", "wo_ntat", "wo_hal"))]
    assert sorted(row.label for row in table.rows if not row.published) == sorted(names)
    drops = {ours.label: theirs.cells[1].value for ours, theirs in zip(table.rows[::2], table.rows[1::2])}
    assert drops["dhns (wo_diffheg)"] == "-6.66"  # 29.02 - 35.68 on MKG-W
    assert "nsbench run --sampler dhns" in str(table.caption)
    assert not any("dhns2025 prints" in note for note in table.notes)  # of one cell several values
