"""Trials as runs that are never tested: what is missing of a tuning, begun or gone on with.

The graph of a trial has no test triples, to rank or to filter by, and its seed is none that a run would have. It lies in a
folder beside the storage, with its checkpoint; what has ended, well or badly, stands in the storage and counts.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence

from nsbench.campaign.plan import dataset_of
from nsbench.errors import Busy, RunFailed, StoreFailed, out_of_memory, sentence
from nsbench.runs.checkpoint import resumable
from nsbench.runs.device import pick_device
from nsbench.runs.folder import RunFolder
from nsbench.runs.runner import Interrupted, Notify, RunOptions, Stopping, never, select, unheard
from nsbench.tuning.study import Study

WAIT = 1.0  # seconds until the trials of other processes are looked at again


def tune(
    studies: Sequence[Study],
    options: RunOptions = RunOptions(),
    *,
    begin: Callable[[Study, int], None] = lambda study, number: None,
    end: Callable[[Study, int], None] = lambda study, number: None,
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> None:
    """Every trial that is missing, in rounds: the first of each study, the second, ... Several processes may take part.

    `begin` and `end` hear of the trials of this process.
    """
    folder = studies[0].ledger.folder
    for path in folder.glob("*/trial.json"):  # of a process that was killed when all but tidying was done
        RunFolder(path.parent).tidy()
    while not all(study.ended() for study in studies):
        for number, i in sorted((number, i) for i, study in enumerate(studies) for number in study.open()):
            if stopping():
                raise Interrupted(str(folder))
            with contextlib.suppress(Busy):  # another process has it
                if one_trial(studies[i], number, options, begin=begin, notify=notify, stopping=stopping):
                    end(studies[i], number)
                break
        else:
            if stopping():
                raise Interrupted(str(folder))
            time.sleep(WAIT)


def one_trial(
    study: Study,
    number: int,
    options: RunOptions = RunOptions(),
    *,
    begin: Callable[[Study, int], None] = lambda study, number: None,
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> bool:
    """One trial, from its checkpoint where it has one; False: it has ended elsewhere. Busy: another process is at it."""
    values = study.values(number)
    config = study.configured(values)
    dataset = dataset_of(config, tested=False)
    folder = RunFolder(config.folder(study.ledger.folder, dataset))
    with folder.claimed():
        if number in study.done():  # by a process that has just let go of the folder
            return False
        begin(study, number)
        if not (folder.path / "trial.json").exists():
            resumable(folder, pick_device(options.device))  # the folder's faults are not the trial's
            try:
                found = select(config, dataset, folder, options, notify, stopping)
            except (Busy, Interrupted, StoreFailed):  # taken over by another process; stopped; nowhere to write
                raise
            except Exception as reason:
                if out_of_memory(reason):  # the machine's doing, not the trial's
                    raise RunFailed(f"{study.title}, trial {number}: {sentence(reason, '')}, or try again") from None
                found = {"failed": " ".join(f"{type(reason).__name__}: {reason}".split())}
            folder.write_json("trial.json", found)
        found = json.loads((folder.path / "trial.json").read_text())
        folder.remove("checkpoint.pt")
        study.ledger.add(study.name(), study.space, number, values, found)
    return True


def expected(studies: Sequence[Study]) -> float | None:
    """Seconds for all missing trials, each as long as the mean of its study, or of all; None before the first has ended."""
    seconds = [[trial.seconds for trial in study.done().values() if trial.seconds] for study in studies]
    every = [one for of_study in seconds for one in of_study]
    if not every:
        return None
    means = [sum(of_study or every) / len(of_study or every) for of_study in seconds]
    return sum(mean * (study.trials - len(study.done())) for study, mean in zip(studies, means))
