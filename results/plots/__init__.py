"""Plots of runs, each kind a module of its own with what it shows and how it looks. Needs the extra `plots`."""

from nsbench.results.plots.plot import Default as Default
from nsbench.results.plots.plot import Plot as Plot
from nsbench.results.plots.plot import kinds as kinds
from nsbench.results.plots.plot import plots as plots
from nsbench.results.plots.plot import write as write
