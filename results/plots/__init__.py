"""Plots of runs: what each one shows (data) and how it looks (drawing). Needs the extra `plots`."""

from nsbench.results.plots.data import KINDS as KINDS
from nsbench.results.plots.data import Default as Default
from nsbench.results.plots.data import Plot as Plot
from nsbench.results.plots.data import plots as plots
from nsbench.results.plots.data import write as write
