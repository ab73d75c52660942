"""The trials that have ended, well or badly, in an Optuna storage (SQLite)."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse, RunFailed
from nsbench.tuning.space import LAG, STARTUP, Space, Trial, Values, distributions


class Ledger:
    """A storage file; the trials under way have folders beside it, in `folder`."""

    def __init__(self, file: Path) -> None:
        try:
            import optuna
        except ImportError:
            raise Misuse('tuning needs Optuna; install it with pip install "nsbench[tune]"') from None
        self.file = file
        self.folder = file.with_suffix(".trials")
        self.search = f"TPE of Optuna {optuna.__version__} after {STARTUP + LAG - 1} trials"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.ids: dict[str, int] = {}

    @functools.cached_property
    def storage(self) -> Any:
        """Opened on first use: what cannot be tuned is refused before there is a file."""
        import optuna

        address = self._address()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.file.with_suffix(".lock")):  # two processes must not lay out the tables at once
            return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})

    def _address(self) -> str:
        """The file as SQLAlchemy writes it. Misuse for a name that would not come back: no version reads another file."""
        from sqlalchemy.engine import URL, make_url

        file = os.path.abspath(self.file)  # :memory: and file:x are files too
        try:
            address = URL.create("sqlite", database=file).render_as_string(hide_password=False)
            if make_url(address).database == file:
                return address.replace("{", "{{").replace("}", "}}")  # Optuna fills its version into {SCHEMA_VERSION}
        except UnicodeEncodeError:  # a name that is no text
            pass
        raise Misuse(f"{self.file} cannot be the name of a database; give --storage a plainer one")

    def trials(self, study: str) -> dict[int, Trial]:
        """The ended trials of the study of that name, by number."""
        import optuna

        with self._explained():
            if study not in self.ids:
                with contextlib.suppress(KeyError):
                    self.ids[study] = self.storage.get_study_id_from_name(study)
            if study not in self.ids:
                return {}
            found: dict[int, Trial] = {}
            for trial in self.storage.get_all_trials(self.ids[study], deepcopy=False):
                attributes = trial.user_attrs
                mrr = trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None
                found[attributes["number"]] = Trial(trial.params, mrr, attributes["reason"], attributes["seconds"])
            return found

    def add(self, study: str, space: Space, number: int, values: Values, found: Mapping[str, Any]) -> None:
        """Note how a trial ended; the caller holds the claim on its folder."""
        import optuna

        failed = "failed" in found
        with self._explained():
            kept = optuna.create_study(study_name=study, storage=self.storage, direction="maximize", load_if_exists=True)
            kept.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                    value=None if failed else found["valid"]["mrr"],
                    params=dict(values),
                    distributions=distributions(space),
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
