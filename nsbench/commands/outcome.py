"""What is said when an only run has ended: its figures, the published ones of its cell, and the commands that come next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nsbench.campaign.plan import dataset_of, folder_of
from nsbench.commands.options import command
from nsbench.config.run import Config
from nsbench.results.tables import papers
from nsbench.runs.result import Result
from nsbench.runs.runner import reference_of

SHOWN = ("mrr", "hits@1", "hits@3", "hits@10")


def outcome(config: Config, store: Path, asked: Mapping[str, object], settings: Sequence[str] = ()) -> Iterator[str]:
    """Lines of text. `asked`: what the user named of protocol, features, split and runs, for commands that he may type.

    Of his `settings` (--set), the baseline shares all that are not of the sampler or an auxiliary loss.
    """
    dataset, folder = dataset_of(config), folder_of(config, store)
    result = Result(folder.path, folder.result())
    figures = "  ".join(f"{name.upper()} {100 * result.test[name]:5.2f}" for name in SHOWN)
    yield f"{'test':<26} {figures}  MR {result.test['mr']:.0f}   ({folder.path})"
    cell = (config.sampler, config.kge, dataset.name)
    whole = [f for f in papers.models() if f.fusion == config.fusion]
    printed = [f for f in whole or papers.figures() if (f.sampler, f.kge, f.dataset) == cell and f.metric in SHOWN]
    for source, of_source in itertools.groupby(printed, lambda figure: figure.source):
        values = {figure.metric: figure.printed for figure in of_source}
        figures = "  ".join(f"{name.upper()} {values.get(name, '-'):>5}" for name in SHOWN)
        yield f"{source:<26} {figures}  as printed; other data, loss and budget"
    if not result.record["converged"]:
        yield "not converged: the best validation lies in the last tenth of the steps"
    if config.sampler != "uniform" and not reference_of(config, dataset, store).complete:
        options = {"sampler": "uniform", "kge": config.kge, "dataset": config.dataset, "fusion": config.fusion, **asked}
        changed = [text for text in settings if not text.startswith(("sampler.", "aux."))]
        yield f"the baseline that is fair to it: {command('run', options, changed)}"
