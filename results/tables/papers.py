"""Published figures, as two papers print them (published/README.md). They stand beside ours and are never tested."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources

from nsbench.results.store import Run

PAPERS = {
    "mmrns2022": "Xu et al., ACM MM 2022, doi 10.1145/3503161.3548388",
    "dhns2025": "Niu and Zhang, DASFAA 2025, arXiv 2501.15393",
}
BUILT = {  # the whole models of dhns2025 Table 2: the fusion and the scoring model that each is here
    "AdaMF": ("adamf", "rotate"),
    "IKRL": ("ikrl", "transe"),
    "TBKGC": ("tbkgc", "transe"),
    "TransAE": ("transae", "transe"),
    "MMKRL": ("mmkrl", "transe"),
    "VBKGC": ("vbkgc", "transe"),
    "RSME": ("rsme", "complex"),
    "OTKGE": ("otkge", "complex"),
}
METRICS = {"MRR": "mrr", "MR": "mr", "H@1": "hits@1", "H@3": "hits@3", "H@10": "hits@10"}


@dataclass(frozen=True)
class Figure:
    """One printed figure under our names; `value` is a fraction (mr: a rank), `printed` the paper's text.

    `without`: the part that an ablation's row lacks, as the sampler's variant is called; empty for the full method.
    """

    paper: str
    table: str  # "Table 4"; tables 2 and 3 of dhns2025 are one, split by dataset
    sampler: str
    kge: str
    dataset: str
    metric: str
    value: float
    printed: str
    note: str
    without: str = ""
    fusion: str = ""  # of a whole model; "": whatever ours is

    @property
    def source(self) -> str:
        return f"{self.paper} {self.table}"


@functools.cache
def figures() -> tuple[Figure, ...]:
    """Every published figure of a sampler with a scoring model, in print order.

    A row that names a scoring model alone was trained with uniform negatives and is listed as that, with a note. Left
    out: rows without a scoring model (a model of its own) and the ablation table.
    """
    return tuple(_figure(row) for row in _printed() if row["group"] in ("sampler", "unimodal") and row["kge"])


@functools.cache
def models() -> tuple[Figure, ...]:
    """Every published figure of a whole model, with or without features (dhns2025, Tables 2 and 3), in print order.

    Each was made with its authors' own loss, sampler and size: they are listed under uniform negatives, with a note.
    """
    of_models = [row for row in _printed() if row["paper"] == "dhns2025" and row["group"] in ("unimodal", "multimodal")]
    return tuple(_figure(row) for row in of_models)


@functools.cache
def ablation() -> tuple[Figure, ...]:
    """Every figure of the one published ablation, that of DHNS, in print order.

    After them stand figures that the paper leaves to its reader, of the metric `difference`: MRR minus the full method's.
    """
    printed = [_figure(row) for row in _printed() if row["group"] == "ablation"]
    full = {figure.dataset: figure for figure in printed if figure.metric == "mrr" and not figure.without}
    differences = []
    for figure in printed:
        if figure.metric == "mrr" and figure.without:
            less = Decimal(figure.printed) - Decimal(full[figure.dataset].printed)
            differences.append(replace(figure, metric="difference", value=float(less / 100), printed=f"{less:+f}"))
    return (*printed, *differences)


def _printed() -> Iterator[dict[str, str]]:
    text = (resources.files("nsbench.results") / "published" / "published_results.csv").read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())


def _figure(row: Mapping[str, str]) -> Figure:
    alone = row["group"] in ("unimodal", "multimodal")
    notes = [row["note"], "printed as the model alone, read as uniform negatives" if row["group"] == "unimodal" else ""]
    notes += ["a whole model with its authors' loss, sampler and size" if row["group"] == "multimodal" else ""]
    fusion, kge = BUILT.get(row["method"], ("", _name(row["kge"]))) if alone else ("", _name(row["kge"]))
    without = row["method"].partition("w/o ")[2]
    sampler = "dhns" if without else _name(row["method"])  # the one ablation at hand
    printed = Decimal(row["value"])
    metric = METRICS[row["metric"]]
    return Figure(
        paper=row["paper"],
        table="Tables 2-3" if row["paper"] == "dhns2025" and row["table"] in "23" else f"Table {row['table']}",
        sampler="uniform" if alone else sampler,
        kge="gcote" if kge == "gc_ote" else kge,
        dataset=_name(row["dataset"]),
        metric=metric,
        value=float(printed if metric == "mr" else printed / 100),
        printed=row["value"],
        note="; ".join(filter(None, notes)),
        without=f"wo_{_name(without)}" if without else "",
        fusion=fusion,
    )


def print_order(column: str) -> dict[str, int]:
    """Position of each sampler, model or dataset in the papers, which tables keep."""
    names = dict.fromkeys(str(getattr(figure, column)) for figure in figures())
    return {name: i for i, name in enumerate(names)}


def caveats(shown: Iterable[Figure], runs: Iterable[Run] = ()) -> list[str]:
    """What a reader must know about the figures shown beside our runs, beyond the notes of single ones."""
    shown = list(shown)
    papers = {figure.paper for figure in shown}
    if not papers:
        return []
    named = "; ".join(f"{paper}: {title}" for paper, title in PAPERS.items() if paper in papers)
    notes = [f"Published figures ({named}) have no standard deviation and no number of seeds; they are never tested."]
    if any(figure.source == "dhns2025 Table 4" for figure in shown):
        notes.append("dhns2025 derives the baselines of its Table 4 from mmrns2022 Table 2; 29 of those cells differ.")
    printed: dict[tuple[str, ...], set[str]] = {}
    for figure in shown:
        cell = (figure.paper, figure.sampler, " ".join(filter(None, (figure.kge, figure.fusion))), figure.dataset)
        if figure.metric == "mrr" and not figure.without:
            printed.setdefault(cell, set()).add(figure.printed)
    for (paper, sampler, kge, dataset), values in printed.items():
        if len(values) > 1:
            both = " and ".join(sorted(values))
            notes.append(f"{paper} prints {both} for the MRR of {kge} with {sampler} negatives on {dataset}.")
    datasets = {figure.dataset for figure in shown}
    for dataset, split in sorted({(run["dataset"], run["split"]) for run in runs}):
        if split != "released" and dataset in datasets:
            notes.append(f"{dataset}: ours is the {split} split, the papers trained on the released one.")
    return notes


def _name(printed: str) -> str:
    """The paper's spelling as the registries spell it: NS-KGE -> ns_kge, MKG-Y -> mkg_y."""
    return printed.lower().replace("-", "_")
