"""What `dhns` promises of its generator, at its default options, on MKG-Y (specification: docs/notes/dhns.md section 9)."""

import pytest
import torch

from nsbench.config.run import configure
from nsbench.datasets.loading import load_dataset
from nsbench.training.trainer import Trainer

STEPS = 500


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("variant", "fusion"), [("recommended", "none"), ("recommended", "adamf"), ("printed", "none")])
def test_a_smaller_state_is_a_harder_negative_of_an_entitys_length(real_data, variant, fusion):
    """TransE, protocol cpu, name features; `printed`, which keeps a misprint, fails: the test can."""
    settings = [] if variant == "recommended" else ["sampler.denoiser=printed"]
    config = configure(
        "dhns", "transe", "mkg_y", protocol="cpu", fusion=fusion, features="names" if fusion == "adamf" else "none",
        settings=settings,
    )  # fmt: skip
    trainer = Trainer(config, load_dataset("mkg_y", features=config.features))
    trainer.pretrain()
    for _ in range(STEPS):
        trainer.step()
    noise = [trainer.sampler.describe()[f"noise_loss_quarter{i}"] for i in range(1, 5)]

    positives = trainer.graph.positives(torch.arange(0, 20_000, 10))
    blocks = trainer.draw(positives, torch.Generator().manual_seed(0))[1:]
    scoring = trainer.scoring()
    with torch.no_grad():
        table = scoring.vectors(torch.arange(trainer.graph.num_entities))
        truth = [table[positives.answer(block.side)].unsqueeze(1) for block in blocks]
        made = [block.generated.vectors for block in blocks]
        length = [(x.square().mean() / true.square().mean()).sqrt().item() for x, true in zip(made, truth)]
        distance = sum((x - true).norm(dim=2).mean(0) for x, true in zip(made, truth))
        score = sum(scoring.block(positives, block)[1].mean(0) for block in blocks)
    ordered = bool((distance.diff() > 0).all() and (score.diff() < 0).all())
    kept = max(noise) < 1 and all(0.85 < x < 1.15 for x in length) and ordered
    assert kept == (variant == "recommended"), (noise, length, distance, score)
