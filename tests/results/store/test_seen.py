"""What a run records of its test triples, for claims that are repeated without unseen entities."""

import numpy as np

import nsbench
from nsbench.campaign import plan as campaign


def test_a_run_records_the_parts_of_its_test_triples(tmp_path):
    options = {"protocol.steps": 4, "protocol.validate_every": 4}
    result = nsbench.run("uniform", "transe", "planted:small", protocol="quick", options=options, runs=tmp_path)
    (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [0], protocol="quick")
    dataset = campaign.dataset_of(config)
    known = set(dataset.train[:, [0, 2]].flatten().tolist())
    expected = [h in known and t in known for h, _, t in dataset.test.tolist()]
    facts = {tuple(fact) for fact in dataset.train.tolist()}
    twins = [any((h, q, t) in facts for q in range(dataset.num_relations) if q != r) for h, r, t in dataset.test.tolist()]
    assert 0 < sum(twins) < len(twins)
    with np.load(result.folder / "ranks.npz") as arrays:
        assert arrays["seen"].dtype == bool
        assert arrays["seen"].tolist() == expected
        assert arrays["twin"].dtype == bool
        assert arrays["twin"].tolist() == twins
    counted = {name: part["queries"] for name, part in result.record["breakdown"]["twin"].items()}
    assert counted == {"twin": 2 * sum(twins), "no twin": 2 * (len(twins) - sum(twins))}
    counted = {name: part["queries"] for name, part in result.record["breakdown"]["seen"].items()}
    assert counted.get("seen", 0) == 2 * sum(expected)
    assert counted.get("unseen", 0) == 2 * (len(expected) - sum(expected))
