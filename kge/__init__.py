"""Knowledge-graph embedding models, one file per model, with their similarity kernels and fusions."""

if __name__ != "nsbench.kge":
    raise ImportError("import nsbench.kge, not kge; the repository root is on sys.path, see pyproject.toml")
