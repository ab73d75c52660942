"""Run stores: reading, choosing, carrying and deleting runs. Never imports torch."""

from nsbench.results.store.frame import load as load
from nsbench.results.store.reading import FAILED as FAILED
from nsbench.results.store.reading import Store as Store
from nsbench.results.store.reading import folders as folders
from nsbench.results.store.reading import read as read
from nsbench.results.store.run import CONFIG as CONFIG
from nsbench.results.store.run import COST as COST
from nsbench.results.store.run import ENV as ENV
from nsbench.results.store.run import FIGURES as FIGURES
from nsbench.results.store.run import METRICS as METRICS
from nsbench.results.store.run import SETTINGS as SETTINGS
from nsbench.results.store.run import Run as Run
from nsbench.results.store.run import config_value as config_value
from nsbench.results.store.run import events as events
from nsbench.results.store.selection import comparable as comparable
from nsbench.results.store.selection import select as select
