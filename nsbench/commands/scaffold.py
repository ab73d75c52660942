"""A new sampler's package, written from the files in nsbench/template."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path
from string import Template

from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS

FILES = {  # in the package: its template
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "nsbench_{name}.py": "sampler.py.txt",
    "test_{name}.py": "test.py.txt",
}
LONGEST = 40  # characters of a name; file systems and line lengths have bounds


def new_sampler(name: str, into: Path | None = None) -> str:
    """Write the package of a sampler called `name` to `into` (./nsbench-NAME); returns the commands that come next.

    Raises Misuse, and writes nothing, for a name that is taken or not of the form near_misses, and for a folder that is
    not empty.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise Misuse(
            f"'{name}' cannot name a sampler; use lower-case letters, digits and single underscores as in "
            f"near_misses, {LONGEST} characters at most"
        )
    taken = SAMPLERS.names()
    if name in taken or name in SAMPLERS.broken:
        whose = SAMPLERS.source(name) if name in taken else SAMPLERS.broken[name]
        raise Misuse(f"there is a sampler '{name}' already ({whose}); choose another name")
    folder = into or Path(f"nsbench-{name.replace('_', '-')}")
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"{folder} is a file; give a new or empty folder with --into")
    if folder.is_dir() and any(folder.iterdir()):
        raise Misuse(f"{folder} is not empty; give a new or empty folder with --into")
    _write(folder, rendered(name))
    commands = [
        f"pip install -e {shlex.quote(str(folder))}",
        f"pytest {shlex.quote(str(folder))}",
        f"nsbench check {name}",
        f"nsbench run --sampler {name},uniform --protocol quick --dataset planted:small",
        "nsbench table",
    ]
    return "\n  ".join([f"sampler '{name}' is in {folder / f'nsbench_{name}.py'}; next:", *commands])


def rendered(name: str) -> dict[str, str]:
    """The package's files, as name -> text."""
    words = name.split("_")
    values = {
        "name": name,
        "package": "-".join(["nsbench", *words]),
        "module": f"nsbench_{name}",
        "sampler": "".join(word.capitalize() for word in words) + "Sampler",
    }
    templates = resources.files("nsbench.commands") / "template"
    return {
        file.format(name=name): Template((templates / template).read_text(encoding="utf-8")).substitute(values)
        for file, template in FILES.items()
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    """All files or, after an error, none."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        if folder.is_dir():
            for file in files:
                (folder / file).unlink(missing_ok=True)
        for path in made:
            if path.is_dir():
                path.rmdir()
        raise Misuse(f"cannot write {error.filename or folder}: {error.strerror or error}; choose another folder") from None
