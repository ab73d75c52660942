"""Parts of a table by their names."""

import io

from nsbench.results.writers import write


def cell(table, label, metric="mrr", dataset="mkg_y", group="transe"):
    (row,) = [row for row in table.rows if (row.group, row.label) == (group, label) and not row.published]
    (at,) = [i for i, c in enumerate(table.columns) if (c.dataset, c.metric.name) == (dataset, metric)]
    return row.cells[at]


def labels(table):
    return [row.label for row in table.rows if not row.published]


def groups(table):
    return list(dict.fromkeys(row.group for row in table.rows))


def records(table):
    import pandas as pd

    return pd.read_csv(io.StringIO(write(table, "csv")))
