"""One contrast by itself, and which cells get none."""

import json

import numpy as np
import pytest

from nsbench.results import load
from nsbench.results.stats.statistics import two_way_t
from nsbench.results.store.scores import Scores
from nsbench.results.tables import comparison
from nsbench.results.tables.contrasts import contrast_of

SEEDS, TRIPLES = 5, 60


def arms(ties=(0.0, 0.0)):
    """Two arms that differ by what ten hubs do; hubs [T], and triples of seen entities [T]."""
    rng = np.random.default_rng(4)
    hubs = np.repeat(np.arange(10), 6)
    effect = rng.normal(0, 1, 10)[hubs]
    values = [rng.normal(0, 0.1, (SEEDS, TRIPLES)) + gain * effect for gain in (1, 0)]
    triples = np.zeros((TRIPLES, 3), np.int64)
    ours, theirs = (Scores(y, triples, tie) for y, tie in zip(values, ties))
    return ours, theirs, hubs, {"seen": np.arange(TRIPLES) % 6 < 4}


def test_the_repetition_on_seen_triples_is_clustered_too():
    ours, theirs, hubs, apart = arms()
    both_seen = apart["seen"]
    again = contrast_of("uniform", ours, theirs, hubs, apart).again["seen"].test
    kept = ours.values[:, both_seen], theirs.values[:, both_seen]
    assert again == two_way_t(*kept, clusters=hubs[both_seen])
    assert again.inflation > 1.5
    assert again.standard_error > 1.5 * two_way_t(*kept).standard_error


@pytest.mark.parametrize("ties", [(0.2, 0.01), (0.01, 0.2)])
def test_ties_of_either_arm_could_move_the_difference(ties):
    assert contrast_of("uniform", *arms(ties)).ties == 0.2


@pytest.mark.parametrize("short", ["dhns", "uniform"])
def test_an_arm_whose_other_runs_failed_is_not_tested(store, run, short):
    for sampler, quality in (("uniform", 1.0), ("dhns", 2.0), ("sans", 2.0)):
        run(sampler, seeds=range(5), quality=quality)
    for path in run(short, seeds=range(5, 8)):
        (path / "result.json").unlink()
        (path / "failed.json").write_text(json.dumps({"reason": "out of memory"}))
    assert len(load(store)) == 15
    table = comparison(store)
    tested = {row.label: "p_holm" in row.cells[0].record for row in table.rows}
    assert tested == {"uniform": False, "dhns": False, "sans": short == "dhns"}
