"""From runs to tables: what may stand in one table, its rows and columns, tests, captions and notes."""

from nsbench.results.tables.build import comparison as comparison
