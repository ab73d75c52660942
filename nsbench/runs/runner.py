"""One run from configuration to result.json: train, select on validation, rank the test triples, write; or resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsbench.config.run import Config
from nsbench.config.tuned import chosen_by
from nsbench.contracts import Dataset, Sampler, Scoring
from nsbench.errors import FailedBefore, Misuse
from nsbench.metrics import breakdown, metrics
from nsbench.registry import SAMPLERS
from nsbench.runs.checkpoint import Progress, machine_of, resumable, write_checkpoint
from nsbench.runs.device import commit, environment, peak_memory, pick_device, reset_peak_memory
from nsbench.runs.folder import RunFolder
from nsbench.runs.time_left import TimeLeft
from nsbench.training.diagnostics import Diagnosis
from nsbench.training.evaluation import Ranking, labels
from nsbench.training.liveness import dead
from nsbench.training.replay import Replay
from nsbench.training.trainer import Trainer

PROBE_SECONDS = 3.0  # of training, after which a piece of a validation is tried, to know what the whole will take
MOMENTS = ("start", "middle", "end")  # of a diagnosis
PROBED = 256  # triples of it

Notify = Callable[[dict[str, Any]], None]
"""Hears of every stage: set-up, training, validation, diagnosis, checkpoint, ranking, writing; {"stage": ..., ...}."""
Stopping = Callable[[], bool]
"""Asked after every step whether the user wants to stop."""


def unheard(event: dict[str, Any]) -> None:
    pass


def never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it enters the run's id, and no figure but those of cost depends on it."""

    device: str = "auto"  # or cpu, cuda, cuda:1
    save_model: bool = False  # keep model.safetensors and sampler.safetensors
    diagnose: bool = True  # measure what the sampler draws (nsbench.training.diagnostics)
    checkpoint_seconds: float = 60.0
    long: bool = True  # else a sampler that compares every entity is refused above the minutes that its protocol promises
    retry: bool = True  # run again what failed earlier; else FailedBefore


class Interrupted(Exception):
    """The user asked to stop; the checkpoint is written."""


def execute(
    config: Config,
    dataset: Dataset,
    store: Path,
    options: RunOptions = RunOptions(),
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> RunFolder:
    """Carry out one run, or what is missing of it, and return its folder. A complete run is left as it is."""
    folder = RunFolder(config.folder(store, dataset))
    check_sizes(config, dataset)
    pick_device(options.device)
    if folder.complete:
        return _as_it_is(folder, options.save_model)
    with folder.claimed():
        if folder.complete:  # by a process that has just let go of the folder
            return _as_it_is(folder, options.save_model)
        if not options.retry and (reason := folder.failure()) is not None:
            raise FailedBefore(reason)
        with _trained(config, dataset, folder, options, notify, stopping) as run:
            run.conclude(options.save_model)
    return folder


def select(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    options: RunOptions = RunOptions(),
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> dict[str, Any]:
    """Train and validate as `execute` does, or go on from the checkpoint, without a test: {"valid", "selected_at", ...}.

    For a trial (nsbench.tuning.tune). The dataset needs no test triples; the caller holds the claim on the folder.
    """
    check_sizes(config, dataset, tested=False)
    options = dataclasses.replace(options, diagnose=False)
    with _trained(config, dataset, folder, options, notify, stopping, tested=False) as run:
        best = run.progress.best
        assert best is not None
        seconds = run.progress.train_seconds + run.progress.evaluation_seconds
        return {
            "valid": best["metrics"],
            "selected_at": best["step"],
            "steps": run.trainer.step_count,
            "seconds": seconds,
            "env": environment(run.device),
        }


@contextlib.contextmanager
def _trained(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    options: RunOptions,
    notify: Notify,
    stopping: Stopping,
    tested: bool = True,
) -> Iterator[_Run]:
    """A run at the end of its training, begun or resumed in a folder that is claimed."""

    def hear(event: dict[str, Any]) -> None:
        folder.note(event)
        notify(event)

    device = pick_device(options.device)
    saved = resumable(folder, device)
    hear({"stage": "set-up", "folder": str(folder.path)})
    folder.write_json("config.json", config.record(dataset))
    folder.remove("failed.json")  # of an earlier attempt
    with machine_of(saved):
        run = _Run(config, dataset, folder, options, hear, stopping, tested)
        if saved is not None:
            run.restore(saved)
        run.train()
        yield run


def _as_it_is(folder: RunFolder, save_model: bool) -> RunFolder:
    if save_model and not (folder.path / "model.safetensors").exists():
        raise Misuse(f"{folder.path} is complete and its model was not kept; delete the folder and repeat the command")
    folder.tidy()
    return folder


class _Run:
    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        folder: RunFolder,
        options: RunOptions,
        notify: Notify,
        stopping: Stopping,
        tested: bool,
    ) -> None:
        self.config, self.dataset, self.folder, self.options = config, dataset, folder, options
        self.notify, self.stopping = notify, stopping
        self.device = device = pick_device(options.device)
        self.progress = Progress()
        self.resumed_at: int | None = None
        reset_peak_memory(device)
        self.trainer = (Trainer if config.replayed is None else Replay)(config, dataset, device)
        sampled = isinstance(self.trainer.sampler, Sampler)
        self.diagnosis = Diagnosis(self.trainer, dataset) if options.diagnose and sampled else None
        self.valid = self._ranking(dataset.valid, dataset.known_untested)
        self.time_left, self.tested = TimeLeft(), tested
        self.last_checkpoint = time.monotonic()

    def _ranking(self, triples: Tensor, known: Tensor) -> Ranking:
        return Ranking(triples, known, self.dataset.num_entities, self.dataset.num_relations, self.device)

    def restore(self, saved: dict[str, Any]) -> None:
        self.trainer.load_state_dict(saved["trainer"])
        self.progress = Progress(**saved["progress"])
        self.resumed_at = self.trainer.step_count
        self.folder.write_events(self.progress.events)

    def train(self) -> None:
        """Step by step to the protocol's end, validating on the way; leaves the best model in the trainer."""
        with self.progress.charged("train_seconds"):
            if self.resumed_at is None:
                self.trainer.pretrain()
                self.trainer.sampler_clock.seconds()  # waits for a GPU, whose time is charged here
                self.folder.write_events([])
                self._diagnose("start")
            self._steps()
        self.progress.finished = True
        self._diagnose("end")
        assert self.progress.best is not None
        self.trainer.load_model_state(self.progress.best["state"])

    def _steps(self) -> None:
        protocol, trainer = self.config.protocol, self.trainer
        began = spoken = since = time.monotonic()
        while trainer.step_count < protocol.steps and not self.progress.finished:
            trainer.step()
            step = trainer.step_count
            due = step % protocol.validate_every == 0 or step == protocol.steps
            loss = self._mean_loss() if due else 0.0  # waits for the device, whose time is training's
            now = time.monotonic()
            self.time_left.stepped(now - since)
            since = now
            if self.time_left.pace and now - began > PROBE_SECONDS and not (due or self.time_left.knows("validation")):
                self._probe()
                self._refuse_if_long(now - began)
                since = time.monotonic()
            if due or now - spoken > 0.5:
                spoken = now
                self._tell(step)
            if due:
                with self.progress.charged(""):
                    self._validate(loss)
                since = time.monotonic()
            if step == protocol.steps // 2:
                self._diagnose("middle")
                since = time.monotonic()
            if self.stopping() or now - self.last_checkpoint > self.options.checkpoint_seconds:
                self._checkpoint()
                if self.stopping():
                    raise Interrupted(str(self.folder.path))
                since = time.monotonic()

    def _probe(self) -> None:
        """Rank some of the validation triples, for the time left alone."""
        valid = self.dataset.valid
        part = valid[:: -(-len(valid) // PROBED)]
        with self.progress.charged(""):
            began = time.monotonic()
            self._ranking(part, self.dataset.known_untested).ranks(self.trainer.scoring())
            self.time_left.took("validation", (time.monotonic() - began) * len(valid) / len(part))

    def _refuse_if_long(self, since_began: float) -> None:
        """On a CPU, where the protocol promises minutes. A run whose first validation came before the probe is short."""
        config, minutes = self.config, (since_began + (self._seconds_left() or 0.0)) / 60
        promised = None if self.options.long or self.device.type != "cpu" else config.minutes
        if promised is not None and SAMPLERS.get(config.sampler).every_entity and minutes > promised:
            raise Misuse(
                f"{config.sampler} compares every entity at each step, and this run would take {minutes:.0f} minutes here, "
                f"more than the {promised:g} of protocol {config.protocol.name}; --long carries it out"
            )

    def _seconds_left(self) -> float | None:
        """Until the result is there: steps, validations, diagnoses and the ranking of the test triples; None: too early."""
        protocol, dataset = self.config.protocol, self.dataset
        validations = -(-protocol.steps // protocol.validate_every) - len(self.progress.events)
        tests = len(dataset.test) / len(dataset.valid) if self.tested else 0.0
        diagnoses = 0 if self.diagnosis is None else len(MOMENTS) - len(self.progress.measured)
        parts = {"validation": validations + tests, "diagnosis": diagnoses}
        return self.time_left.left(protocol.steps - self.trainer.step_count, parts)

    def _tell(self, step: int) -> None:
        if (left := self._seconds_left()) is None:
            return
        best = self.progress.best
        self.notify(
            {
                "stage": "training",
                "step": step,
                "steps": self.config.protocol.steps,
                "seconds_left": left,
                "loss": self._mean_loss(),
                "valid_mrr": None if best is None else best["metrics"]["mrr"],
            }
        )

    def _validate(self, loss: float) -> None:
        trainer, progress, protocol = self.trainer, self.progress, self.config.protocol
        self.notify({"stage": "validation", "step": trainer.step_count})
        began = time.monotonic()
        with progress.charged("evaluation_seconds"):
            ranks, candidates = self.valid.ranks(trainer.scoring())
            self.time_left.took("validation", time.monotonic() - began)
            trainer.sampler_clock.seconds()  # the device has been waited for anyway, and its events would pile up
        found = metrics(ranks.numpy(), candidates.numpy())
        better = progress.best is None or found["mrr"] > progress.best["metrics"]["mrr"]
        if better or protocol.selection == "last":
            progress.best = {"step": trainer.step_count, "metrics": found, "state": trainer.model_state()}
            progress.stale = 0
        else:
            progress.stale += 1
        progress.finished = 0 < protocol.patience <= progress.stale
        event = {
            "step": trainer.step_count,
            "loss": loss,
            "valid": found,
            "train_seconds": progress.train_seconds,
            "evaluation_seconds": progress.evaluation_seconds,
            "memory": peak_memory(self.device),
        }
        progress.events.append(event)
        progress.marked_step, progress.marked_loss = trainer.step_count, trainer.loss_sum.item()
        self.folder.append_event(event)

    def _diagnose(self, moment: str) -> None:
        """Once per moment, outside the clocks of training and sampler."""
        if self.diagnosis is None or moment in self.progress.measured:
            return
        self.notify({"stage": "diagnosis", "step": self.trainer.step_count})
        began = time.monotonic()
        with self.progress.charged("diagnosis_seconds"):
            self.progress.measured[moment] = self.diagnosis.measure()
            self.time_left.took("diagnosis", time.monotonic() - began)

    def _diagnostics(self) -> dict[str, Any]:
        """For result.json: the figures of each moment, the run that hardness refers to, and the sampler's own."""
        sampler = self.trainer.sampler
        if not isinstance(sampler, Sampler):
            return {}
        found: dict[str, Any] = {"sampler": sampler.describe()}
        if self.diagnosis is None:
            return found
        yardstick = reference_of(self.config, self.dataset, self.folder.path.parent)
        scoring = self._frozen(yardstick)
        found["reference"] = None if scoring is None else yardstick.path.name
        for moment, measured in self.progress.measured.items():
            figures = {"step": measured["step"], **measured["figures"]}
            hardness = None if scoring is None else self.diagnosis.hardness(measured, scoring)
            found[moment] = figures if hardness is None else {**figures, "hardness": hardness}
        return found

    def _frozen(self, yardstick: RunFolder) -> Scoring | None:
        """The reference's final model; None where that run is not there (yet)."""
        scoring = self.trainer.scoring()
        path = yardstick.path / "reference.safetensors"
        if yardstick.path == self.folder.path:
            tables = {f"table.{name}": table for name, table in scoring.tables.items()} | {"relation": scoring.relation}
            self._save_tensors(path.name, tables)
            return scoring
        if not path.exists():
            return None
        from safetensors.torch import load_file

        saved = load_file(path, device=str(self.device))
        scoring.tables = {name: saved[f"table.{name}"] for name in scoring.tables}
        scoring.relation = saved["relation"]
        return scoring

    def _mean_loss(self) -> float:
        """Since the last event. Reading it is the only time that training makes the host wait for the device."""
        progress = self.progress
        return (self.trainer.loss_sum.item() - progress.marked_loss) / max(1, self.trainer.step_count - progress.marked_step)

    def _checkpoint(self) -> None:
        self.notify({"stage": "checkpoint", "step": self.trainer.step_count})
        with self.progress.charged(""):
            write_checkpoint(self.folder, self.device, self.trainer, self.progress)
        self.last_checkpoint = time.monotonic()

    def conclude(self, save_model: bool) -> None:
        """Rank the test triples with the selected model and write everything; result.json comes last."""
        trainer, progress, dataset = self.trainer, self.progress, self.dataset
        assert progress.best is not None
        self.notify({"stage": "ranking", "done": 0, "total": 1})
        spent = progress.evaluation_seconds
        try:
            with progress.charged("evaluation_seconds"):
                ranks, candidates = self._ranking(dataset.test, dataset.known).ranks(trainer.scoring(), self._ranked)
        except Interrupted:
            progress.evaluation_seconds = spent  # what is ranked again is counted once
            self._checkpoint()
            raise
        r, c = ranks.numpy(), candidates.numpy()
        self.notify({"stage": "writing"})
        triples = dataset.test.numpy()
        of_queries = labels(trainer.graph, dataset.test)
        seen, twin = (np.array([label == by for label, _ in of_queries[by]]) for by in ("seen", "twin"))  # [T] each
        save = functools.partial(np.savez_compressed, ranks=r, candidates=c, triples=triples, seen=seen, twin=twin)
        self.folder.write("ranks.npz", save)
        if save_model:
            self._save_model()
        steps, memory = trainer.step_count, peak_memory(self.device)
        diagnostics = self._diagnostics()
        result = {
            "config": self.config.record(dataset),
            "test": metrics(r, c),
            "valid": progress.best["metrics"],
            "breakdown": {by: breakdown(r, c, np.array(of)) for by, of in of_queries.items()},
            "cost": {
                "seconds": progress.train_seconds + progress.evaluation_seconds,
                "train_seconds": progress.train_seconds,
                "sampler_seconds": trainer.sampler_clock.seconds(),
                "evaluation_seconds": progress.evaluation_seconds,
                "diagnosis_seconds": progress.diagnosis_seconds,  # outside of `seconds`
                "peak_memory": memory,
                "sampler_state": trainer.sampler_bytes(),
                "steps": steps,
            },
            "diagnostics": diagnostics,
            "train_triples": len(dataset.train),
            "selected_at": progress.best["step"],
            # docs/protocols.md 3: where the best validation lies in the last tenth of the steps, more might have been better
            "converged": max(progress.events, key=lambda e: e["valid"]["mrr"])["step"] <= 0.9 * steps,
            "resumed_at": self.resumed_at,
            "env": environment(self.device) | trainer.how_stepped(),
            "code": commit(),
        }
        if reasons := dead(diagnostics):
            result["dead"] = reasons
        self.folder.write_json("result.json", result)
        self.folder.remove("checkpoint.pt")

    def _ranked(self, done: int, total: int) -> None:
        """How far the ranking of the test triples is. Interrupted where the user asks to stop: it may take as long again."""
        self.notify({"stage": "ranking", "done": done, "total": total})
        if done < total and self.stopping():
            raise Interrupted(str(self.folder.path))

    def _save_model(self) -> None:
        fusion = {f"fusion.{name}": x for name, x in self.trainer.fusion.state_dict().items() if isinstance(x, Tensor)}
        self._save_tensors("model.safetensors", self.trainer.kge.export() | fusion)
        state = {name: x for name, x in self.trainer.sampler.state_dict().items() if isinstance(x, Tensor)}
        self._save_tensors("sampler.safetensors", state)

    def _save_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        plain = {key: x.detach().cpu().clone(memory_format=torch.contiguous_format) for key, x in tensors.items()}
        self.folder.write(name, lambda file: file.write(save(plain)))


def reference_of(config: Config, dataset: Dataset, store: Path) -> RunFolder:
    """The run that `hardness` refers to: uniform, seed 0, of the same model, dataset and protocol; it may not be there."""
    backbone = {name.removeprefix("protocol."): value for name, value in chosen_by(config.uniform_tuning).items()}
    protocol = dataclasses.replace(config.protocol, **{n: x for n, x in backbone.items() if n not in config.changed})
    plain = dataclasses.replace(
        config,
        sampler="uniform",
        variant="recommended",
        seed=0,
        aux={},
        aux_options={},
        sampler_options=SAMPLERS.get("uniform").Options(),
        protocol=protocol,
        tuning=config.uniform_tuning,
        replayed=None,
    )
    if not plain.wants_features:
        dataset = dataclasses.replace(dataset, features={}, present={})
    return RunFolder(plain.folder(store, dataset))


def check_sizes(config: Config, dataset: Dataset, tested: bool = True) -> None:
    """Refuse what cannot be trained, selected or, where it will be, tested, before any work."""
    if config.protocol.batch > len(dataset.train):
        raise Misuse(
            f"the batch of {config.protocol.batch} is larger than the {len(dataset.train)} training triples of "
            f"{dataset.name}; use --set protocol.batch={max(1, len(dataset.train) // 4)}"
        )
    for name, triples in (("validation", dataset.valid), ("test", dataset.test)):
        if len(triples) == 0 and (tested or name != "test"):
            raise Misuse(f"{dataset.name} has no {name} triples; a run needs them to select and to report")
