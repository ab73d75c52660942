"""Print what a step costs on a GPU, estimated without one: a table in Markdown, for docs/gpu.md.

    python tools/gpu_estimate.py                     seven samplers x three models, protocol nsbench on MKG-Y
    python tools/gpu_estimate.py dhns transe         one cell

Kernels, bytes and FLOP (of matrix products) are counted on tensors without memory (nsbench.training.counted). A kernel takes
the longer of its launch and its work; one after another they make the step. Without a GPU this needs the pretended device.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    import tests.pretend.device  # noqa: F401  # before torch; with a GPU it does nothing
except ImportError:
    raise SystemExit("run this in a checkout: it takes tests/pretend/device.py") from None

import torch

from nsbench.campaign.plan import dataset_of
from nsbench.config.run import configure
from nsbench.registry import SAMPLERS
from nsbench.training.counted import Shadow

SAMPLED, MODELS = ("uniform", "bernoulli", "nscaching", "sans", "kbgan", "mmrns", "dhns"), ("transe", "distmult", "rotate")
EAGER, CAPTURED = 5e-6, 1.5e-6  # seconds between two kernels: started by Python, and by a graph
BANDWIDTH, RATE = 3e12, 5e13  # bytes a second; FLOP a second of float32 products


def row(sampler: str, kge: str) -> str:
    fusion = SAMPLERS.get(sampler).fusion
    config = configure(sampler, kge, "mkg_y", protocol="nsbench", fusion=fusion)
    shadow = Shadow(config, dataset_of(config))
    shadow.step(1)  # makes what optimisers keep
    work = shadow.step(config.protocol.steps - 1)  # whatever warms up has done so
    times = [1e3 * sum(one.seconds(launch, BANDWIDTH, RATE) for one in work) for launch in (EAGER, CAPTURED)]
    counts = (sum(one.kernels for one in work), sum(one.bytes for one in work) / 1e6, sum(one.flop for one in work) / 1e9)
    name = sampler if fusion == "none" else f"{sampler} with {fusion}"
    return f"| {name} | {kge} | {counts[0]:,} | {counts[1]:,.0f} | {counts[2]:,.1f} | {times[0]:.2f} | {times[1]:.2f} |"


def main() -> None:
    torch.set_num_threads(1)
    samplers, models = ([sys.argv[1]], [sys.argv[2]]) if len(sys.argv) == 3 else (SAMPLED, MODELS)
    print("| sampler | model | kernels | MB | GFLOP | ms eager | ms captured |\n|---|---|---|---|---|---|---|")
    for sampler, kge in itertools.product(samplers, models):
        print(row(sampler, kge), flush=True)


if __name__ == "__main__":
    main()
