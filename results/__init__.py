"""Run store, statistics and tables. Reads run folders; never imports torch."""

if __name__ != "nsbench.results":
    raise ImportError(
        "import nsbench.results, not results: the repository root is on sys.path (see pyproject.toml, package-dir)"
    )

from nsbench.results.store import load as load
