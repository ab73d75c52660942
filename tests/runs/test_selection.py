"""Which model of a run is tested, and when training ends early: by a script of validation MRRs; and what those filter."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from nsbench.campaign import plan as campaign
from nsbench.config.run import configure
from nsbench.runs import runner
from nsbench.runs.folder import RunFolder
from nsbench.runs.runner import RunOptions
from nsbench.testing.toy import toy
from nsbench.training.trainer import Trainer
from tests.training.test_evaluation import Table, naive


@pytest.fixture
def run_by(tmp_path, monkeypatch):
    """run_by(mrrs, *settings): a run with a validation every second step, of which the n-th finds the n-th MRR."""

    def run(mrrs, *settings):
        script, metrics = iter(mrrs), runner.metrics
        monkeypatch.setattr(runner, "metrics", lambda *x: metrics(*x) | {"mrr": next(script, 0.0)})  # the last is the test
        values = ["protocol.validate_every=2", f"protocol.steps={2 * len(mrrs)}", "protocol.width=4",
                  "protocol.decay_factor=1", *settings]  # fmt: skip
        (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [0], protocol="quick", settings=values)
        store = tmp_path / f"{len(mrrs)}-{'-'.join(settings)}"
        done = campaign.carry_out(config, store, RunOptions(save_model=True, diagnose=False))
        monkeypatch.setattr(runner, "metrics", metrics)
        return done

    return run


def entities(done):
    return load_file(done.folder / "model.safetensors")["entity"]


def test_the_tested_model_is_that_of_the_best_validation_or_the_last(run_by):
    mrrs = [0.1, 0.3, 0.2, 0.3, 0.1]
    best, last = (run_by(mrrs, f"protocol.selection={selection}") for selection in ("best", "last"))
    assert (best.record["selected_at"], last.record["selected_at"]) == (4, 10)  # of equals the first
    assert (best.record["valid"]["mrr"], last.record["valid"]["mrr"]) == (0.3, 0.1)
    twin = run_by(mrrs[:2], "protocol.selection=last")  # ends with the fourth step
    assert torch.equal(entities(best), entities(twin))
    assert not torch.equal(entities(best), entities(last))


@pytest.mark.parametrize(("patience", "steps"), [(1, 6), (2, 12)])
def test_training_ends_after_so_many_validations_in_a_row_without_a_better_mrr(run_by, patience, steps):
    done = run_by([0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 0.35], f"protocol.patience={patience}")
    assert done.record["cost"]["steps"] == steps


@pytest.mark.parametrize(("best", "converged"), [(18, True), (19, False), (20, False)])
def test_a_run_has_converged_if_its_best_validation_is_not_in_the_last_tenth_whichever_is_tested(run_by, best, converged):
    mrrs = [0.1] * 20
    mrrs[best - 1] = 0.2
    done = run_by(mrrs, "protocol.selection=last")
    assert (done.record["converged"], done.record["selected_at"]) == (converged, 40)


def facts(*parts):
    return sorted({tuple(triple) for part in parts for triple in part.tolist()})


@pytest.fixture(scope="module")
def entangled():
    """The toy graph where every validation query has a test fact among its candidates, and scores that put those first.

    As with DB15K, the further facts hold one that nobody tests and two that are tested.
    """
    data = toy()
    others = {tuple(triple) for part in (data.train, data.valid) for triple in part.tolist()}
    near = [(h, r, (t + step) % 40) for h, r, t in data.valid.tolist() for step in (3, 4)]
    near += [((h + step) % 40, r, t) for h, r, t in data.valid.tolist() for step in (3, 4)]
    test = torch.tensor(sorted(set(near) - others))
    further = torch.cat([test[:2], torch.tensor([[0, 4, 9]])])
    values = torch.randint(4, (2, 40, 5, 40), generator=torch.Generator().manual_seed(0)).float()
    for score, triples in ((4.0, data.valid), (5.0, test)):
        for h, r, t in triples.tolist():
            values[0, h, r, t] = values[1, t, r, h] = score
    return dataclasses.replace(data, test=test, extra_known=further), Table(values)


def mrr(scorer, triples, *known):
    ranks = torch.tensor(naive(scorer, triples.tolist(), facts(*known), 40)[0], dtype=torch.float64)
    return (1 / ranks.mean(-1)).mean().item()


@pytest.mark.parametrize("tuned", [False, True])
def test_selection_sees_no_test_fact(entangled, tuned, tmp_path, monkeypatch):
    """A naive double loop that filters train, valid and further facts alone gives the MRRs that a model is chosen by."""
    data, scorer = entangled
    further = data.extra_known[2:]
    untested = mrr(scorer, data.valid, data.train, data.valid, further)
    assert mrr(scorer, data.valid, data.train, data.valid, further, data.test) > untested + 0.1  # the filter matters
    monkeypatch.setattr(Trainer, "scoring", lambda self: scorer)
    settings = ["protocol.steps=4", "protocol.validate_every=2", "protocol.batch=8"]
    config = configure("uniform", "transe", "toy", protocol="quick", settings=settings)
    if tuned:
        folder = RunFolder(tmp_path / "trial")
        with folder.claimed():
            found = runner.select(config, data.untested(), folder)
    else:
        folder = runner.execute(config, data, tmp_path, RunOptions(diagnose=False))
        found = folder.result()
        tested = mrr(scorer, data.test, data.train, data.valid, data.test, further)
        assert found["test"]["mrr"] == pytest.approx(tested)
    events = [json.loads(line)["valid"]["mrr"] for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert [found["valid"]["mrr"], *events] == pytest.approx([untested] * 3)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_test_fact_that_train_or_valid_holds_too_is_filtered_as_theirs(entangled, part):
    """The released validation file of DB15K is such: what it says is known without a look at the test file."""
    data, _ = entangled
    both = dataclasses.replace(data, **{part: torch.cat([getattr(data, part), data.test[:3]])})
    assert facts(both.known_untested) == facts(both.train, both.valid, data.extra_known[2:])
    assert facts(both.known) == facts(both.train, both.valid, both.test, data.extra_known)
