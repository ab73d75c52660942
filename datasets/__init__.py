"""Datasets: triples, features, splits and audits."""

if __name__ != "nsbench.datasets":
    raise ImportError("import nsbench.datasets, not datasets; the repository root is on sys.path, see pyproject.toml")
