"""What nobody foresaw, as a file to send: versions, command line, traceback."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from nsbench.errors import RunFailed
from nsbench.files import write_text

PACKAGES = ("nsbench", "torch", "numpy", "scipy", "pandas", "click", "rich", "optuna", "ray")


def circumstances(error: BaseException) -> dict[str, Any]:
    """What whoever mends an error wants to know first."""
    versions = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    trace = "".join(traceback.format_exception(error))
    return {"command": shlex.join(sys.argv), "versions": versions, "traceback": trace}


def report(error: BaseException) -> Path | None:
    """Write what is known of an error into this folder, or another that can be written; None where none can."""
    found = circumstances(error)
    versions = "\n".join(f"{name} {version}" for name, version in found["versions"].items())
    name = f"nsbench-bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):  # the first may have been removed
        with contextlib.suppress(OSError, RunFailed):
            path = folder() / name
            write_text(path, f"{found['command']}\n\n{versions}\n\n{found['traceback']}")
            return path
    return None
