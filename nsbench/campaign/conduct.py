"""Carries a plan out: what is missing, each run once, whatever happens to the processes."""

from __future__ import annotations

import collections
import contextlib
import enum
import time
from collections.abc import Callable, Iterable

from nsbench.campaign.engines import Ending, Engine, Job, Listener, Lost
from nsbench.errors import Busy, StoreFailed
from nsbench.runs import claim
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted

POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0  # between looks at heartbeats
LOSSES = 3  # of the worker that has a run, after which it counts as failed
PATIENCE = 2 * claim.BEAT_SECONDS  # with a run of another process, until it is seen to go on


class State(enum.Enum):
    """Where a job of the plan stands. The first three are open, the others final."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FOREIGN = enum.auto()  # another process has it: alive or not, that is to be seen
    DONE = enum.auto()
    FAILED = enum.auto()
    ELSEWHERE = enum.auto()  # it goes on in another process
    INTERRUPTED = enum.auto()


OPEN = (State.WAITING, State.RUNNING, State.FOREIGN)


class Plan:
    """The jobs in the order in which they are to begin, each in one state."""

    def __init__(self, jobs: Iterable[Job], diagnose: bool = True) -> None:
        self.order = list(jobs)
        self.states = {job.number: State.WAITING for job in self.order}
        self.diagnose = diagnose
        self.reasons: dict[int, Exception] = {}  # of those that failed
        self.store: StoreFailed | None = None  # why nothing can be written any more

    def those(self, *states: State) -> list[Job]:
        return [job for job in self.order if self.states[job.number] in states]

    @property
    def failed(self) -> list[tuple[Job, Exception]]:
        return [(job, self.reasons[job.number]) for job in self.those(State.FAILED)]

    def ready(self) -> list[Job]:
        """The jobs that need not wait for their reference."""
        ahead = {job.folder.path for job in self.those(*OPEN)} if self.diagnose else set()
        return [job for job in self.those(State.WAITING) if job.reference not in ahead]

    def move(self, job: Job, state: State) -> None:
        self.states[job.number] = state

    def queue(self, job: Job, first: bool) -> None:
        """Let it wait again, before all others or behind them."""
        self.order.remove(job)
        self.order.insert(0 if first else len(self.order), job)
        self.move(job, State.WAITING)

    def stop(self) -> None:
        """Nothing begins any more."""
        for job in self.those(State.WAITING):
            self.move(job, State.INTERRUPTED)
        for job in self.those(State.FOREIGN):
            self.move(job, State.ELSEWHERE)


def conduct(
    jobs: Iterable[Job],
    engine: Engine,
    listener: Listener,
    stopping: Callable[[], bool],
    patient: bool = True,
    diagnose: bool = True,
) -> Plan:
    """Carry out the jobs. Ends when each is done or failed, or goes on in another process; or soon after `stopping`.

    A run that another process has is looked at again when all else is done, if `patient`: that process may be gone by then.
    With `diagnose`, a run waits for its reference where that is one of these jobs, so that it has what it would have had if
    all had been carried out one after another.
    """
    driver = _Driver(Plan(jobs, diagnose), engine, listener, patient)
    plan = driver.plan
    while plan.those(*OPEN):
        if not driver.stopped and (stopping() or plan.store):
            driver.stop()
        driver.begin_what_is_ready()
        driver.note_what_has_ended()
        driver.hear_heartbeats()
        if not plan.those(State.RUNNING) and not plan.ready():
            driver.look_at_foreign_runs()
    return plan


class _Driver:
    """What goes on between a plan, an engine, and a listener."""

    def __init__(self, plan: Plan, engine: Engine, listener: Listener, patient: bool) -> None:
        self.plan, self.engine, self.listener, self.patient = plan, engine, listener, patient
        self.stopped, self.heard = False, 0.0
        self.begun: set[int] = set()  # running, and the listener knows
        self.losses: collections.Counter[int] = collections.Counter()
        self.foreign: dict[int, _Foreign] = {}

    def stop(self) -> None:
        self.stopped = True
        self.engine.stop()
        self.plan.stop()

    def begin_what_is_ready(self) -> None:
        for job in self.plan.ready():
            if self.engine.room(job):
                self.plan.move(job, State.RUNNING)
                if not self.engine.apart:
                    self._tell_beginning(job)
                self.engine.start(job)

    def note_what_has_ended(self) -> None:
        for job, ending in self.engine.ended(POLL_SECONDS):
            self._tell_beginning(job)  # it was short
            self.begun.discard(job.number)
            self.listener.end(job, ending, again=self._enter(job, ending))

    def _enter(self, job: Job, ending: Ending) -> bool:
        """Give the job its new state; returns whether it will be tried again."""
        plan = self.plan
        if isinstance(ending, Lost | Interrupted):  # the second: somebody stopped its worker alone
            self.losses[job.number] += 1
            if not self.stopped and self.losses[job.number] < LOSSES:
                plan.queue(job, first=True)
                return True
        if isinstance(ending, Result):
            plan.move(job, State.DONE)
        elif isinstance(ending, Interrupted):
            plan.move(job, State.INTERRUPTED)
        elif isinstance(ending, Busy):
            wait = self.patient and not self.stopped
            plan.move(job, State.FOREIGN if wait else State.ELSEWHERE)
            self.foreign[job.number] = _Foreign(job)
        elif isinstance(ending, StoreFailed):
            plan.store = ending
            plan.move(job, State.INTERRUPTED)
        else:
            plan.reasons[job.number] = ending
            plan.move(job, State.FAILED)
            if isinstance(ending, Lost):
                with contextlib.suppress(Busy, StoreFailed):
                    job.folder.record_failure(ending)
        return False

    def hear_heartbeats(self) -> None:
        """Runs that take place elsewhere tell by them that they have begun, and how far they are."""
        if not self.engine.apart or time.monotonic() - self.heard <= LOOK_SECONDS:
            return
        self.heard = time.monotonic()
        for job in self.plan.those(State.RUNNING):
            held = None
            with contextlib.suppress(OSError):  # of the network: the next look will tell
                held = claim.holder(job.folder.path)
            if held is not None:
                self._tell_beginning(job)
                if "stage" in held.progress:
                    self.listener.hear(job, held.progress)

    def _tell_beginning(self, job: Job) -> None:
        if job.number not in self.begun:
            self.begun.add(job.number)
            self.listener.begin(job)

    def look_at_foreign_runs(self) -> None:
        """One that is alive is left to its process, unless others wait for it."""
        needed = {job.reference for job in self.plan.those(State.WAITING)}
        for job in self.plan.those(State.FOREIGN):
            state = self.foreign[job.number].look()
            if state is State.WAITING:
                self.plan.queue(job, first=False)
            elif state is not State.ELSEWHERE or job.folder.path not in needed:
                self.plan.move(job, state)
        if self.plan.those(State.FOREIGN) and not self.plan.ready():
            time.sleep(POLL_SECONDS)


class _Foreign:
    """A run that was found with another process. Is it alive? No clock of another machine is asked."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.since: float | None = None
        self.first = 0.0  # heartbeat

    def look(self) -> State:
        """DONE, WAITING (to be tried again), ELSEWHERE (it goes on there), or FOREIGN as long as that is open."""
        if self.job.folder.complete:
            return State.DONE
        standing = claim.chain(self.job.folder.path)
        if not standing or standing[-1].dead(standing[-1].beat):
            return State.WAITING
        now, beat = time.monotonic(), standing[-1].beat
        beaten = beat != self.first
        if self.since is None or (beaten and now - self.since > claim.DEAD_SECONDS):  # nobody has looked for so long
            self.since, self.first, beaten = now, beat, False
        if beaten:
            return State.ELSEWHERE if now - self.since > PATIENCE else State.FOREIGN
        return State.WAITING if now - self.since > claim.DEAD_SECONDS else State.FOREIGN
