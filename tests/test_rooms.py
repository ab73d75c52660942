"""The rules of imports between the packages (pyproject.toml, tool.importlinter)."""

import os
import shutil
import subprocess
import sys

import pytest

FOLDERS = ("samplers", "kge", "datasets", "results")  # which install below nsbench


def test_no_import_breaks_the_rules(checkout, tmp_path):
    pytest.importorskip("importlinter")
    only_python = shutil.ignore_patterns("__pycache__", "*-s[0-9]*", "*.toml", "*.cpp", "*.csv")
    for folder in FOLDERS:
        shutil.copytree(checkout / folder, tmp_path / "nsbench" / folder, ignore=only_python)
    shutil.copytree(checkout / "nsbench", tmp_path / "nsbench", ignore=only_python, dirs_exist_ok=True)
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*linter, "--no-cache"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
