"""nsbench: what does the negative sampler itself contribute to a knowledge-graph embedding?"""

import importlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsbench.campaign.plan import run as run

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
    """`nsbench.run` and `nsbench.results`, loaded on first use: importing nsbench must not import torch."""
    if name == "run":
        from nsbench.campaign.plan import run

        return run
    if name == "results":
        return importlib.import_module("nsbench.results")
    raise AttributeError(f"module 'nsbench' has no attribute '{name}'")
