"""What the README shows works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nsbench
from nsbench.testing import assert_contract

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (source,) = blocks("python")
    (tmp_path / "mine.py").write_text(source)
    (name,) = re.findall(r"class (\w+)", source)
    return f"{tmp_path / 'mine.py'}:{name}"


def test_the_sampler_runs_and_keeps_the_contract(plugin, tmp_path):
    assert len(blocks("python")[0].splitlines()) < 40
    assert_contract(plugin)
    options = {"protocol.steps": 20, "protocol.validate_every": 10}
    result = nsbench.run(plugin, "transe", "planted:small", protocol="quick", options=options, runs=tmp_path / "runs")
    assert 0 < result.test["mrr"] < 1


def test_both_set_up_commands_stand_there_once():
    text = README.read_text()
    assert text.count("pip install . && nsbench demo") == 1
    assert len(re.findall(r"^pip install -e .* && pytest$", text, flags=re.MULTILINE)) == 1
