"""Tables as text: for the terminal, Markdown, LaTeX, CSV and HTML."""

from nsbench.results.writers.terminal import FORMS as FORMS
from nsbench.results.writers.terminal import show as show
from nsbench.results.writers.terminal import write as write
