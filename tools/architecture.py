"""Write the list of files in docs/architecture.md: one line each, the first sentence of its docstring.

python tools/architecture.py rewrites the page; a test fails where it is out of date.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
START = "<!-- files: written by tools/architecture.py -->\n"
# In the order of the data's way; folders inside them follow their parent.
TOPS = ("datasets", "samplers", "kge", "nsbench", "results", "tools")


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring. ValueError for a module without one."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{file.relative_to(ROOT)} has no docstring; say in one sentence what it is for")
    return re.split(r"(?<=[.:])\s+(?=[A-Z`])|(?<=\.)$", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0].rstrip(":")


def listing() -> str:
    """Every folder with its modules, as Markdown."""
    lines: list[str] = []
    for top in TOPS:
        folders = {file.parent for file in (ROOT / top).rglob("*.py")}
        for folder in sorted(folders):
            modules = sorted(folder.glob("*.py"), key=lambda file: (file.stem != "__init__", file.stem))
            about = f": {first_sentence(modules[0])}" if modules[0].stem == "__init__" else ""
            lines += ["", f"### `{folder.relative_to(ROOT)}/`{about}", ""]
            lines += [f"- `{file.name}`: {first_sentence(file)}" for file in modules if file.stem != "__init__"]
    return "\n".join(lines[1:]) + "\n"


def page() -> str:
    """The whole page as it should be."""
    kept, mark, _ = PAGE.read_text(encoding="utf-8").partition(START)
    assert mark, f"{PAGE} has lost its line {START}"
    return f"{kept}{mark}\n{listing()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
