"""Scores of generated slots: the mean over the slots that an entity has, or the score of what they fuse to."""

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.testing.rules import toy
from nsbench.training.trainer import Trainer

B, K, S, D = 8, 3, 3, 4


def transe(gamma, head, kept, r, other):
    """gamma - |h + r - t| where `other` replaces the head or the tail beside `kept`."""
    return (gamma - (other + r - kept if head else kept + r - other).abs().sum()).item()


@pytest.mark.parametrize("joint", ["score", "fuse"])
@pytest.mark.parametrize("with_anchors", [False, True])
def test_absent_slots_have_no_say(joint, with_anchors):
    settings = [f"protocol.width={D}", "protocol.batch=16", "protocol.negatives=3"]
    config = configure("uniform", "transe", "toy", protocol="quick", fusion="adamf", settings=settings)
    trainer = Trainer(config, toy(features=True))
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph, live=False)
    rng = torch.Generator().manual_seed(0)
    positives = trainer.graph.positives(torch.randint(129, (B,), generator=rng))
    side, mask = torch.rand(B, generator=rng) < 0.5, torch.rand(B, S, generator=rng) < 0.5
    mask[:, 0] = True
    assert 0 < (~mask).sum() < 2 * B
    vectors, anchors = (torch.randn(B, K, S, D, generator=rng) for _ in range(2))
    block = Negatives(side, generated=Generated(vectors, mask, anchors if with_anchors else None, joint))
    _, found = scoring.block(positives, block)

    gamma, q, fused = trainer.kge.margin, trainer.fusion.q.detach(), scoring.tables["fused"]

    def fuse(slots, have):
        weights = (slots[have].tanh() @ q).softmax(0)
        return weights @ slots[have]

    for i, (h, r, t) in enumerate(positives.hrt.tolist()):
        head, have, relation = bool(side[i]), mask[i], trainer.kge.relation[r].detach()
        for k in range(K):
            kept = [fused[t if head else h]] * S
            if with_anchors:
                kept = list(anchors[i, k]) if joint == "score" else [fuse(anchors[i, k], have)] * S
            if joint == "fuse":
                wanted = transe(gamma, head, kept[0], relation, fuse(vectors[i, k], have))
            else:
                each = [transe(gamma, head, kept[s], relation, vectors[i, k, s]) for s in range(S) if have[s]]
                wanted = sum(each) / len(each)
            assert found[i, k].item() == pytest.approx(wanted, abs=1e-4)
