"""A store of synthetic runs as large as real ones: python tests/results/synthetic.py FOLDER RUNS.

Five seeds of each of up to 20 samplers with 10 models on 10 datasets, 2,663 test triples, some around hubs, some with
unseen entities; result.json, with breakdown and diagnostics, of 6 kB. `time nsbench table --runs FOLDER` says what it costs.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from nsbench.metrics import metrics

TRIPLES, ENTITIES = 2663, 15_000
PARTS = {"side": 2, "category": 4, "seen": 2, "frequency": 4}
MOMENTS = {f"figure_of_a_sampler_{i}": 0.123456789012345 for i in range(12)}


def write_store(folder: Path, runs: int) -> None:
    models, datasets = (2, 5) if runs <= 1000 else (10, 10)
    samplers = ["uniform", *(f"sampler{i:02d}" for i in range(1, runs // (5 * models * datasets)))]
    for dataset in range(datasets):
        rng = np.random.default_rng(dataset)
        tails = np.minimum(rng.zipf(1.6, TRIPLES), ENTITIES - 1)
        triples = np.stack([rng.integers(0, ENTITIES, TRIPLES), rng.integers(0, 28, TRIPLES), tails], axis=1)
        shared = {"triples": triples.astype(np.int64), "seen": rng.random(TRIPLES) < 0.85}
        shared["candidates"] = np.full((TRIPLES, 2), ENTITIES, np.int32)
        difficulty = rng.gamma(1.0, 2.5, (TRIPLES, 2))
        for (s, sampler), model in itertools.product(enumerate(samplers), range(models)):
            for seed in range(5):
                own = difficulty - 0.02 * s + np.random.default_rng([s, model, seed]).normal(0, 0.5, difficulty.shape)
                rank = np.clip(np.exp(own), 1, ENTITIES - 2).astype(np.int32)
                ranks = np.stack([rank, rank + (rank % 97 == 0)], axis=2).astype(np.int32)
                write_run(folder, sampler, f"model{model}", f"data{dataset}", seed, {"ranks": ranks, **shared})


def write_run(folder, sampler, kge, dataset, seed, arrays):
    figures = metrics(arrays["ranks"], arrays["candidates"])
    protocol = {
        "name": "cpu",
        "version": 1,
        "steps": 2000,
        "batch": 1024,
        "negatives": 20,
        "width": 100,
        "learning_rate": 0.001,
        "decay_at": 0.5,
        "decay_factor": 0.1,
        "sides": "per_row",
        "subsampling": False,
        "validate_every": 100,
        "selection": "best",
        "patience": 0,
        "seeds": 5,
        "margin": 3.0,
        "regularizer": 0.0,
        "regularizer_power": 3,
        "temperature": 0.0,
    }
    config = {
        "sampler": sampler,
        "variant": "recommended",
        "kge": kge,
        "fusion": "none",
        "aux": {},
        "dataset": dataset,
        "split": "released",
        "fingerprint": hashlib.sha256(dataset.encode()).hexdigest(),
        "features": "none",
        "feature_fingerprint": "",
        "modalities": [],
        "protocol": protocol,
        "changed": {},
        "options": {"sampler": {}, "kge": {}, "fusion": {}, "aux": {}},
        "sources": {},
        "versions": {"sampler": 1, "kge": 1, "fusion": 1},
        "seed": seed,
    }
    config["id"] = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
    result = {
        "config": config,
        "test": figures,
        "valid": figures,
        "breakdown": {by: {f"part {i}": {**figures, "queries": 1000} for i in range(n)} for by, n in PARTS.items()},
        "cost": {
            "seconds": 30.5,
            "train_seconds": 18.5 + seed,
            "sampler_seconds": 3.25,
            "evaluation_seconds": 12.0,
            "diagnosis_seconds": 3.0,
            "peak_memory": 460_120_064,
            "sampler_state": 0,
            "steps": 2000,
        },
        "diagnostics": {"sampler": {}, **dict.fromkeys(("start", "middle", "end"), MOMENTS)},
        "selected_at": 1500,
        "converged": True,
        "resumed_at": [],
        "env": {
            "nsbench": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.9",
            "device": "cpu x86_64",
            "threads": 1,
            "kernels": "native",
        },
        "code": "0123456",
    }
    path = folder / f"{sampler}-{kge}-{dataset}-s{seed}-{config['id']}"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    np.savez_compressed(path / "ranks.npz", **arrays)
    (path / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    write_store(Path(sys.argv[1]), int(sys.argv[2]))
