"""Which model of a run is tested, and when training ends early: by a script of validation MRRs."""

import pytest
import torch
from safetensors.torch import load_file

from nsbench.campaign import plan as campaign
from nsbench.runs import runner
from nsbench.runs.runner import RunOptions


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
