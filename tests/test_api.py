"""nsbench from Python: the public names, run and table."""

import subprocess
import sys

import pytest

import nsbench
from nsbench.runs.result import Result

QUICK = {"protocol.steps": 20, "protocol.validate_every": 10, "protocol.width": 8}
RUN = {"dataset": "planted:small", "protocol": "quick", "options": QUICK, "device": "cpu"}


def test_importing_nsbench_is_quick_and_shows_the_public_names(checkout):
    script = "import sys, nsbench; print(dir(nsbench), nsbench.__all__); print({'torch', 'numpy'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, check=True).stdout
    names = ["__version__", "results", "run", "table"]
    assert shown == f"{names} {names}\nset()\n"
    assert all(getattr(nsbench, name) for name in names)
    with pytest.raises(AttributeError, match="nothing"):
        nsbench.nothing  # noqa: B018


def test_one_seed_makes_a_result_and_several_make_a_list(tmp_path):
    one = nsbench.run(seed=1, runs=tmp_path, **RUN)
    assert isinstance(one, Result)
    several = nsbench.run(seeds=2, runs=tmp_path, **RUN)
    assert [result.record["config"]["seed"] for result in several] == [0, 1]
    assert several[1] == one
    assert nsbench.run(seeds=[1], runs=tmp_path, **RUN) == [one]


def test_results_and_tables_read_well_in_a_notebook(tmp_path):
    (result,) = nsbench.run(seeds=[0], runs=tmp_path / "a<b", **RUN)
    shown, page = repr(result), result._repr_html_()
    for text in (f"{100 * result.test['mrr']:.2f}", "HITS@10"):
        assert text in shown
        assert text in page
    assert str(result.folder) in shown
    assert "a&lt;b" in page
    assert "a<b" not in page
    table = nsbench.table(tmp_path / "a<b", "cost", where={"seed": 0})
    assert [row.label for row in table.rows] == ["uniform"]
    with pytest.raises(nsbench.errors.Misuse, match="unknown layout"):
        nsbench.table(tmp_path / "a<b", "nonsense")
