"""Equal tuning for every sampler: as many trials, of as many steps, searched in the same way, on validation alone.

A *study* is one sampler with one model on one dataset. Its space is declared beside the options (`option(search=...)`).
Trial 0 has the defaults. The next ones are drawn at random; from trial STARTUP + LAG - 1 on, when it knows STARTUP of them,
by a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011, as in Optuna). What is drawn for trial n depends on
the tuning's seed, n, and the outcomes of the trials up to n - LAG: neither a kill nor a second process changes the
sequence.

The backbone (learning rate, margin, regulariser: the fields of Protocol with a space) is tuned in one of two ways:

    frozen   once, with uniform; every sampler then chooses its own options beside it
    alike    by every sampler for itself, together with its own options

A trial is a run that is never tested: its graph has no test triples, to rank or to filter by, and its seed is none that a
run would have. It lies in a folder beside the storage, with its checkpoint; what has ended, well or badly, stands in the
storage (Optuna's, SQLite) and counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.campaign.plan import dataset_of
from nsbench.config.protocol import Protocol, name_of, protocol_names, read_protocol
from nsbench.config.run import Config, configure
from nsbench.config.tuned import study_key
from nsbench.errors import Busy, Misuse, RunFailed, StoreFailed, out_of_memory, sentence
from nsbench.options import Range, Search, searched, shown
from nsbench.runs.checkpoint import resumable
from nsbench.runs.device import pick_device
from nsbench.runs.folder import RunFolder
from nsbench.runs.runner import Interrupted, Notify, RunOptions, Stopping, never, select, unheard

BACKBONES = ("frozen", "alike")
STARTUP = 4  # trials that the estimator must know of, the defaults among them
LAG = 2  # two processes can work on one study without waiting for each other
TRIAL_SEED = 1_000_000  # of training, to which the tuning's own seed is added: nothing is fitted to the seeds of runs
BY_CHANCE = 20  # proposals that were tried before, after which the next are drawn at random
WAIT = 1.0  # seconds until the trials of other processes are looked at again

Values = Mapping[str, Any]  # by the names of --set: {"sampler.tau": 0.1, "protocol.margin": 3.0}


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
        )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One that has ended."""

    values: Values
    mrr: float | None  # best on validation; None: it failed
    reason: str = ""  # of the failure
    seconds: float = 0.0


class Study:
    """The trials of one sampler, or, with `backbone`, those that the frozen backbone is chosen by."""

    def __init__(
        self, tuning: Tuning, sampler: str, kge: str, dataset: str, base: Study | None = None, backbone: bool = False
    ) -> None:
        self.tuning, self.sampler, self.kge, self.dataset = tuning, sampler, kge, dataset
        self.base, self.backbone = base, backbone
        self.key = study_key(sampler, kge, dataset)
        plain = tuning.configured(sampler, kge, dataset, {})
        fixed = read_protocol(tuning.protocol).get("sampler", {}).get(sampler, {})  # sizes that fit its budget
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

    def configured(self, values: Values, ledger: Ledger) -> Config:
        """The configuration of a trial, on the backbone that was frozen."""
        frozen = {} if self.base is None else self.base.best(ledger)[1].values
        return self.tuning.configured(self.sampler, self.kge, self.dataset, {**frozen, **values})

    def name(self, ledger: Ledger) -> str:
        """Of the study in the storage, once the backbone is frozen: all that its trials depend on goes into it."""
        if not self._name:
            config = self.configured({}, ledger)
            what = [config.record(dataset_of(config, tested=False))["id"], STARTUP, LAG, space_hash(self.space)]
            self._name = f"{config.name}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
        return self._name

    def frozen(self, ledger: Ledger) -> bool:
        """Whether the backbone is chosen that the study stands on; nothing can be begun before."""
        return self.base is None or self.base.ended(ledger)

    def ended(self, ledger: Ledger) -> bool:
        return len(self.done(ledger)) == self.trials

    def done(self, ledger: Ledger) -> dict[int, Trial]:
        """The trials that have ended, by number."""
        if self._ended or not self.frozen(ledger):
            return self._ended
        found = {n: trial for n, trial in ledger.trials(self.name(ledger)).items() if n < self.trials}
        if len(found) == self.trials:
            self._ended = found
        return found

    def open(self, ledger: Ledger) -> list[int]:
        """The trials that can be begun now, by number."""
        if not self.frozen(ledger):
            return []
        done = self.done(ledger)
        return [n for n in range(self.trials) if n not in done and all(k in done for k in range(n - LAG + 1))]

    def values(self, number: int, ledger: Ledger) -> Values:
        """What trial `number`, which is open, tries."""
        done, found = self.done(ledger), []
        for n in range(number + 1):
            if n in done:
                found.append(done[n].values)
            elif n == 0:
                found.append(self.defaults)
            else:
                history = [done[k] for k in range(n - LAG + 1)]
                found.append(propose(self.space, history, found, self.tuning.seed))
        return found[number]

    def best(self, ledger: Ledger) -> tuple[int, Trial]:
        """The trial of the highest validation MRR, the earliest of equals. RunFailed where all failed."""
        done = self.done(ledger)
        ended = [(trial.mrr, -n) for n, trial in done.items() if trial.mrr is not None]
        if not ended:
            why = done[0].reason
            raise RunFailed(f"all {self.trials} trials of {self.title} failed ({why}); mend that, or leave it out")
        number = -max(ended)[1]
        return number, done[number]

    def failed(self, ledger: Ledger) -> int:
        return sum(trial.mrr is None for trial in self.done(ledger).values())


def studies(tuning: Tuning, samplers: Sequence[str], models: Sequence[str], datasets: Sequence[str]) -> list[Study]:
    """All that there are to do, checked before any work; that of a frozen backbone before those that need it."""
    if tuning.backbone not in BACKBONES:
        raise Misuse(f"--backbone is {' or '.join(BACKBONES)}, not '{tuning.backbone}'")
    base = read_protocol(tuning.protocol)
    if "tuning" in base:
        raise Misuse(f"protocol {tuning.protocol} is tuned already; name the one that it extends, {base['tuning']['base']}")
    found = []
    for dataset, kge in itertools.product(datasets, models):
        shared = Study(tuning, "uniform", kge, dataset, backbone=True) if tuning.backbone == "frozen" else None
        found += [] if shared is None else [shared]
        found += [Study(tuning, sampler, kge, dataset, base=shared) for sampler in samplers]
    for study in found:
        dataset_of(tuning.configured(study.sampler, study.kge, study.dataset, {}), tested=False)
    return found


def carry_out(
    plan: Sequence[Study],
    ledger: Ledger,
    *,
    begin: Callable[[Study, int], None] = lambda study, number: None,
    end: Callable[[Study, int], None] = lambda study, number: None,
    options: RunOptions = RunOptions(),
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> None:
    """Every trial that is missing, in rounds: the first of each study, the second, ... Several processes may take part.

    `begin` and `end` hear of the trials of this process.
    """
    for path in ledger.folder.glob("*/trial.json"):  # of a process that was killed when all but tidying was done
        RunFolder(path.parent).tidy()
    while not all(study.ended(ledger) for study in plan):
        for number, i in sorted((number, i) for i, study in enumerate(plan) for number in study.open(ledger)):
            if stopping():
                raise Interrupted(str(ledger.folder))
            with contextlib.suppress(Busy):  # another process has it
                if carry_out_one(plan[i], number, ledger, begin, options, notify, stopping):
                    end(plan[i], number)
                break
        else:
            if stopping():
                raise Interrupted(str(ledger.folder))
            time.sleep(WAIT)


def carry_out_one(
    study: Study,
    number: int,
    ledger: Ledger,
    begin: Callable[[Study, int], None],
    options: RunOptions = RunOptions(),
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> bool:
    """One trial, from its checkpoint where it has one; False: it has ended elsewhere. Busy: another process is at it."""
    values = study.values(number, ledger)
    config = study.configured(values, ledger)
    dataset = dataset_of(config, tested=False)
    folder = RunFolder(ledger.folder / config.folder_name(dataset))
    with folder.claimed():
        if number in study.done(ledger):  # by a process that has just let go of the folder
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
        ledger.add(study, number, values, found)
    return True


def expected(plan: Sequence[Study], ledger: Ledger) -> float | None:
    """Seconds for all missing trials, each as long as the mean of its study, or of all; None before the first has ended."""
    seconds = [[trial.seconds for trial in study.done(ledger).values() if trial.seconds] for study in plan]
    every = [one for of_study in seconds for one in of_study]
    if not every:
        return None
    means = [sum(of_study or every) / len(of_study or every) for of_study in seconds]
    return sum(mean * (study.trials - len(study.done(ledger))) for study, mean in zip(plan, means))


# The space of a study, and what is tried of it


def including(search: Search, default: Any, name: str) -> Search:
    """The place to look, with the default in it: trial 0 has that."""
    if isinstance(search, tuple):
        return search if default in search else (*search, default)
    if search.log and default <= 0:
        raise Misuse(f"{name} = {default:g} cannot be tuned by decades; give it a positive value in the protocol")
    return dataclasses.replace(search, low=min(search.low, default), high=max(search.high, default))


def size(space: Mapping[str, Search]) -> float:
    """How many different trials there are."""
    return math.prod(map(points, space.values()))


def points(search: Search) -> float:
    if isinstance(search, tuple):
        return len(search)
    return search.high - search.low + 1 if whole(search) else math.inf


def whole(search: Range) -> bool:
    """Whether only whole numbers lie in it."""
    return isinstance(search.low, int) and isinstance(search.high, int)


def space_hash(space: Mapping[str, Search]) -> str:
    text = json.dumps([(name, shown(search)) for name, search in space.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def propose(space: Mapping[str, Search], history: Sequence[Trial], tried: Sequence[Values], seed: int) -> Values:
    """Values for trial number len(tried), given the outcomes of earlier ones, none of those tried before.

    A failed trial counts as one of MRR 0.
    """
    import optuna

    where = distributions(space)
    for attempt in itertools.count():
        own = hashlib.sha256(f"{seed} {len(tried)} {attempt}".encode()).digest()
        sampler: Any = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=int.from_bytes(own[:4], "big"))
        if attempt >= BY_CHANCE:
            sampler = optuna.samplers.RandomSampler(seed=int.from_bytes(own[:4], "big"))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(params=dict(trial.values), distributions=where, value=trial.mrr or 0.0)
                for trial in history
            ]
        )
        drawn = study.ask(where).params
        values = {name: _rounded(drawn[name], search) for name, search in space.items()}
        if values not in tried:
            return values
    raise AssertionError


def _rounded(value: Any, search: Search) -> Any:
    """Three digits of a number from a range."""
    if isinstance(search, tuple) or isinstance(value, int):
        return value
    return min(max(float(f"{value:.3g}"), search.low), search.high)


def distributions(space: Mapping[str, Search]) -> dict[str, Any]:
    """The space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def one(search: Search) -> Any:
        if isinstance(search, tuple):
            return CategoricalDistribution(search)
        if whole(search):
            return IntDistribution(int(search.low), int(search.high), log=search.log)
        return FloatDistribution(search.low, search.high, log=search.log)

    return {name: one(search) for name, search in space.items()}


# What has ended


class Ledger:
    """The trials that have ended, in an Optuna storage; those under way have folders in `folder`."""

    def __init__(self, file: Path) -> None:
        try:
            import optuna
        except ImportError:
            raise Misuse('tuning needs Optuna; install it with pip install "nsbench[tune]"') from None
        self.file = file
        self.folder = file.with_suffix(".trials")
        self.search = f"TPE of Optuna {optuna.__version__} after {STARTUP + LAG - 1} trials"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._explained():
            file.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(file.with_suffix(".lock")):  # two processes must not lay out the tables at once
                self.storage = optuna.storages.RDBStorage(
                    f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}}
                )
        self.ids: dict[str, int] = {}

    def trials(self, name: str) -> dict[int, Trial]:
        """Of the study of that name in the storage, by number."""
        import optuna

        with self._explained():
            if name not in self.ids:
                with contextlib.suppress(KeyError):
                    self.ids[name] = self.storage.get_study_id_from_name(name)
            if name not in self.ids:
                return {}
            found: dict[int, Trial] = {}
            for trial in self.storage.get_all_trials(self.ids[name], deepcopy=False):
                attributes = trial.user_attrs
                mrr = trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None
                found[attributes["number"]] = Trial(trial.params, mrr, attributes["reason"], attributes["seconds"])
            return found

    def add(self, study: Study, number: int, values: Values, found: Mapping[str, Any]) -> None:
        """Note how a trial ended; the caller holds the claim on its folder."""
        import optuna

        name, failed = study.name(self), "failed" in found
        with self._explained():
            kept = optuna.create_study(study_name=name, storage=self.storage, direction="maximize", load_if_exists=True)
            kept.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                    value=None if failed else found["valid"]["mrr"],
                    params=dict(values),
                    distributions=distributions(study.space),
                    user_attrs={"number": number, "reason": found.get("failed", ""), "seconds": found.get("seconds", 0.0)},
                )
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                yield
        except (SQLAlchemyError, OSError, optuna.exceptions.StorageInternalError) as error:
            reason = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
            raise RunFailed(f"cannot use {self.file}: {reason}; name another file with --storage") from None


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# What was chosen


def protocol_text(plan: Sequence[Study], ledger: Ledger, output: Path) -> str:
    """A protocol file that extends the tuned one by what the studies chose. RunFailed where a study has nothing."""
    tuning = plan[0].tuning
    name = name_of(tuning.protocol)
    base = os.path.relpath(tuning.protocol, output.parent) if tuning.protocol.endswith(".toml") else tuning.protocol
    lines = [
        "# Written by `nsbench tune`; the best trial of each study, by validation MRR.",
        f"description = {_toml(f'{name}, each sampler tuned by {tuning.trials} trials, backbone {tuning.backbone}')}",
        f"extends = {_toml(base)}",
    ]
    shared = [study for study in plan if study.backbone]
    for parameter in shared[0].space if shared else ():
        lines += ["", f"[{parameter.removeprefix('protocol.')}]"]
        lines += [f"{_toml(f'{s.kge}/{s.dataset}')} = {_toml(s.best(ledger)[1].values[parameter])}" for s in shared]
    lines += ["", "[tuning]", f"base = {_toml(name)}", f"budget = {tuning.trials}"]
    lines += [f"backbone = {_toml(tuning.backbone)}", f"search = {_toml(ledger.search)}", f"seed = {tuning.seed}"]
    lines += [f"fusion = {_toml(tuning.fusion)}", f"split = {_toml(tuning.split or '')}"]
    lines += [f"features = {_toml(tuning.features)}"]
    for study in plan:
        if study.backbone:
            continue
        number, best = study.best(ledger)
        assert best.mrr is not None
        steps = study.configured({}, ledger).protocol.steps
        lines += [
            "",
            f"[tuning.studies.{_toml(study.key)}]  # trial {number}, validation MRR {100 * best.mrr:.2f}",
            f"trials = {study.trials}",
            f"failed = {study.failed(ledger)}",
            f"steps = {steps}",
            f"space = {_toml(space_hash(study.space))}",
            f"[tuning.studies.{_toml(study.key)}.chosen]",
            *(f"{_toml(option)} = {_toml(value)}" for option, value in best.values.items()),
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text, number or truth value as TOML has it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_output(output: Path) -> None:
    """Refuse, before any work, a file that the result could not or should not be written to."""
    if output.suffix != ".toml":
        raise Misuse(f"the result is a protocol file, so its name ends in .toml, not '{output.name}'")
    if output.stem in protocol_names():
        raise Misuse(f"tables would take {output.name} for the protocol {output.stem}; give it another name")
    if not output.parent.is_dir():
        raise Misuse(f"there is no folder {output.parent}; make it, or write elsewhere with -o")
    if output.exists() and "tuning" not in read_protocol(str(output)):
        raise Misuse(f"{output} was not written by nsbench tune; give another name with -o")


def write(output: Path, text: str) -> None:
    """The whole file or none of it."""
    temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, output)
    except OSError as error:
        raise RunFailed(f"cannot write {output}: {error.strerror}; choose another place with -o") from None
    finally:
        temporary.unlink(missing_ok=True)


def summary(plan: Iterable[Study], ledger: Ledger) -> list[str]:
    """One line per study: its budget, used and unused, and what it chose."""
    lines = []
    for study in plan:
        done = study.done(ledger)
        used = f"{study.trials} of {study.tuning.trials} trials"
        if study.trials < study.tuning.trials:
            why = f"its space has {size(study.space):.0f} points" if study.space else "it has no option to choose"
            used += f", {study.tuning.trials - study.trials} unused: {why}"
        if failed := study.failed(ledger):
            used += f", {failed} failed"
        number, best = study.best(ledger)
        assert best.mrr is not None
        chosen = ", ".join(f"{name}={value}" for name, value in best.values.items()) or "nothing to set"
        default = "failed" if done[0].mrr is None else f"{100 * done[0].mrr:.2f}"
        lines.append(
            f"{study.title}: {used}; validation MRR {100 * best.mrr:.2f} by trial {number} (defaults: {default}); {chosen}"
        )
    return lines
