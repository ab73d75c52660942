"""Kinds of sampler that are not built in pass the battery, as those do that are (samplers/test_contract_of_all.py)."""

import fakes
import pytest
import torch

from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS
from nsbench.testing.rules import assert_contract, check_sampler

PAIRS = [
    ("cache", "none", ()),
    ("straight_through", "none", ()),
    ("generated", "fake_slots", ()),
    ("generated", "fake_slots", ("sampler.joint=fuse", "sampler.anchors=true")),
    ("two_blocks", "none", ()),
    ("memory", "none", ()),
    ("stateless", "none", ("aux.shrinking=0.1",)),
]


@pytest.mark.parametrize(("sampler", "fusion", "settings"), PAIRS)
def test_with_transe(sampler, fusion, settings):
    assert_contract(sampler, "transe", fusion=fusion, settings=settings, device="cpu")


@pytest.mark.parametrize("sampler", ["stateless", "fake_one_vs_all"])
def test_every_rule_is_reported_once_and_in_words(sampler):
    findings = check_sampler(sampler, device="cpu")
    assert len({f.rule for f in findings}) == len(findings) >= 14
    assert [f.rule for f in findings if f.passed is None] == []
    assert all(len(f.words) > 10 for f in findings)


@pytest.mark.gpu
@pytest.mark.parametrize(("sampler", "fusion", "settings"), PAIRS)
def test_on_a_gpu(sampler, fusion, settings):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert_contract(sampler, "transe", fusion=fusion, settings=settings, device="cuda")


PLUGIN = """
from nsbench.contracts import Negatives, Sampler


class Mine(Sampler):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        key = positives.key(side)
        return Negatives(side, ids=view.graph.draw(key, self.k, view.rng), valid=view.graph.drawable(key, self.k))


class Careless(Mine):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.ids = block.ids * 0
        return block
"""


def test_a_plugin_in_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    assert_contract(f"{path}:Mine", device="cpu")
    with pytest.raises(AssertionError, match=r"positives: \(\d+, \d+, \d+\) is a training triple and was returned"):
        assert_contract(f"{path}:Careless", device="cpu")


def test_the_battery_leaves_no_trace():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    names = SAMPLERS.names()
    assert_contract(fakes.Cache, device="cpu")
    assert_contract(type("Fresh", (fakes.Stateless,), {}), device="cpu")
    assert SAMPLERS.names() == names
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_an_impossible_pair_is_a_misuse_not_a_finding():
    with pytest.raises(Misuse, match="two views"):
        check_sampler("mans", device="cpu")
