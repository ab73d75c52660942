"""A table as csv, one line for each cell."""

from __future__ import annotations

import csv
import io

from nsbench.results.store.inventory import no_formula
from nsbench.results.tables.cells import Table
from nsbench.results.tables.fields import FIELDS
from nsbench.results.writers.words import shown

PLAIN = {"best": "{}", "second": "{}", "": "{}"}


def long_csv(table: Table) -> str:
    """Long and unrounded: one line per cell, figures as stored (fractions, seconds, bytes), empty where none is.

    What a spreadsheet would compute gets an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in FIELDS], lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in table.rows:
        for cell in row.cells:
            said = shown(cell, PLAIN)
            record = {**cell.record, "shown": said, "best": cell.style == "best", "second": cell.style == "second"}
            writer.writerow({k: repr(float(v)) if isinstance(v, float) else no_formula(v) for k, v in record.items()})
    return out.getvalue()
