"""Studies of a fraction of a second."""

import optuna

from nsbench.tuning.study import Tuning, studies

CELL = ("transe", "planted:small")
BASE = 'version = 1\nextends = "quick"\nsteps = 12\nvalidate_every = 6\nbatch = 64\nwidth = 8\n'


def plan(base, ledger, samplers, trials, models=("transe",), **more):
    return studies(Tuning(base, trials, **more), ledger, samplers, models, ["planted:small"])


def in_storage(file):
    """What the storage holds, by Optuna alone: study -> [(number, state, value, parameters)], in their order of number."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    found = {}
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        found[study.study_name] = sorted(
            (t.user_attrs["number"], t.state.name, t.value, tuple(sorted(t.params.items()))) for t in trials
        )
    return found
