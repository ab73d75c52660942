"""Bootstrap intervals of differences, which take a second each: remembered by the content of what they were drawn from.

One small file for each in the user's cache folder; where it cannot be read or written, the interval is drawn again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsbench.results.statistics import BOOTSTRAP_DRAWS, crossed_bootstrap

FORMAT = 1  # raised when the same content would give another interval
SEED = 0


def interval(
    a: NDArray[np.float64], b: NDArray[np.float64], clusters: NDArray[np.int64] | None, draws: int = BOOTSTRAP_DRAWS
) -> tuple[float, float]:
    """95 % percentile interval of the mean of a [S, T] less that of b [S_b, T], over seeds and (clusters [T] of) triples."""
    path = None
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError):  # RuntimeError: there is no home folder
        path = _folder() / _key(a, b, clusters, draws)
        low, high = json.loads(path.read_bytes())
        return float(low), float(high)
    found = crossed_bootstrap(a, np.random.default_rng(SEED), b=b, draws=draws, clusters=clusters).interval
    with contextlib.suppress(OSError):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(found))
            os.replace(temporary, path)
    return found


def _folder() -> Path:
    """Raises RuntimeError where there is no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbench" / "intervals"


def _key(a: NDArray, b: NDArray, clusters: NDArray | None, draws: int) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, SEED, draws, a.shape, b.shape, clusters is None]).encode())
    for array in (a, b) if clusters is None else (a, b, clusters):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
