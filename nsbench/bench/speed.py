"""How fast: seconds per epoch, evaluation time and peak memory, interleaved with what they are compared with.

The machine is never quiet, so every comparison alternates its two sides within one process and reports ratios.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from nsbench.bench import costs
from nsbench.campaign.plan import dataset_of
from nsbench.config.run import Config
from nsbench.contracts import Dataset, Sampler
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS
from nsbench.results.stats.statistics import t_interval
from nsbench.runs.runner import peak_memory, pick_device, reset_peak_memory
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer

PASS = 10.0  # seconds
LARGE = 2048  # rows and columns of a product that reaches the machine's best speed


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of repeated measurements of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.3f} s ({min(self.seconds):.3f}-{max(self.seconds):.3f})"


def epochs(trainer: Trainer, count: int) -> Iterator[float]:
    """Seconds of one pass over the training triples after another; a mean of two where sampler and model learn in turns.

    Of a pass that takes longer than PASS seconds, some of the steps speak for all.
    """
    sampler = getattr(trainer.sampler, "base", trainer.sampler)  # dhns takes the turns of the sampler that it is put on
    takes_turns = getattr(type(sampler), "phase", Sampler.phase) is not Sampler.phase
    steps = max(1, round((1 + takes_turns) * len(trainer.graph) / trainer.protocol.batch))
    for _ in range(count):
        taken, began = 0, time.perf_counter()
        while taken < steps and (takes_turns or time.perf_counter() - began < PASS):
            trainer.step()
            taken += 1
        costs.wait(trainer.device)
        yield (time.perf_counter() - began) * len(trainer.graph) / (taken * trainer.protocol.batch)


def evaluation(trainer: Trainer, dataset: Dataset) -> Callable[[], float]:
    """A function that ranks the whole test split, both sides, filtered, and returns its seconds, preparation included."""

    def measure() -> float:
        began = time.perf_counter()
        ranking = Ranking(dataset.test, dataset.known, dataset.num_entities, dataset.num_relations, trainer.device)
        ranking.ranks(trainer.scoring())
        return time.perf_counter() - began

    return measure


def measure(config: Config, dataset: Dataset, device: torch.device, rounds: int, epochs_per_round: int) -> dict[str, Any]:
    """Training, evaluation and memory of one configuration; the first epoch is dropped."""
    reset_peak_memory(device)
    before = peak_memory(device)
    trainer = Trainer(config, dataset, device)
    trainer.pretrain()
    next(epochs(trainer, 1))
    train = [statistics.median(epochs(trainer, epochs_per_round)) for _ in range(rounds)]
    rank = evaluation(trainer, dataset)
    rank()
    evaluate = [rank() for _ in range(rounds)]
    return {
        "train": Timing(tuple(train)),
        "evaluate": Timing(tuple(evaluate)),
        "memory": peak_memory(device),
        "memory_before": before,
    }


def against(config: Config, baseline: Config, dataset: Dataset, device: torch.device, pairs: int) -> dict[str, str]:
    """The cost of a step in steps of the baseline, as predicted and as measured, the sampler's products and its memory."""
    one, other = Trainer(config, dataset, device), Trainer(baseline, dataset, device)
    for trainer in (one, other):
        trainer.pretrain()
        next(epochs(trainer, 1))
    guess = costs.predicted(one, other)
    mean, low, high = ratio(one, other, pairs)
    formula = one.sampler.state_bytes(one.setting)
    return {
        "measured": f"{mean:.3f} x {baseline.sampler} (95 % {low:.3f}-{high:.3f}, {pairs} pairs)",
        "predicted": "not stated" if guess is None else f"{guess:.3f} x {baseline.sampler}",
        "products": of_peak(one),
        "state": f"{one.sampler_bytes():,} bytes (formula {'not stated' if formula is None else f'{formula:,}'})",
    }


def of_peak(trainer: Trainer) -> str:
    """What share of a step the sampler's matrix products would take at the speed of a large one, the two timed in turns."""
    flop = 2 * (trainer.sampler.work(trainer.protocol.batch, trainer.setting) or {}).get("products", 0.0)
    if flop == 0:
        return "none stated"
    large = torch.randn(LARGE, LARGE, device=trainer.device)

    def seconds(run: Callable[[], object]) -> float:
        costs.wait(trainer.device)
        began = time.perf_counter()
        run()
        costs.wait(trainer.device)
        return time.perf_counter() - began

    turns = [(2 * LARGE**3 / seconds(lambda: large @ large), seconds(trainer.step)) for _ in range(6)][1:]
    share = statistics.median(flop / speed / step for speed, step in turns)
    speed = statistics.median(speed for speed, _ in turns)
    return f"{flop / 1e9:,.3g} GFLOP in a step, {share:.0%} of it at the {speed / 1e9:,.0f} GFLOP/s of [{LARGE}, {LARGE}]"


def ratio(one: Trainer, other: Trainer, pairs: int) -> tuple[float, float, float]:
    """Geometric mean of (epoch of one / epoch of other) over interleaved pairs, with its 95 % t interval."""
    logs = []
    for turn in range(pairs):
        order = (one, other) if turn % 2 == 0 else (other, one)  # whoever goes second finds warmer caches
        seconds = {id(trainer): next(epochs(trainer, 1)) for trainer in order}
        logs.append(np.log(seconds[id(one)] / seconds[id(other)]))
    low, high = t_interval(logs)
    return float(np.exp(np.mean(logs))), float(np.exp(low)), float(np.exp(high))


def against_pykeen(config: Config, dataset: Dataset, rounds: int, epochs_per_round: int) -> dict[str, Any]:
    """nsbench and PyKEEN in turns, on a CPU: loss nssa, filtered basic sampler, the same width, batch and negatives.

    PyKEEN evaluates with the best of the batch sizes 32, 256 and 1024, chosen on every fifth test triple.
    """
    peer = _PyKEEN(config, dataset)
    device = torch.device("cpu")
    trainer = Trainer(config, dataset, device)
    trainer.pretrain()
    rank = evaluation(trainer, dataset)
    next(epochs(trainer, 1))
    peer.epochs(1)
    rank()
    sizes = {size: peer.evaluate(size, share=5) for size in (32, 256, 1024)}
    best = min(sizes, key=lambda size: sizes[size])
    ours_train, ours_rank, their_train, their_rank = [], [], [], []
    for _ in range(rounds):
        ours_train.append(statistics.median(epochs(trainer, epochs_per_round)))
        their_train.append(statistics.median(peer.epochs(epochs_per_round + 1)[1:]))  # each call warms up anew
        ours_rank.append(rank())
        their_rank.append(peer.evaluate(best))
    return {
        "train": Timing(tuple(ours_train)),
        "evaluate": Timing(tuple(ours_rank)),
        "pykeen_train": Timing(tuple(their_train)),
        "pykeen_evaluate": Timing(tuple(their_rank)),
        "pykeen_batch": best,
        "train_ratios": [b / a for a, b in zip(ours_train, their_train)],
        "evaluate_ratios": [b / a for a, b in zip(ours_rank, their_rank)],
    }


def report(
    configs: list[Config], baseline: str, rounds: int, pairs: int, peers: bool, profile: bool, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One row per configuration, as soon as it is measured; against PyKEEN, or against the baseline sampler."""
    device = pick_device("cpu" if peers else "auto")
    for config in configs:
        dataset = dataset_of(config)
        say(f"measuring {config.cell} ({rounds} rounds{' beside PyKEEN' if peers else ''})")
        found = measure(config, dataset, device, rounds, epochs_per_round=3)
        row: dict[str, Any] = {
            "sampler": config.sampler,
            "kge": config.kge,
            "dataset": config.dataset,
            "entities": dataset.num_entities,
            "epoch": str(found["train"]),
            "evaluation": str(found["evaluate"]),
            "negatives/s": f"{len(dataset.train) * config.protocol.negatives / found['train'].median:,.0f}",
            "step": f"{1000 * found['train'].median * config.protocol.batch / len(dataset.train):.2f} ms",
            "peak memory": f"{found['memory'] / 2**20:.0f} MiB ({found['memory_before'] / 2**20:.0f} before the run)",
        }
        if peers:
            both = against_pykeen(config, dataset, rounds, epochs_per_round=3)
            row |= {
                "PyKEEN epoch": str(both["pykeen_train"]),
                "PyKEEN evaluation": f"{both['pykeen_evaluate']} (batch {both['pykeen_batch']})",
                "training": _times(both["train_ratios"]),
                "ranking": _times(both["evaluate_ratios"]),
            }
        elif config.sampler != baseline:
            row |= against(config, dataclasses.replace(config, **_as_sampler(baseline)), dataset, device, pairs)
        if profile:
            row |= _profile(Trainer(config, dataset, device))
        yield row


def _profile(trainer: Trainer, steps: int = 20, shown: int = 10) -> dict[str, Any]:
    """The operators that take the most of a step, in per cent of it."""
    from torch.profiler import ProfilerActivity

    trainer.pretrain()
    next(epochs(trainer, 1))
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (trainer.device.type == "cuda")
    with torch.profiler.profile(activities=activities) as record:
        for _ in range(steps):
            trainer.step()
        costs.wait(trainer.device)
    where = "self_device_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
    spent = sorted(((getattr(e, where), e.key) for e in record.key_averages()), reverse=True)
    total = sum(seconds for seconds, _ in spent)
    return {f"  {key}": f"{100 * seconds / total:.1f} %" for seconds, key in spent[:shown]}


def _as_sampler(name: str) -> dict[str, Any]:
    return {"sampler": name, "variant": "recommended", "sampler_options": SAMPLERS.get(name).Options()}


def _times(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f})"


class _PyKEEN:
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
