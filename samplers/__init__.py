"""Negative samplers, one file per sampler."""

if __name__ != "nsbench.samplers":
    raise ImportError("import nsbench.samplers, not samplers; the repository root is on sys.path, see pyproject.toml")
