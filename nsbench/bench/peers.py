"""PyKEEN beside nsbench, on a CPU: loss nssa, filtered basic sampler, the same width, batch and negatives."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch

from nsbench.bench.speed import EPOCHS, Timing, epochs, evaluation, warm
from nsbench.config.run import Config
from nsbench.contracts import Dataset
from nsbench.errors import Misuse


def beside_pykeen(config: Config, dataset: Dataset, rounds: int) -> dict[str, str]:
    """Both in turns. PyKEEN ranks with the best of three batch sizes, chosen on every fifth test triple."""
    theirs = PyKEEN(config, dataset)
    ours = warm(config, dataset, torch.device("cpu"))
    rank = evaluation(ours, dataset)
    theirs.epochs(1)
    rank()
    sizes = {size: theirs.evaluate(size, share=5) for size in (32, 256, 1024)}
    best = min(sizes, key=lambda size: sizes[size])
    trained, ranked = [], []  # (seconds of ours, of theirs)
    for _ in range(rounds):
        here = statistics.median(epochs(ours, EPOCHS))
        trained.append((here, statistics.median(theirs.epochs(EPOCHS + 1)[1:])))  # each call warms up anew
        ranked.append((rank(), theirs.evaluate(best)))
    return {
        "PyKEEN epoch": str(Timing(tuple(there for _, there in trained))),
        "PyKEEN evaluation": f"{Timing(tuple(there for _, there in ranked))} (batch {best})",
        "training": _times(trained),
        "ranking": _times(ranked),
    }


def _times(pairs: list[tuple[float, float]]) -> str:
    """How many times as long PyKEEN takes."""
    ratios = [theirs / ours for ours, theirs in pairs]
    return f"{statistics.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f})"


class PyKEEN:
    """PyKEEN's own trainer and evaluator on our triples."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        try:
            from pykeen.evaluation import RankBasedEvaluator
            from pykeen.losses import NSSALoss
            from pykeen.models import DistMult, RotatE, TransE
            from pykeen.training import SLCWATrainingLoop
            from pykeen.triples import CoreTriplesFactory
        except ImportError:
            raise Misuse("PyKEEN is not installed; pip install 'nsbench[peers]'") from None
        models = {"transe": (TransE, {"scoring_fct_norm": 1}), "distmult": (DistMult, {}), "rotate": (RotatE, {})}
        if config.kge not in models:
            raise Misuse(f"no PyKEEN model stands beside '{config.kge}'; use transe, distmult or rotate")

        def factory(triples: torch.Tensor) -> Any:
            return CoreTriplesFactory(triples, dataset.num_entities, dataset.num_relations)

        self.train, self.test = factory(dataset.train), dataset.test
        self.filter = [dataset.train, dataset.valid]
        protocol = config.protocol
        model, extra = models[config.kge]
        self.model = model(
            triples_factory=self.train,
            embedding_dim=protocol.width,
            random_seed=config.seed,
            loss=NSSALoss(margin=protocol.margin),
            **extra,
        )
        self.model.to("cpu")
        self.batch = protocol.batch
        self.loop = SLCWATrainingLoop(
            model=self.model,
            triples_factory=self.train,
            optimizer=torch.optim.Adam(self.model.parameters(), lr=protocol.learning_rate),
            negative_sampler="basic",
            negative_sampler_kwargs={"num_negs_per_pos": protocol.negatives, "filtered": True},
        )
        self.evaluator = RankBasedEvaluator(filtered=True)
        self.trained = 0

    def epochs(self, count: int) -> list[float]:
        """Seconds of `count` more epochs."""
        from pykeen.training.callbacks import TrainingCallback

        marks = [time.perf_counter()]

        class Mark(TrainingCallback):
            def post_epoch(self, *_: Any, **__: Any) -> None:
                marks.append(time.perf_counter())

        again = self.trained > 0
        self.trained += count  # PyKEEN counts epochs from the first call on
        self.loop.train(
            self.train,
            num_epochs=self.trained,
            batch_size=self.batch,
            use_tqdm=False,
            callbacks=[Mark()],
            continue_training=again,
        )
        return [b - a for a, b in itertools.pairwise(marks)]

    def evaluate(self, batch_size: int, share: int = 1) -> float:
        """Seconds to rank every `share`-th test triple, both sides, filtered."""
        began = time.perf_counter()
        self.evaluator.evaluate(
            self.model, self.test[::share], additional_filter_triples=self.filter, batch_size=batch_size, use_tqdm=False
        )
        return time.perf_counter() - began
