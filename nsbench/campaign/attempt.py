"""A configured run on its way to a worker, and there: what it comes to is returned, whatever happens."""

from __future__ import annotations

import gc
import pickle
import traceback
from pathlib import Path

import torch

from nsbench.campaign.plan import carry_out, folder_of
from nsbench.config.run import Config
from nsbench.errors import Busy, FailedBefore, Misuse, StoreFailed
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted, Notify, RunOptions, Stopping, never, unheard


def attempt(
    config: Config, store: Path, options: RunOptions, notify: Notify = unheard, stopping: Stopping = never
) -> Result | Exception:
    """As `carry_out`, but never raises: why there is no result is returned. What the run itself failed of is recorded."""
    ending: Result | Exception
    try:
        ending = carry_out(config, store, options, notify, stopping)
    except (Interrupted, Misuse, FailedBefore, StoreFailed) as reason:
        ending = reason
    except (Exception, SystemExit) as error:  # a component of a plugin may call sys.exit
        traceback.clear_frames(error.__traceback__)
        try:
            ending = folder_of(config, store).record_failure(error)
        except (Busy, StoreFailed) as reason:
            ending = reason
    if isinstance(ending, Exception):
        traceback.clear_frames(ending.__traceback__)
    gc.collect()  # the trainer, which the next run needs the memory of
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return ending


def packed(config: Config) -> bytes:
    """For another process, which may not know yet where a component of a file comes from."""
    return pickle.dumps((config.sampler, config.kge, config.fusion, [*config.aux], pickle.dumps(config)))


def unpacked(text: bytes) -> Config:
    sampler, kge, fusion, auxiliaries, pickled = pickle.loads(text)
    for registry, name in [(SAMPLERS, sampler), (MODELS, kge), (FUSIONS, fusion), *((AUXILIARIES, n) for n in auxiliaries)]:
        registry.get(name)
    return pickle.loads(pickled)
