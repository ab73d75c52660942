"""Every sampler, model and fusion train and rank together or are refused in a sentence: docs/combinations.md."""

from __future__ import annotations

import functools
import itertools
import runpy
import warnings
from pathlib import Path

import pytest
import torch

from nsbench.config.run import configure
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS
from nsbench.testing.rules import toy
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
tool = functools.cache(lambda: runpy.run_path(str(ROOT / "tools" / "combinations.py")))
SIZES = ("width=8", "batch=16", "negatives=4", "steps=10")
FEW = {
    "dhns": ["timesteps=10"],
    "dhns_released": ["timesteps=10"],
    "kbgan": ["pretrain_epochs=2"],
    "mmrns": ["candidates=8"],
}


def accepted(rows: list[str]) -> list[tuple[str, str, str]]:
    """(sampler or aux.NAME, model, fusion) that the configuration takes."""
    models, fusions = tool()["built_in"](MODELS), tool()["built_in"](FUSIONS)
    return [cell for cell in itertools.product(rows, models, fusions) if not refusal(*cell)]


def refusal(row: str, kge: str, fusion: str) -> str:
    if row.startswith("aux."):
        return tool()["refusal"]("uniform", kge, fusion, f"{row}=1")
    return tool()["refusal"](row, kge, fusion)


def rows() -> list[str]:
    return [*tool()["built_in"](SAMPLERS), *(f"aux.{name}" for name in tool()["built_in"](AUXILIARIES))]


def cover(cells: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Some of the cells, in which every pair of parts that is in one of the cells is met; greedily."""

    def pairs(cell: tuple[str, str, str]) -> set[tuple[str, str]]:
        return set(itertools.combinations(cell, 2))

    left = {pair for cell in cells for pair in pairs(cell)}
    taken = []
    while left:
        best = max(cells, key=lambda cell: len(pairs(cell) & left))
        taken.append(best)
        left -= pairs(best)
    return taken


def trains_and_ranks(row: str, kge: str, fusion: str) -> None:
    sampler = "uniform" if row.startswith("aux.") else row
    settings = [f"protocol.{size}" for size in SIZES] + [f"sampler.{value}" for value in FEW.get(sampler, ())]
    settings += [f"{row}=0.5"] if row.startswith("aux.") else []
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=settings)
    data = toy(features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chains too short for their levels, perturbed distances
        trainer = Trainer(config, data)
        before = trainer.model_state()
        trainer.pretrain()
        for _ in range(10):
            trainer.step()
    after = trainer.model_state()
    assert any(not torch.equal(before[name], after[name]) for name in before), "nothing was learnt"
    known = torch.cat([data.train, data.valid, data.test])
    ranks, candidates = Ranking(data.test, known, data.num_entities, data.num_relations).ranks(trainer.scoring())
    assert (ranks >= 1).all()
    assert (ranks <= candidates.unsqueeze(2)).all()


def test_the_page_is_up_to_date():
    assert tool()["PAGE"].read_text(encoding="utf-8") == tool()["page"](), "run python tools/combinations.py"


def test_a_row_works_with_a_model_and_a_fusion_where_it_works_with_each():
    models, fusions = tool()["built_in"](MODELS), tool()["built_in"](FUSIONS)
    for row in rows():
        works = {(kge, fusion) for kge, fusion in itertools.product(models, fusions) if not refusal(row, kge, fusion)}
        with_model, with_fusion = {kge for kge, _ in works}, {fusion for _, fusion in works}
        assert works == set(itertools.product(with_model, with_fusion)), row


def test_every_pair_of_parts_trains_and_ranks_in_some_combination():
    failed = []
    for cell in cover(accepted(rows())):
        try:
            trains_and_ranks(*cell)
        except Exception as error:  # all of them, for one reading
            failed.append(f"{' '.join(cell)}: {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row) for row in rows()])
def test_every_combination_trains_and_ranks(row):
    for cell in accepted([row]):
        trains_and_ranks(*cell)
