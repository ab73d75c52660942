"""Equal tuning for every sampler: as many trials, of as many steps, searched in the same way, on validation alone.

A *study* is one sampler with one model on one dataset. Its space is declared beside the options (`option(search=...)`);
trial 0 has the defaults, and nsbench.tuning.space proposes the others.

The backbone (learning rate, margin, regulariser: the fields of Protocol with a space) is tuned in one of two ways:

    frozen   once, with uniform; every sampler then chooses its own options beside it
    alike    by every sampler for itself, together with its own options
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsbench.campaign.plan import dataset_of, identify, loaded
from nsbench.config.protocol import Protocol, read_protocol, sizes_of
from nsbench.config.run import Config, configure
from nsbench.config.tuned import dataset_key, study_key
from nsbench.errors import Misuse, RunFailed
from nsbench.options import Search, searched
from nsbench.tuning.ledger import Ledger
from nsbench.tuning.space import LAG, STARTUP, Trial, Values, including, propose, size, space_hash

TRIAL_SEED = 1_000_000  # of training, to which the tuning's own seed is added: nothing is fitted to the seeds of runs


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is equal for all studies."""

    protocol: str
    trials: int
    backbone: str = "frozen"
    seed: int = 0
    steps: int | None = None  # of a trial; None: the protocol's
    fusion: str = "none"
    split: str | None = None
    features: str = "auto"

    def configured(self, sampler: str, kge: str, dataset: str, values: Values) -> Config:
        """The configuration of a trial."""
        steps = {} if self.steps is None else {"protocol.steps": self.steps}
        return configure(
            sampler,
            kge,
            dataset,
            protocol=self.protocol,
            seed=TRIAL_SEED + self.seed,
            fusion=self.fusion,
            split=self.split,
            features=self.features,
            settings=[f"{name}={value}" for name, value in {**steps, **values}.items()],
            identify=identify,
        )


class Study:
    """The trials of one sampler, or, with `backbone`, those that the frozen backbone is chosen by."""

    def __init__(
        self,
        tuning: Tuning,
        ledger: Ledger,
        sampler: str,
        kge: str,
        dataset: str,
        base: Study | None = None,
        backbone: bool = False,
    ) -> None:
        self.tuning, self.ledger = tuning, ledger
        self.sampler, self.kge, self.dataset = sampler, kge, dataset
        self.base, self.backbone = base, backbone
        plain = tuning.configured(sampler, kge, dataset, {})
        fixed = sizes_of(tuning.protocol, sampler)
        own = {} if backbone else {n: s for n, s in searched(plain.sampler_options).items() if n not in fixed}
        shared = searched(Protocol) if backbone or tuning.backbone == "alike" else {}
        # The backbone first: among the random trials, all samplers try the same ones.
        places: dict[str, tuple[Search, Any]] = {f"protocol.{n}": (s, getattr(plain.protocol, n)) for n, s in shared.items()}
        places |= {f"sampler.{n}": (s, getattr(plain.sampler_options, n)) for n, s in own.items()}
        self.defaults: Values = {name: default for name, (_, default) in places.items()}
        self.space = {name: including(search, default, name) for name, (search, default) in places.items()}
        self.trials = int(min(tuning.trials, size(self.space)))
        self._name = ""
        self._ended: dict[int, Trial] = {}  # once all have

    @property
    def title(self) -> str:
        return f"{self.sampler}-{self.kge}-{Path(self.dataset).name}{' backbone' if self.backbone else ''}"

    def configured(self, values: Values) -> Config:
        """The configuration of a trial, on the backbone that was frozen."""
        frozen = {} if self.base is None else self.base.best()[1].values
        return self.tuning.configured(self.sampler, self.kge, self.dataset, {**frozen, **values})

    @functools.cached_property
    def data(self) -> str:
        """The dataset, as the protocol file names it."""
        data = loaded(self.dataset, self.tuning.split, "none", True)
        return dataset_key(data.name, data.fingerprint)

    @property
    def key(self) -> str:
        return study_key(self.sampler, self.kge, self.data)

    def name(self) -> str:
        """The study's name in the storage, once the backbone is frozen: all that its trials depend on goes into it."""
        if not self._name:
            config = self.configured({})
            data = dataset_of(config, tested=False)
            what = [config.record(data)["id"], STARTUP, LAG, space_hash(self.space)]
            label = config.name if data.name == self.dataset else config.label_of("")  # a folder may be renamed
            self._name = f"{label}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
        return self._name

    def frozen(self) -> bool:
        """Whether the backbone is chosen that the study stands on; nothing can be begun before."""
        return self.base is None or self.base.ended()

    def ended(self) -> bool:
        return len(self.done()) == self.trials

    def done(self) -> dict[int, Trial]:
        """The trials that have ended, by number."""
        if self._ended or not self.frozen():
            return self._ended
        found = {n: trial for n, trial in self.ledger.trials(self.name()).items() if n < self.trials}
        if len(found) == self.trials:
            self._ended = found
        return found

    def open(self) -> list[int]:
        """The trials that can be begun now, by number."""
        if not self.frozen():
            return []
        done = self.done()
        return [n for n in range(self.trials) if n not in done and all(k in done for k in range(n - LAG + 1))]

    def values(self, number: int) -> Values:
        """What trial `number`, which is open, tries."""
        done, found = self.done(), []
        for n in range(number + 1):
            if n in done:
                found.append(done[n].values)
            elif n == 0:
                found.append(self.defaults)
            else:
                history = [done[k] for k in range(n - LAG + 1)]
                found.append(propose(self.space, history, found, self.tuning.seed))
        return found[number]

    def best(self) -> tuple[int, Trial]:
        """The trial of the highest validation MRR, the earliest of equals. RunFailed where all failed."""
        done = self.done()
        ended = [(trial.mrr, -n) for n, trial in done.items() if trial.mrr is not None]
        if not ended:
            why = done[0].reason
            raise RunFailed(f"all {self.trials} trials of {self.title} failed ({why}); mend that, or leave it out")
        number = -max(ended)[1]
        return number, done[number]

    def failed(self) -> int:
        return sum(trial.mrr is None for trial in self.done().values())


def studies(
    tuning: Tuning, ledger: Ledger, samplers: Sequence[str], models: Sequence[str], datasets: Sequence[str]
) -> list[Study]:
    """All that there are to do, checked before any work; that of a frozen backbone before those that need it."""
    base = read_protocol(tuning.protocol)
    if "tuning" in base:
        raise Misuse(f"protocol {tuning.protocol} is tuned already; name the one that it extends, {base['tuning']['base']}")
    found = []
    for dataset, kge in itertools.product(datasets, models):
        shared = Study(tuning, ledger, "uniform", kge, dataset, backbone=True) if tuning.backbone == "frozen" else None
        found += [] if shared is None else [shared]
        found += [Study(tuning, ledger, sampler, kge, dataset, base=shared) for sampler in samplers]
    for study in found:
        dataset_of(tuning.configured(study.sampler, study.kge, study.dataset, {}), tested=False)
    return found
