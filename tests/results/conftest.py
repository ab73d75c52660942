"""A synthetic run store: folders as the trainer writes them, with ranks from a crossed model of triples and seeds."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from nsbench import identity
from nsbench.metrics import metrics

TRIPLES, CANDIDATES = 60, 500


def fingerprint_of(dataset):
    return f"{dataset:0<64}".replace("_", "0")


identity.PUBLIC |= {fingerprint_of(name): name for name in ("mkg_y", "mkg_w", "db15k")}  # what the runs below stand for


def make_ranks(quality, seed, cell="", triples=TRIPLES, noise=0.2):
    """ranks [T, 2, 2] and candidates [T, 2]: log rank = difficulty of the query - quality + noise of this seed."""
    difficulty = np.random.default_rng(1).uniform(0, 5, size=(triples, 2))
    rng = np.random.default_rng([seed, zlib.crc32(cell.encode())])
    log_rank = difficulty - quality + rng.normal(0, noise, size=(triples, 2))
    optimistic = np.clip(np.exp(log_rank), 1, CANDIDATES - 3).astype(np.int32)
    tied = rng.integers(0, 3, size=(triples, 2), dtype=np.int32)
    candidates = np.full((triples, 2), CANDIDATES, np.int32)
    return np.stack([optimistic, optimistic + tied], axis=2), candidates


def merged(base, changes):
    """`base` with the nested values of `changes`."""
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(name), dict)
        base[name] = merged(dict(base[name]), value) if nested else value
    return base


def write_run(
    store: Path,
    sampler="uniform",
    kge="transe",
    dataset="mkg_y",
    seed=0,
    quality=1.0,
    folder=None,
    ranks=None,
    result=None,
    arrays=None,
    **config,
):
    """One complete run; `config` and `result` change values of config.json and result.json, `arrays` of ranks.npz."""
    record = {
        "sampler": sampler,
        "variant": "recommended",
        "kge": kge,
        "fusion": "none",
        "aux": {},
        "dataset": dataset,
        "split": "released",
        "fingerprint": fingerprint_of(dataset),
        "features": "none",
        "feature_fingerprint": "0" * 64,
        "modalities": [],
        "protocol": {"name": "nsbench", "version": 1, "steps": 6000, "margin": 3.0},
        "changed": {},
        "options": {"sampler": {}, "kge": {}, "fusion": {}, "aux": {}},
        "versions": {"sampler": 1, "kge": 1, "fusion": 1},
        "seed": seed,
    }
    record = merged(record, config)
    stored, candidates = make_ranks(quality, seed, sampler + kge + dataset) if ranks is None else ranks
    found = metrics(stored, candidates)
    seconds = 100.0 + seed
    complete = {
        "config": record,
        "test": found,
        "valid": found,
        "breakdown": {},
        "cost": {
            "seconds": seconds,
            "train_seconds": seconds - 20,
            "sampler_seconds": 7.25,
            "evaluation_seconds": 20.0,
            "peak_memory": 300 * 2**20,
            "steps": 6000,
        },
        "diagnostics": {},
        "selected_at": 5000,
        "converged": True,
        "env": {
            "nsbench": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.9",
            "device": "cpu x86_64",
            "threads": 2,
            "kernels": "native",
        },
        "code": None,
    }
    complete = merged(complete, result or {})
    path = store / (folder or f"{sampler}-{kge}-{dataset}-s{seed}-{len(list(store.iterdir())):08x}")
    path.mkdir(parents=True)
    record["id"] = path.name[-8:]
    triples = np.arange(3 * len(stored), dtype=np.int64).reshape(-1, 3)
    (path / "config.json").write_text(json.dumps(record))
    stored_arrays = {"ranks": stored, "candidates": candidates, "triples": triples, **(arrays or {})}
    np.savez_compressed(path / "ranks.npz", **stored_arrays)
    (path / "result.json").write_text(json.dumps(complete))
    return path


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def run(store):
    """run(sampler="uniform", seeds=(0, 1), ...) writes one run per seed into `store`; see write_run."""

    def write(*args, seeds=None, **kwargs):
        if seeds is None:
            return write_run(store, *args, **kwargs)
        return [write_run(store, *args, seed=seed, **kwargs) for seed in seeds]

    return write


@pytest.fixture
def small_store(store, run):
    """Two models, two datasets, five seeds; one sampler clearly better, one alike, one cell missing."""
    for kge in ("rotate", "transe"):
        run("uniform", kge, seeds=range(5))
        run("bernoulli", kge, seeds=range(5), quality=1.01)
        run("dhns", kge, seeds=range(5), quality=2.5)
        run("uniform", kge, "db15k", split="clean", seeds=range(5))
    late = {"converged": False, "selected_at": 5900}
    run("dhns", "transe", "db15k", split="clean", seeds=range(5), quality=0.4, result=late)
    return store


def pytest_configure(config):
    config.addinivalue_line("markers", "fact(*numbers, oracle): of docs/notes/statistics_and_reporting.md, section 5")
