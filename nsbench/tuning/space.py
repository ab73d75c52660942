"""The space of a study, and what is tried of it.

The first trials are drawn at random. From trial STARTUP + LAG - 1 on, when it knows STARTUP of them, a tree-structured
Parzen estimator proposes (Bergstra et al., NeurIPS 2011, as in Optuna). What is drawn for trial n depends on the tuning's
seed, n, and the outcomes of the trials up to n - LAG: neither a kill nor a second process changes the sequence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nsbench.errors import Misuse
from nsbench.options import Search, shown

STARTUP = 4  # trials that the estimator must know of, the defaults among them
LAG = 2  # two processes can work on one study without waiting for each other
BY_CHANCE = 20  # proposals that were tried before, after which the next are drawn at random

Values = Mapping[str, Any]  # by the names of --set: {"sampler.tau": 0.1, "protocol.margin": 3.0}
Space = Mapping[str, Search]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    values: Values
    mrr: float | None  # best on validation; None: it failed
    reason: str = ""  # of the failure
    seconds: float = 0.0


def including(search: Search, default: Any, name: str) -> Search:
    """The place to look, with the default in it: trial 0 has that."""
    if isinstance(search, tuple):
        return search if default in search else (*search, default)
    if default <= 0:
        raise Misuse(f"{name} = {default:g} cannot be tuned by decades; give it a positive value in the protocol")
    return dataclasses.replace(search, low=min(search.low, default), high=max(search.high, default))


def size(space: Space) -> float:
    """How many different trials there are."""
    return math.prod(len(search) if isinstance(search, tuple) else math.inf for search in space.values())


def space_hash(space: Space) -> str:
    text = json.dumps([(name, shown(search)) for name, search in space.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def propose(space: Space, history: Sequence[Trial], tried: Sequence[Values], seed: int) -> Values:
    """Values for trial number len(tried), given the outcomes of earlier ones, none of those tried before.

    A failed trial counts as one of MRR 0.
    """
    import optuna

    where = distributions(space)
    for attempt in itertools.count():
        own = hashlib.sha256(f"{seed} {len(tried)} {attempt}".encode()).digest()
        sampler: Any = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=int.from_bytes(own[:4], "big"))
        if attempt >= BY_CHANCE:
            sampler = optuna.samplers.RandomSampler(seed=int.from_bytes(own[:4], "big"))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(params=dict(trial.values), distributions=where, value=trial.mrr or 0.0)
                for trial in history
            ]
        )
        drawn = study.ask(where).params
        values = {name: _rounded(drawn[name], search) for name, search in space.items()}
        if values not in tried:
            return values
    raise AssertionError


def _rounded(value: Any, search: Search) -> Any:
    """Three digits of a number from a range."""
    if isinstance(search, tuple):
        return value
    return min(max(float(f"{value:.3g}"), search.low), search.high)


def distributions(space: Space) -> dict[str, Any]:
    """The space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(search)
        if isinstance(search, tuple)
        else FloatDistribution(search.low, search.high, log=True)
        for name, search in space.items()
    }
