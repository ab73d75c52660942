"""nsbench: what does the negative sampler itself contribute to a knowledge-graph embedding?

From Python: `nsbench.run` makes runs, `nsbench.table` compares them, `nsbench.results.load` reads them into a frame.
"""

import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsbench import results as results
    from nsbench.api import run as run
    from nsbench.api import table as table

__all__ = ["__version__", "results", "run", "table"]

# Threads that wait for each other at the end of a kernel sleep instead of spinning. That costs a fifth of the speed on a
# quiet machine, and more in small runs, which therefore take one thread. With another process on one of the cores, spinning
# makes a run 3 to 24 times slower. OpenMP reads this when torch is loaded: who imports torch before nsbench sets it earlier.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# In a checkout the packages below nsbench lie beside this folder (pyproject.toml, package-dir). When Python finds
# ./nsbench through the working directory instead of the installed copy, let it find them there.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "samplers" / "__init__.py").exists() and not (Path(__file__).parent / "samplers").exists():
    __path__.append(str(_checkout))

try:
    __version__ = metadata.version("nsbench")
except metadata.PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The public names, loaded on first use: importing nsbench must not import torch."""
    if name == "results":
        return importlib.import_module("nsbench.results")
    if name in __all__:
        return getattr(importlib.import_module("nsbench.api"), name)
    raise AttributeError(f"module 'nsbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
