"""Worker processes on this machine, with cores and GPUs divided among them.

A worker loads each dataset once, and takes one run after another. When the driver ends, however it does, the pipe to it
closes, and the worker writes a checkpoint and ends too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from nsbench import machine, streams
from nsbench.campaign.conduct import LOSSES
from nsbench.campaign.engines import Ending, Job, Lost
from nsbench.errors import Misuse, RunFailed
from nsbench.runs.runner import RunOptions

ROOM = 2**30  # bytes of main memory for each worker, where nobody says how many there shall be
ON_A_GPU = 4  # workers, where nobody says how many: processes take turns on a card, and one waits for its host now and then
CONTEXT = 2**30  # bytes that CUDA takes of a GPU for each process, beside what torch allocates


class Slot(NamedTuple):
    """What a worker has."""

    device: str
    threads: int


def divide(
    runs: int, workers: int | None, threads: int | None, cores: int, gpus: Sequence[str], memory: int | None = None
) -> list[Slot]:
    """Cores and GPUs among the workers of so many runs, who take the GPUs in turns; one worker at least.

    `workers` None: as many as cores, with `threads` each, and `memory` bytes allow; at most ON_A_GPU for each GPU, which a
    run shares where it fits beside the others. `threads` None: the cores in equal parts.
    """
    if workers is None:
        workers = cores // (threads or 1) if memory is None else min(cores // (threads or 1), memory // ROOM)
        workers = min(workers, ON_A_GPU * len(gpus)) if gpus else workers
    workers = max(1, min(workers, runs))
    each = threads or max(1, cores // workers)
    return [Slot(gpus[i % len(gpus)] if gpus else "cpu", each) for i in range(workers)]


def gpus_of(device: str) -> list[str]:
    """The GPUs that workers share; none for the device cpu."""
    import torch

    from nsbench.runs.device import pick_device

    target = pick_device(device)
    if target.type != "cuda":
        return []
    return [device] if target.index is not None else [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def fits(need: int, capacity: int | None, taken: list[int]) -> bool:
    """Whether a run that needs this many bytes goes beside those that have `taken` theirs."""
    return capacity is None or need + sum(taken) <= capacity


class Worker:
    """A process and the run that it has."""

    def __init__(self, store: Path, slot: Slot, options: RunOptions) -> None:
        self.slot = slot
        self.job: Job | None = None
        self.ready = False
        self.capacity: int | None = None  # bytes of its device that are free for runs; None: not known
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, store, slot, options), name="nsbench worker")
        with _inherited(slot.threads):
            self.process.start()
        theirs.close()

    def heard(self) -> list[tuple[Job, Ending]]:
        """What it has said since the last call."""
        found: list[tuple[Job, Ending]] = []
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                message = self.pipe.recv()
                if not self.ready:
                    self.ready, self.capacity = True, message
                elif self.job is not None:
                    found.append((self.job, message))
                    self.job = None
        return found

    def fate(self) -> str:
        """How the process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Local:
    """See nsbench.campaign.engines.Engine. `need` predicts the bytes of memory that a run takes, None: not known."""

    apart = True

    def __init__(self, store: Path, slots: list[Slot], need: Callable[[Job], int | None], options: RunOptions) -> None:
        self.store, self.need, self.options = store, need, options
        self.workers = [Worker(store, slot, options) for slot in slots]
        self.slots = len(slots)
        self.stopped = False
        self.stillborn = 0  # workers in a row that ended before they had begun

    def room(self, job: Job) -> bool:
        return self._free(job) is not None

    def _free(self, job: Job) -> Worker | None:
        """A worker without a run, beside whose neighbours on the same device this one fits."""
        for worker in self.workers:
            if worker.ready and worker.job is None and not self.stopped:
                neighbours = [other for other in self.workers if other.job and other.slot.device == worker.slot.device]
                if not neighbours:
                    return worker  # what it needs is not asked, for that may have to be counted
                capacity = max((w.capacity for w in [worker, *neighbours] if w.capacity is not None), default=None)
                taken = [self._bytes(other.job, capacity, worker.slot) for other in neighbours if other.job]
                if fits(self._bytes(job, capacity, worker.slot), capacity, taken):
                    return worker
        return None

    def _bytes(self, job: Job, capacity: int | None, slot: Slot) -> int:
        """A run of unknown size has a GPU for itself; on a CPU the number of workers is trusted."""
        known = self.need(job)
        if slot.device == "cpu":
            return known or 0
        return (capacity or 0) if known is None else known + CONTEXT

    def start(self, job: Job) -> None:
        from nsbench.campaign.attempt import packed

        worker = self._free(job)
        assert worker is not None
        worker.job = job
        with contextlib.suppress(OSError):  # it has just died, which `ended` will see
            worker.pipe.send(packed(job.config))

    def ended(self, seconds: float) -> list[tuple[Job, Ending]]:
        if any(worker.job or not worker.ready for worker in self.workers):
            wait([thing for worker in self.workers for thing in (worker.pipe, worker.process.sentinel)], seconds)
        found: list[tuple[Job, Ending]] = []
        for worker in list(self.workers):
            alive = worker.process.is_alive()  # before listening: what it said last is still in the pipe
            found += worker.heard()
            self.stillborn = 0 if worker.ready else self.stillborn
            if not alive:
                if worker.job is not None:
                    found.append((worker.job, Lost(f"its worker {worker.fate()}")))
                self._replace(worker)
        return found

    def _replace(self, worker: Worker) -> None:
        worker.pipe.close()
        place = self.workers.index(worker)
        self.workers.pop(place)
        if self.stopped:
            return
        self.stillborn += not worker.ready
        if self.stillborn >= LOSSES:
            raise RunFailed(f"a worker process {worker.fate()} before it could begin; what it printed above may say why")
        self.workers.insert(place, Worker(self.store, worker.slot, self.options))

    def stop(self) -> None:
        self.stopped = True
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)

    def close(self) -> None:
        """Workers without a run end by themselves; those that have one were asked to stop, and had their time."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.job is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()


@streams.lasting()
def serve(pipe: Connection, store: Path, slot: Slot, options: RunOptions) -> None:
    """In the worker: run after run, until the driver says so or is gone."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the driver decides
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a closed terminal: likewise
    orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        order: bytes | None = b""
        while order is not None:
            try:
                order = pipe.recv()
            except (EOFError, OSError):
                order = None
            if order is None:
                stop.set()
            orders.put(order)

    threading.Thread(target=listen, daemon=True).start()

    import torch

    from nsbench.campaign.attempt import attempt, unpacked

    torch.set_num_threads(slot.threads)
    capacity = machine.free_memory() if slot.device == "cpu" else torch.cuda.mem_get_info(slot.device)[0]
    with contextlib.suppress(ConnectionError):
        pipe.send(capacity)
        while (order := orders.get()) is not None and not stop.is_set():
            try:
                config = unpacked(order)
            except Exception as error:
                ending: Ending = Misuse(f"the run cannot be passed to a worker ({error}); was its file changed just now?")
            else:
                ending = attempt(config, store, dataclasses.replace(options, device=slot.device), stopping=stop.is_set)
            pipe.send(ending)


@contextlib.contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a worker needs before its first line: OpenMP's threads, and Ctrl-C, which is the driver's affair, ignored."""
    known = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        if known is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = known
