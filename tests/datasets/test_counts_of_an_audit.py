"""What an audit counts, against loops over Python sets on random graphs."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from nsbench.datasets.audit import audit


def triples(rng: Random, number: int) -> list[tuple[int, int, int]]:
    return [(rng.randrange(7), rng.randrange(4), rng.randrange(7)) for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_sets(tmp_path: Path, writer: Callable[..., Path], seed: int) -> None:
    rng = Random(seed)
    train, valid, test = triples(rng, 9), triples(rng, 12), triples(rng, 15)
    folder = writer(tmp_path / "g", [f"e{i}" for i in range(7)], [f"r{i}" for i in range(4)], train, valid, test)
    found = {finding.key: finding.count for finding in audit(folder)}
    pairs, relations = {(h, t) for h, _, t in train}, {r for _, r, _ in train}
    entities = {e for pair in pairs for e in pair}
    expected = {
        "valid_in_train": len(set(valid) & set(train)),
        "valid_in_test": len(set(valid) & set(test)),
        "valid_in_neither": len(set(valid) - set(train) - set(test)),
        "test_in_train": len(set(test) & set(train)),
        "test_unseen": sum(h not in entities or t not in entities for h, _, t in test),
        "head_answer_unseen": sum(h not in entities for h, _, _ in test),
        "tail_answer_unseen": sum(t not in entities for _, _, t in test),
        "test_relation_unseen": sum(r not in relations for _, r, _ in test),
        "inverse_pairs": sum((t, h) in pairs for h, _, t in test),
        "twins": sum(any((h, q, t) in train for q in range(4) if q != r) for h, r, t in test),
        "most_heads": max(len({h for h, *rest in train if rest == [r, t]}) for _, r, t in train),
        "most_tails": max(len({b for a, q, b in train if (a, q) == (h, r)}) for h, r, _ in train),
    }
    assert {key: found[key] for key in expected} == expected
