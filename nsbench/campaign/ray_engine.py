"""Runs as tasks of a Ray cluster: one of this machine, or one that is there. Needs the extra `ray`.

A task declares the CPUs, the share of a GPU and the memory of its run. Ray decides where it runs; the driver submits it
again where its worker or node is lost. Checkpoints and results go to the run store, which all nodes must see. How far a
run is, and whether it should stop, goes through the store too: no actor has to outlive a node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nsbench.campaign.engines import Ending, Job, Lost
from nsbench.errors import Misuse, RunFailed, sentence
from nsbench.runs import claim
from nsbench.runs.runner import Interrupted, RunOptions

SMALL = 80 * 2**20  # bytes for Ray's object store, through which only figures go
STOP_SECONDS = 1.0  # between looks for the file that asks to stop


class Cluster:
    """See nsbench.campaign.engines.Engine. `need` predicts the bytes of memory that a run takes, None: not known."""

    apart = True

    def __init__(
        self,
        store: Path,
        address: str | None,
        workers: int | None,
        threads: int,
        device: str,
        need: Callable[[Job], int | None],
        options: RunOptions,
    ) -> None:
        try:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a tip on every start
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray
        except ImportError:
            raise Misuse("--engine ray needs the package ray; pip install 'nsbench[ray]'") from None
        self.ray, self.store, self.need, self.threads, self.workers = ray, store.resolve(), need, threads, workers
        _connect(ray, address, workers, threads)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.most = max(node.get("memory", 0.0) for node in nodes)
        widest = int(max(node.get("CPU", 0.0) for node in nodes))
        if widest < threads:
            ray.shutdown()
            raise Misuse(f"no node of the cluster has {threads} CPUs; use --threads {max(1, widest)}")
        gpus = sum(node.get("GPU", 0.0) for node in nodes)
        if device != "auto" and device != "cpu" and not gpus:
            ray.shutdown()
            raise Misuse("no node of the cluster has a GPU; use --device cpu")
        self.device = "cuda" if gpus and device != "cpu" else "cpu"
        by_cpu = sum(int(node.get("CPU", 0.0)) // threads for node in nodes)
        self.slots = max(1, min(workers or by_cpu, by_cpu, *([int(gpus)] if self.device == "cuda" else [])))
        self.stop_file = self.store / f".stop-{secrets.token_hex(6)}"
        options = dataclasses.replace(options, device=self.device)
        self.arguments = (self.store, options, threads, self.stop_file, os.getcwd())
        self.task = ray.remote(max_retries=0)(carry)
        self.flying: dict[Any, Job] = {}

    def room(self, job: Job) -> bool:
        """Ray has a queue of its own, which a growing cluster wants to see."""
        return self.workers is None or len(self.flying) < self.workers

    def start(self, job: Job) -> None:
        from nsbench.campaign.attempt import packed

        needed = self.need(job)
        wanted: dict[str, Any] = {"num_cpus": self.threads, "name": job.folder.path.name}
        if self.device == "cuda":
            wanted["num_gpus"] = share(needed, _gpu_memory())
        elif needed:
            wanted["memory"] = int(min(needed, self.most))  # more than any node has would wait for ever
        self.flying[self.task.options(**wanted).remote(packed(job.config), *self.arguments)] = job

    def ended(self, seconds: float) -> list[tuple[Job, Ending]]:
        found: list[tuple[Job, Ending]] = []
        if self.flying:
            ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=seconds)
            found = [(self.flying.pop(reference), self._ending(reference)) for reference in ready]
        return found

    def _ending(self, reference: Any) -> Ending:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # nsbench is not there, or is another version
            return RunFailed(sentence(error.cause or error, "on a node of the cluster"))
        except self.ray.exceptions.TaskCancelledError:
            return Interrupted(str(self.store))
        except self.ray.exceptions.RayError as error:
            return Lost(f"its Ray worker is gone ({type(error).__name__})")

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # a store that cannot be written stops them too
            self.store.mkdir(parents=True, exist_ok=True)  # before the first run there may be none
            self.stop_file.touch()
        for reference, job in self.flying.items():
            if claim.holder(job.folder.path) is None:  # it waits for room, perhaps for hours
                self.ray.cancel(reference)

    def close(self) -> None:
        for reference in self.flying:
            self.ray.cancel(reference, force=True)
        with contextlib.suppress(OSError):
            self.stop_file.unlink(missing_ok=True)
        self.ray.shutdown()


def share(need: int | None, memory: int | None) -> float:
    """The share of a GPU of `memory` bytes for a run that needs `need`; all of it where one of the two is not known."""
    if not need or not memory:
        return 1.0
    from nsbench.campaign.local_engine import CONTEXT

    return 1.0 / max(1, math.floor(memory / (need + CONTEXT)))


def carry(packed: bytes, store: Path, options: RunOptions, threads: int, stop_file: Path, cwd: str) -> Ending:
    """The task."""
    import torch

    from nsbench.campaign.attempt import attempt, unpacked

    with contextlib.suppress(OSError):  # relative paths mean what they mean to the driver, if the node has them
        os.chdir(cwd)
    asked = Asked(stop_file)
    if asked():
        return Interrupted(str(store))
    torch.set_num_threads(threads)
    return attempt(unpacked(packed), store, options, stopping=asked)


class Asked:
    """Whether the file is there that asks to stop; looked for once a second, and once seen it stays."""

    def __init__(self, file: Path) -> None:
        self.file, self.seen, self.looked = file, False, -math.inf

    def __call__(self) -> bool:
        if not self.seen and time.monotonic() - self.looked >= STOP_SECONDS:
            self.seen, self.looked = self.file.exists(), time.monotonic()
        return self.seen


def _connect(ray: Any, address: str | None, workers: int | None, threads: int) -> None:
    """Quietly, and with the signals left to the driver."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": SMALL}
    if workers is not None:
        own["num_cpus"] = workers * threads
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **({} if address else own))
    except (OSError, RuntimeError, ValueError) as error:
        raise Misuse(f"no Ray cluster answers at '{address}' ({error}); see ray status") from None
    for number, handler in before.items():
        signal.signal(number, handler)
    with contextlib.suppress(Exception):  # the last log lines of a dead node would go to standard output; we report it
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _knock(address: str | None) -> None:
    """Ray would wait for ever for a cluster that is not there."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _gpu_memory() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
