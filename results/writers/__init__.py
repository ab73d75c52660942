"""Tables as text: for the terminal, Markdown, LaTeX, csv and HTML. What a table says is decided in results.tables."""

from __future__ import annotations

from collections.abc import Callable

from nsbench.errors import Misuse
from nsbench.results.tables.cells import Table
from nsbench.results.writers.html import page
from nsbench.results.writers.latex import latex
from nsbench.results.writers.long_csv import long_csv
from nsbench.results.writers.markdown import markdown
from nsbench.results.writers.terminal import plain
from nsbench.results.writers.terminal import show as show

FORMS: dict[str, Callable[[Table], str]] = {"rich": plain, "md": markdown, "latex": latex, "csv": long_csv, "html": page}


def write(table: Table, form: str) -> str:
    """The table as one string; `form` is a key of FORMS. The terminal's form comes plain, as wide as it needs to be."""
    if form not in FORMS:
        raise Misuse(f"unknown format '{form}'; there are {', '.join(FORMS)}")
    return FORMS[form](table)
