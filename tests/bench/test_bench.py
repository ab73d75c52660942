"""`nsbench bench`: what a pass is, and what is shown of it."""

import pytest

from nsbench.bench import speed
from nsbench.campaign.plan import dataset_of
from nsbench.config.run import configure
from nsbench.training.trainer import Trainer

FIGURES = ("epoch", "evaluation", "negatives/s", "step", "peak memory", "sampler's state", "ratio")


@pytest.mark.parametrize(("sampler", "passes"), [("igan", 2), ("nscaching", 1), ("ns_kge", 1)])
def test_a_pass_of_samplers_that_take_turns_is_a_mean_of_two(sampler, passes, monkeypatch):
    config = configure(sampler, "distmult", "planted:small", protocol="quick", settings=["protocol.batch=64"])
    planted, steps = dataset_of(config), []
    trainer = Trainer(config, planted)
    monkeypatch.setattr(trainer, "step", lambda: steps.append(1))
    list(speed.epochs(trainer, 3))
    assert len(steps) == 3 * round(passes * len(planted.train) / 64)


def test_bench_shows_what_was_measured(command):
    cell = ("--sampler", "bernoulli", "--kge", "transe", "--dataset", "planted:small", "--protocol", "quick")
    said = command("bench", *cell, "--rounds", "1", "--pairs", "2")
    assert said.code == 0, said.err
    shown = {name: said.out.partition(f"\n{name} ")[2].split() for name in FIGURES}
    assert all(float(words[0].replace(",", "")) > 0 for words in shown.values())
    assert shown["ratio"][1:3] == ["x", "uniform"]
    assert shown["sampler's state"][:2] == [str(4 * 28), "bytes"]  # a float for each relation
