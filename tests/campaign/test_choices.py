"""What `auto` becomes: protocol by device, fusion by samplers and features."""

import pytest

from nsbench.campaign import plan as campaign
from nsbench.campaign.choices import choose_fusion, choose_protocol
from nsbench.errors import Misuse


def never() -> bool:
    raise AssertionError("nobody asked for features")


@pytest.mark.parametrize(("device", "protocol"), [("cpu", "cpu"), ("cuda", "nsbench"), ("cuda:1", "nsbench")])
def test_the_protocol_goes_by_the_device(device, protocol):
    assert choose_protocol("auto", device).value == protocol
    assert choose_protocol("quick", device) == ("quick", "")


@pytest.mark.parametrize(
    ("samplers", "features", "fusion"),
    [
        (["uniform", "dhns", "mmrns"], True, "adamf"),
        (["uniform", "mans"], True, "two_view"),
        (["dhns"], False, "none"),
    ],
)
def test_the_fusion_goes_by_the_samplers_papers(samplers, features, fusion):
    chosen = choose_fusion("auto", samplers, lambda: features)
    assert chosen.value == fusion
    assert chosen.why


def test_no_features_are_loaded_for_samplers_that_are_built_on_none():
    assert choose_fusion("auto", ["uniform", "mmrns", "ns_kge"], never).value == "none"
    assert choose_fusion("none", ["dhns"], never) == ("none", "")


def test_one_fusion_for_all_samplers_of_a_call():
    with pytest.raises(Misuse, match="dhns is built on adamf and mans is built on two_view"):
        choose_fusion("auto", ["mans", "dhns"], lambda: True)


def test_a_plan_resolves_what_is_auto_for_each_dataset(tmp_path):
    graph = tmp_path / "plain"
    graph.mkdir()
    triples = {"train": "a\tlikes\tb\nb\tlikes\tc\n", "valid": "c\tlikes\ta\n", "test": "a\tlikes\tc\n"}
    for split, text in triples.items():
        (graph / f"{split}.tsv").write_text(text)
    configs = campaign.plan(["uniform", "dhns"], ["transe"], ["planted:small", str(graph)], [0], device="cpu")
    assert [(c.sampler, c.fusion, c.protocol.name) for c in configs] == [
        ("uniform", "adamf", "cpu"),
        ("dhns", "adamf", "cpu"),
        ("uniform", "none", "cpu"),
        ("dhns", "none", "cpu"),
    ]
