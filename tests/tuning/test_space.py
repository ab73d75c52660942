"""Spaces, and what is proposed in them."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studying import BASE, plan

from nsbench.errors import Misuse
from nsbench.options import Range, build_options, searched
from nsbench.registry import SAMPLERS
from nsbench.tuning.space import LAG, Trial, including, propose, size

PUBLISHED = {  # numeric options for which the papers or their scripts give several values (shared/specs)
    "nscaching": {"cache", "candidates", "tau"},
    "kbgan": {"l2"},
    "igan": {"width", "learning_rate", "margin"},
    "sans": {"hops"},
    "mans": {"visual_epochs", "visual_share"},
    "ns_kge": {"balance"},
    "mmrns": {"exploration", "beta", "learning_rate"},
    "dhns": {"timesteps", "learning_rate", "weight"},
}


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_what_a_paper_tuned_has_a_space_of_values_that_the_option_takes(name):
    options = SAMPLERS.get(name).Options
    spaces = searched(options)
    assert PUBLISHED.get(name, set()) <= set(spaces)
    for option, search in spaces.items():
        values = search if isinstance(search, tuple) else (search.low, search.high)
        assert len(set(values)) == len(values) > 1
        for value in values:
            assert getattr(build_options(options, {option: value}, "sampler"), option) == value
        default = getattr(options(), option)
        assert including(search, default, option) == search  # the default is one of them


@settings(max_examples=20)
@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6), st.integers(0, 9))
def test_proposals_lie_in_their_range(low, high, seed):
    space = {"sampler.x": Range(low, high * 2), "sampler.z": ("a", "b")}
    tried = []
    for _ in range(2):
        tried.append(propose(space, [], tried, seed))
        assert low <= tried[-1]["sampler.x"] <= high * 2
        assert tried[-1]["sampler.z"] in ("a", "b")
    assert tried == [propose(space, [], tried[:n], seed) for n in range(2)]


def test_a_choice_of_values_is_exhausted():
    space = {"sampler.size": (1, 2, 3), "sampler.kind": ("a", "b")}
    assert size(space) == 6
    assert size({**space, "sampler.tau": Range(0.1, 1.0)}) == math.inf
    tried = []
    for _ in range(6):
        tried.append(propose(space, [], tried, seed=0))
    assert sorted(tuple(values.values()) for values in tried) == [(n, kind) for n in (1, 2, 3) for kind in "ab"]


def test_the_search_comes_closer_than_chance():
    space, distances = {"tau": Range(1e-2, 1e2)}, []
    for target, seed in itertools.product((-2, 2), range(4)):
        trials = [Trial({"tau": 1.0}, 0.0)]
        while len(trials) < 20:
            history = trials[: len(trials) - LAG + 1]
            values = propose(space, history, [trial.values for trial in trials], seed)
            trials.append(Trial(values, -abs(math.log10(values["tau"]) - target)))
        distances += [-trial.mrr for trial in trials[10:]]
    assert sum(distances) / len(distances) < 2 - 2 * 1.15 / math.sqrt(len(distances))  # at random: 2 +- 1.15 each


def test_a_default_outside_of_the_space_joins_it(tmp_path, ledger):
    path = tmp_path / "far.toml"
    path.write_text(BASE + "learning_rate = 0.5\nmargin = 7.5\n")
    space = plan(str(path), ledger, ["uniform"], 2)[0].space
    assert space["protocol.learning_rate"] == Range(1e-4, 0.5)
    assert 7.5 in space["protocol.margin"]
    path.write_text(BASE + "learning_rate = 0\n")
    with pytest.raises(Misuse, match=r"protocol\.learning_rate"):
        plan(str(path), ledger, ["uniform"], 2)


def test_what_the_protocol_fixes_is_not_tuned(tmp_path, ledger):
    path = tmp_path / "fixed.toml"
    path.write_text(BASE + "[sampler.nscaching]\ncache = 20\n")
    study = plan(str(path), ledger, ["nscaching"], 2)[1]
    assert set(study.space) == {"sampler.candidates", "sampler.tau"}
