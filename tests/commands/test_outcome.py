"""What an only run ends with: its figures, the published ones of its cell, and the baseline that is fair to it."""

import json
import re

from nsbench.campaign import plan as campaign
from nsbench.commands.outcome import outcome
from nsbench.config.run import configure

NOTHING = {"protocol": "auto", "features": "auto", "split": None, "runs": None}


def finished(store, config):
    """A folder that looks like a finished run's."""
    folder = campaign.folder_of(config, store).path
    folder.mkdir(parents=True)
    test = {"mrr": 0.1234, "hits@1": 0.05, "hits@3": 0.2, "hits@10": 0.3, "mr": 99.6}
    (folder / "result.json").write_text(json.dumps({"test": test, "converged": True}))
    return folder


def test_the_baseline_is_named_until_it_is_there(tmp_path):
    config = configure("nscaching", "transe", "planted:small", protocol="quick", fusion="adamf")
    folder = finished(tmp_path, config)
    test, baseline = outcome(config, tmp_path, {**NOTHING, "protocol": "quick", "runs": "here"})
    assert re.findall(r"[\d.]+", test)[:6] == ["12.34", "1", "5.00", "3", "20.00", "10"]
    assert folder.name in test
    cell = "--sampler uniform --kge transe --dataset planted:small --fusion adamf"
    assert baseline.endswith(f": nsbench run {cell} --protocol quick --runs here")
    *_, baseline = outcome(config, tmp_path, NOTHING, ["sampler.tau=2", "protocol.steps=9", "aux.mat=1"])
    assert baseline.endswith(f" {cell} --set protocol.steps=9")
    finished(tmp_path, configure("uniform", "transe", "planted:small", protocol="quick", fusion="adamf"))
    assert len(list(outcome(config, tmp_path, NOTHING))) == 1


def test_published_figures_of_the_cell_stand_below(tmp_path, monkeypatch):
    """As printed: mmrns2022 Table 2, Bernoulli with TransE on MKG-W."""
    config = configure("bernoulli", "transe", "planted:small", protocol="quick")
    finished(tmp_path, config)
    monkeypatch.setattr("nsbench.commands.outcome.dataset_of", lambda config: type("D", (), {"name": "mkg_w"})())
    monkeypatch.setattr("nsbench.commands.outcome.reference_of", lambda *_: type("F", (), {"complete": True})())
    lines = list(outcome(config, tmp_path, NOTHING))
    (line,) = [line for line in lines if line.startswith("mmrns2022 Table 2")]
    assert "MRR 28.98" in line
    assert "HITS@1 22.99" in line
    assert "HITS@3 31.48" in line
