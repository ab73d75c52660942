"""What a short stay on a GPU machine is used for: everything about a GPU that nsbench cannot know without one.

    python tools/gpu_trial.py 1 --out FOLDER     the card, tests, speed, ranks, profile, memory, repeats   (7 minutes)
    python tools/gpu_trial.py 2 --out FOLDER     a grid of runs on MKG-Y, as one packed store              (5 minutes)
    ... --wheels FOLDER                          install these first; nothing is fetched
    ... --rehearse                               the same on the pretended device, in small (docs/gpu.md)

Every item is a process of its own with a limit of time; what it prints goes to FOLDER/gpu_trial_N.log line by line, so that
a stay that is cut short keeps what was done. An item that fails or hangs does not stop the next. Runs in a checkout,
installed or not; this process needs nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsbench.contracts import Dataset
    from nsbench.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
REHEARSAL = "GPU_TRIAL_REHEARSAL"  # in the environment of all processes of one
sys.path.insert(0, str(ROOT))
if os.environ.get(REHEARSAL):  # in items, and in the workers of their runs, which import this file too
    import tests.pretend.device  # noqa: F401  # before torch

LIGHT = ("uniform", "bernoulli", "nscaching", "sans", "kbgan")
MODELS = ("transe", "distmult", "rotate")
GRACE = 10.0  # seconds to write checkpoints in, after the limit
KEPT = ("pack", "table")  # time is kept for these items


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the real trial, and of a rehearsal."""

    dataset: str = "mkg_y"
    settings: tuple[str, ...] = ()
    samplers: tuple[str, ...] = LIGHT
    models: tuple[str, ...] = MODELS
    steps: int = 200  # timed
    repeated: int = 1500  # steps of a run that is repeated and interrupted
    entities: int = 10**6
    seeds: int = 5
    numbers: int = 2**30  # that a copy copies
    width: int = 8192  # of a product
    pytest: tuple[str, ...] = ("-n", "8", "--dist", "load", "-m", "")


SMALL = Sizes(
    dataset="planted:small",
    settings=tuple(f"protocol.{x}" for x in ("width=8", "batch=64", "negatives=4", "steps=20", "validate_every=10")),
    samplers=("uniform", "nscaching"),
    models=("rotate",),
    steps=4,
    repeated=40,
    entities=2000,
    seeds=1,
    numbers=2**16,
    width=64,
    pytest=("-p", "tests.pretend.device", "-k", "(battery and uniform-transe) or igan-rotate"),
)
SIZES = SMALL if os.environ.get(REHEARSAL) else Sizes()


# What the items do. Each runs in a process of its own, with the folder for its runs.


def card(work: Path) -> None:
    """The machine, and its ceilings: what a copy, a product and a launch take."""
    import torch

    from nsbench.runs.device import commit, environment

    print({**environment(torch.device("cuda")), "commit": commit(), "cores": os.cpu_count(), "cuda": torch.version.cuda})
    print(f"memory: {torch.cuda.mem_get_info()[0] / 2**30:.1f} of {torch.cuda.mem_get_info()[1] / 2**30:.1f} GiB are free")
    print(f"copy: {bandwidth() / 1e12:.2f} TB/s, read and written")
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(SIZES.width, SIZES.width, device="cuda").to(dtype)
        print(f"product, {dtype}: {2 * SIZES.width**3 / seconds(lambda: x @ x) / 1e12:.1f} TFLOP/s")  # noqa: B023
    x, count = torch.zeros(1, device="cuda"), 1000

    def launches() -> None:
        for _ in range(count):
            x.add_(1)

    python = 1e6 * seconds(launches) / count
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, torch.cuda.graph_pool_handle(), stream):
        launches()
    replayed = 1e6 * seconds(graph.replay) / count
    print(f"a launch: {python:.2f} us from Python, {replayed:.2f} in a graph")


def suite(work: Path) -> None:
    """The tests for a GPU: the battery for all samplers, ranks, runs."""
    pytest("tests/test_gpu.py")


def captured(work: Path) -> None:
    """Steps by CUDA graphs are Python's bit for bit: fusions, auxiliary losses and options, beyond the battery's cases."""
    pytest("tests/training/test_capture.py")


def speed(work: Path) -> None:
    """Milliseconds a step of light samplers, with what the step does and its share of the copy's bandwidth."""
    time_steps([(sampler, kge, "none") for sampler in SIZES.samplers for kge in SIZES.models])


def heavy_speed(work: Path) -> None:
    """The same of the two multimodal samplers, as their papers build the model."""
    time_steps(
        [(sampler, kge, fusion) for sampler, fusion in (("mmrns", "none"), ("dhns", "adamf")) for kge in SIZES.models[::2]]
    )


def ranking(work: Path) -> None:
    """Ranks of the test triples, and the CPU's of the same model: sums run in another order, so near-ties may differ."""
    from nsbench.training.evaluation import Ranking

    for kge in SIZES.models:
        trainer, data = made("uniform", kge)
        on_cpu, _ = made("uniform", kge, device="cpu")
        for _ in range(SIZES.steps):
            trainer.step()
        on_cpu.load_model_state({name: x.cpu() for name, x in trainer.model_state().items()})
        found, took = [], []
        for which in (trainer, on_cpu):
            ranks = Ranking(data.test, data.known, data.num_entities, data.num_relations, which.device)
            ranks.ranks(which.scoring())
            began = time.perf_counter()
            found.append(ranks.ranks(which.scoring())[0].double())
            took.append(time.perf_counter() - began)
        apart = (found[0] - found[1]).abs()
        mrr = [f"{(1 / ranks).mean():.6f}" for ranks in found]
        print(f"{kge}: {took[0]:.2f} s, on the CPU {took[1]:.2f} s; MRR {' and '.join(mrr)}")
        print(f"   of {apart.numel()} ranks {int((apart > 0).sum())} differ, by {int(apart.max())} at most")
        require((apart > 0).double().mean() < 0.02, "more ranks differ than near-ties explain")


def profile(work: Path) -> None:
    """Replayed steps: no copy between host and device but the order of a pass, and no wait."""
    import collections

    import torch
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU] if os.environ.get(REHEARSAL) else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    for sampler, fusion in (("uniform", "none"), ("kbgan", "none"), ("dhns", "adamf")):
        trainer, _ = made(sampler, "transe", fusion)
        warm(trainer)
        count = 50 if SIZES.steps >= 50 else SIZES.steps
        passes = 1 + count * trainer.protocol.batch // len(trainer.graph)
        with torch.profiler.profile(activities=activities) as seen:
            for _ in range(count):
                trainer.step()
        names = collections.Counter(event.name for event in seen.events())
        copies = sum(times for name, times in names.items() if "HtoD" in name or "DtoH" in name)
        waits = sum(names[name] for name in ("cudaStreamSynchronize", "cudaEventSynchronize"))
        print(f"{sampler}: {count} steps, {copies} copies ({passes} passes at most), {waits} waits")
        for event in sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)[:8]:
            print(f"   {event.self_device_time_total / count:9.1f} us a step  {event.count:6}  {event.key[:90]}")
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(SIZES.steps):
            trainer.step()
        torch.cuda.set_sync_debug_mode("default")
        require(copies <= passes and waits == 0, "a step copies or waits")


def memory(work: Path) -> None:
    """What runs take, beside what was counted without a GPU; the last on a graph of a million entities."""
    import torch

    from nsbench.training.counted import gpu_memory
    from nsbench.training.evaluation import Ranking

    cases = [
        ("uniform", "transe", "none"),
        ("nscaching", "rotate", "none"),
        ("sans", "transe", "none"),
        ("dhns", "transe", "adamf"),
    ]
    for sampler, kge, fusion, data in [
        *((*case, None) for case in cases),
        ("uniform", "rotate", "none", many(SIZES.entities)),
    ]:
        clear()
        torch.cuda.reset_peak_memory_stats()
        trainer, data = made(sampler, kge, fusion, data=data)
        warm(trainer)
        trainer.step_count = trainer.protocol.steps - 4
        warm(trainer, 4)
        best = trainer.model_state()
        ranked = Ranking(data.test, data.known, data.num_entities, data.num_relations, trainer.device)
        ranked.ranks(trainer.scoring())
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        name, config = f"{sampler} {kge} {fusion}, {data.num_entities} entities", trainer.config
        del trainer, best, ranked
        counted = gpu_memory(config, data)
        print(
            f"{name}: allocated {peak / 2**20:.0f} MiB, reserved {held / 2**20:.0f}, counted {counted / 2**20:.0f}",
            flush=True,
        )
        require(held <= counted, "a run takes more than is counted for it")


def repeats(work: Path) -> None:
    """One seed gives the same bits: a second run, one that is stopped and goes on, one that is killed and goes on."""
    import numpy

    from nsbench.campaign.plan import carry_out
    from nsbench.runs.runner import Interrupted, RunOptions

    config, options = repeated_config(), RunOptions("cuda", diagnose=False)
    ranks = {}
    for store in ("whole", "again"):
        result = carry_out(config, work / store, options)
        ranks[store] = numpy.load(result.folder / "ranks.npz")["ranks"].tobytes()
    print("unrepeatable operators:", result.record["env"].get("unrepeatable", "none"))
    asked = iter(range(SIZES.repeated // 2))
    with contextlib.suppress(Interrupted):
        carry_out(config, work / "stopped", options, stopping=lambda: next(asked, None) is None)
    victim = subprocess.Popen([sys.executable, __file__, "--item", "victim", "--work", str(work)])
    while victim.poll() is None and not list(work.glob("killed/*/checkpoint.pt")):
        time.sleep(0.05)
    time.sleep(1)
    victim.kill()
    print(f"killed with exit code {victim.wait()}")
    for store in ("stopped", "killed"):
        result = carry_out(config, work / store, options)
        ranks[store] = numpy.load(result.folder / "ranks.npz")["ranks"].tobytes()
        print(f"{store}: resumed at {result.record['resumed_at']}")
    same = {store: found == ranks["whole"] for store, found in ranks.items()}
    print("the same ranks:", same)
    require(all(same.values()), "a seed does not repeat")


def victim(work: Path) -> None:
    """The run that `repeats` kills."""
    from nsbench.campaign.plan import carry_out
    from nsbench.runs.runner import RunOptions

    carry_out(repeated_config(), work / "killed", RunOptions("cuda", diagnose=False, checkpoint_seconds=0))


def grid(work: Path) -> None:
    """Light samplers with all models and seeds; runs share the card."""
    run_grid(work, ",".join(SIZES.samplers), SIZES.models, SIZES.seeds)


def heavy_grid(work: Path) -> None:
    """The two multimodal samplers."""
    for sampler in ("mmrns", "dhns"):
        run_grid(work, sampler, SIZES.models[::2], min(SIZES.seeds, 2))


# What the items share.


def made(
    sampler: str, kge: str, fusion: str = "none", device: str = "cuda", data: Dataset | None = None
) -> tuple[Trainer, Dataset]:
    """A trainer of protocol nsbench that is ready to step, and its data."""
    from nsbench.campaign.plan import dataset_of
    from nsbench.config.run import configure
    from nsbench.training.trainer import Trainer

    settings = [*SIZES.settings, *(["sampler.pretrain_epochs=1"] if sampler == "kbgan" else [])]
    config = configure(sampler, kge, SIZES.dataset, protocol="nsbench", fusion=fusion, settings=settings)
    data = data or dataset_of(config)
    clear()
    trainer = Trainer(config, data, device)
    trainer.pretrain()
    return trainer, data


def clear() -> None:
    """What an earlier trainer holds goes: it and its graphs refer to each other."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def many(entities: int) -> Dataset:
    """A random graph."""
    import torch

    from nsbench.contracts import Dataset

    rng = torch.Generator().manual_seed(0)
    train, valid, test = (
        torch.stack([torch.randint(n, (count,), generator=rng) for n in (entities, 10, entities)], dim=1)
        for count in (2 * entities, 64, 64)
    )
    names = [str(i) for i in range(entities)]
    return Dataset("many", train, valid, test, names, names[:10])


def warm(trainer: Trainer, steps: int = 5) -> None:
    """The third step of a regime records its graph."""
    for _ in range(steps):
        trainer.step()


def time_steps(cases: list[tuple[str, str, str]]) -> None:
    from nsbench.training.counted import Counted

    copy = bandwidth()
    print(f"{'':26} {'eager':>8} {'captured':>8}  ms; kernels, MB and GFLOP of a step; share of {copy / 1e12:.2f} TB/s")
    for sampler, kge, fusion in cases:
        trainer, _ = made(sampler, kge, fusion)
        trainer.step_count = trainer.protocol.steps // 2  # whatever warms up has done so
        warm(trainer)
        replayed = per_step(trainer)
        refused = trainer.captured.refused if trainer.captured else ""
        trainer.captured = None
        warm(trainer)
        eager = per_step(trainer)
        with Counted() as counted:
            trainer.step()
        share = counted.bytes / replayed / copy
        print(
            f"{f'{sampler} {kge} {fusion}':26} {1e3 * eager:8.3f} {1e3 * replayed:8.3f}  {counted.kernels:6}"
            f" {counted.bytes / 1e6:8.0f} {counted.flop / 1e9:7.1f} {share:6.0%}"
            + (f"  not captured: {refused}" if refused else ""),
            flush=True,
        )


def per_step(trainer: Trainer) -> float:
    """Seconds."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(SIZES.steps):
        trainer.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / SIZES.steps


def seconds(call: Callable[[], Any], times: int = 10) -> float:
    """Of the device, the median."""
    import statistics

    import torch

    for _ in range(3):
        call()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1000)
    return max(1e-9, statistics.median(found))


def bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    import torch

    x = torch.randn(SIZES.numbers, device="cuda")
    y = torch.empty_like(x)
    return 8 * SIZES.numbers / seconds(lambda: y.copy_(x))


def repeated_config() -> Any:
    from nsbench.config.run import configure

    settings = [*SIZES.settings, f"protocol.steps={SIZES.repeated}", f"protocol.validate_every={SIZES.repeated // 4}"]
    return configure("nscaching", "transe", SIZES.dataset, protocol="nsbench", fusion="none", settings=settings)


def pytest(path: str) -> None:
    command = [sys.executable, "-m", "pytest", *SIZES.pytest, "-q", "--no-header", "-p", "no:cacheprovider", path]
    require(subprocess.run(command, cwd=ROOT).returncode == 0, f"{path} fails")


def run_grid(work: Path, samplers: str, models: tuple[str, ...], seeds: int) -> None:
    """Model after model: of what is cut off, models are missing rather than seeds."""
    names = ["--sampler", samplers, "--kge", ",".join(models), "--seeds", str(seeds), "--dataset", SIZES.dataset]
    names += [x for setting in SIZES.settings for x in ("--set", setting)]
    nsbench(work, "run", *names, "--protocol", "nsbench", "--device", "cuda", "--workers", "auto", "--no-diagnostics")


def nsbench(work: Path, *arguments: str) -> None:
    """The command line, in this process."""
    from nsbench.cli import main

    sys.argv = ["nsbench", *arguments, "--runs", str(work / "grid")]
    try:
        main()
    except SystemExit as end:
        require(not end.code, f"nsbench {arguments[0]} ends with {end.code}")


def table(work: Path) -> None:
    """What the grid found."""
    nsbench(work, "table")


def pack(work: Path) -> None:
    """The runs as one file, in the folder that comes back."""
    from nsbench.results.store.archive import pack as write

    print(f"{len(write(work / 'grid', work / 'gpu_trial.nsb'))} runs are packed")


def require(holds: Any, words: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {words}")


# The order of a stay, and who carries it out.

PARTS: dict[int, list[tuple[Callable[[Path], None], int]]] = {  # items with their limits in seconds
    1: [
        (card, 40),
        (suite, 90),
        (captured, 90),
        (speed, 90),
        (heavy_speed, 60),
        (repeats, 60),
        (ranking, 45),
        (profile, 45),
        (memory, 60),
    ],
    2: [(grid, 150), (pack, 15), (heavy_grid, 200), (pack, 15), (table, 15)],
}
MINUTES = {1: 7, 2: 5}
ALONE = [victim]


class Log:
    """Lines with the seconds since the beginning, written at once; no path of this machine in them."""

    def __init__(self, file: IO[str], hidden: dict[str, str]) -> None:
        self.file, self.hidden, self.began = file, hidden, time.monotonic()

    def say(self, text: str) -> None:
        for path, name in self.hidden.items():
            text = text.replace(path, name)
        line = f"{time.monotonic() - self.began:6.1f}  {text.rstrip()}"
        print(line, file=self.file, flush=True)
        os.fsync(self.file.fileno())
        print(line, flush=True)


def carried_out(command: list[str], limit: float, log: Log) -> str:
    """`done`, or what became of it instead."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    reader = threading.Thread(target=_heard, args=(process.stdout, log), daemon=True)
    reader.start()
    late = False
    for wait, number in ((limit, signal.SIGINT), (GRACE, signal.SIGKILL)):
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(process.pid, number)
    code = process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind, which would hold the pipe
    reader.join()
    if late:
        return f"stopped at its limit of {limit:.0f} s"
    return "done" if code == 0 else f"failed with exit code {code}"


def _heard(lines: IO[str], log: Log) -> None:
    for line in lines:
        log.say(f"  {line}")


def stay(
    items: Sequence[tuple[str, float]],
    minutes: float,
    command: Callable[[str], list[str]],
    log: Log,
    after: Callable[[], Any],
) -> dict[str, str]:
    """What became of each item. Those that time is kept for are carried out whatever came before."""
    found: dict[str, str] = {}
    ends = time.monotonic() + 60 * minutes
    for i, (name, limit) in enumerate(items):
        kept = sum(its for other, its in items[i + 1 :] if other in KEPT)
        left = limit if name in KEPT else ends - time.monotonic() - GRACE - kept
        began = time.monotonic()
        if left > 0:
            log.say(f"== {name}, at most {min(limit, left):.0f} s")
            what = f"{carried_out(command(name), min(limit, left), log)}, {time.monotonic() - began:.1f} s"
        else:
            what = "not begun: the time is over"
        log.say(f"== {name}: {what}")
        found[name] = f"{found[name]}, then {what}" if name in found else what
        after()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", type=int, choices=PARTS, nargs="?", default=1)
    parser.add_argument("--out", type=Path, default=Path("gpu_trial"), help="where the log and the packed store go")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, without a package index")
    parser.add_argument("--minutes", type=float, help="of the whole part, and with it every limit  [default: 7 and 5]")
    parser.add_argument("--rehearse", action="store_true", help="on the pretended device, in small")
    parser.add_argument("--item", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.item:
        functions = [function for part in PARTS.values() for function, _ in part] + ALONE
        next(function for function in functions if function.__name__ == given.item)(given.work)
        return

    given.out.mkdir(parents=True, exist_ok=True)
    os.environ.update({"PYTHONUNBUFFERED": "1", "COLUMNS": "120", **({REHEARSAL: "1"} if given.rehearse else {})})
    with tempfile.TemporaryDirectory() as folder, open(given.out / f"gpu_trial_{given.part}.log", "a") as file:
        work = Path(folder)
        log = Log(
            file, {str(work): "WORK", str(given.out.resolve()): "OUT", str(ROOT): "CHECKOUT", str(Path.home()): "HOME"}
        )
        minutes = given.minutes or MINUTES[given.part]
        log.say(f"part {given.part}{', a rehearsal on the pretended device' if given.rehearse else ''}")
        items = [(function.__name__, limit * minutes / MINUTES[given.part]) for function, limit in PARTS[given.part]]
        commands = {name: [sys.executable, __file__, "--item", name, "--work", str(work)] for name, _ in items}
        if given.wheels:
            target = ["--no-index", "--no-deps", "--no-compile", "--target", str(work / "site")]
            wheels = [str(path) for path in sorted(given.wheels.glob("*.whl"))]
            commands["install"] = [sys.executable, "-m", "pip", "install", "-q", *target, *wheels]
            items.insert(0, ("install", 60))
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(work / "site"), os.environ.get("PYTHONPATH"))))

        def bring() -> None:
            if (work / "gpu_trial.nsb").exists():
                shutil.copy(work / "gpu_trial.nsb", given.out)

        found = stay(items, minutes, commands.__getitem__, log, bring)
        log.say(f"part {given.part}: " + "; ".join(f"{name} {what}" for name, what in found.items()))
    sys.exit(any(not what.startswith("done") for what in found.values()))


if __name__ == "__main__":
    main()
