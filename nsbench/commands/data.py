"""Commands about data: list, fetch, audit, import-features, encode-names."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nsbench.commands.options import Commands, words
from nsbench.errors import Misuse, RunFailed, suggest


@click.group(cls=Commands, no_args_is_help=False)
def data() -> None:
    """List, fetch and audit datasets; add features.

    \b
    nsbench data list
    nsbench data fetch mkg_y
    nsbench data audit path/to/my/graph
    """


@data.command("list")
def data_list() -> None:
    """List which datasets are on this machine, and with which features."""
    from nsbench.datasets import graphs, places
    from nsbench.registry import DATASETS, card

    missing = False
    for name in DATASETS.names():
        if name not in places.FOLDERS:
            click.echo(f"{name:<10} {card(DATASETS.get(name)).removeprefix(f'{name}: ')}")
            continue
        home = places.place(name)
        where = "embedded" if graphs.is_embedded(home) else home.find(*places.TRIPLE_FILES)
        if where is None:
            click.echo(f"{name:<10} not on this machine; nsbench data fetch {name}")
            missing = True
            continue
        files = [file.name for at in home.search for pattern in FEATURE_FILES for file in sorted(at.glob(pattern))]
        click.echo(f"{name:<10} {where}; features: {', '.join(dict.fromkeys(files)) or 'none'}")
    if missing:
        given = " (NSBENCH_DATA)" if os.environ.get("NSBENCH_DATA") else "; NSBENCH_DATA names another folder"
        click.echo(f"looked in {', '.join(dict.fromkeys(map(str, places.roots())))}{given}")


FEATURE_FILES = ("features/*.npy", "*-visual.pth", "*-textual.pth", "text_name_minilm.npy")


@data.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--parts", default="triples,names,features", show_default=True, help="What to fetch, comma-separated.")
@click.option("--mirror", help="Base URL of another copy.  [default: NSBENCH_MIRROR]")
def fetch(datasets: tuple[str, ...], parts: str, mirror: str | None) -> None:
    """Download public datasets and verify them; what is there stays.

    \b
    nsbench data fetch mkg_y db15k
    nsbench data fetch mkg_w --parts triples,names
    """
    from nsbench.commands.display import counting
    from nsbench.datasets import fetch as fetching

    wanted = words(parts)
    unknown = [part for part in wanted if part not in fetching.PARTS]
    if unknown:
        near = suggest(unknown[0], fetching.PARTS) or f"; there are {', '.join(fetching.PARTS)}"
        raise Misuse(f"unknown part '{unknown[0]}'{near}")
    for dataset in datasets:
        with counting(f"fetching {dataset}", "bytes") as progress:
            try:
                folder = fetching.fetch(dataset, parts=wanted, mirror=mirror, progress=progress)
            except fetching.Unfetched as reason:
                raise RunFailed(str(reason)) from None
        click.echo(f"{dataset} is in {folder}")


@data.command()
@click.argument("dataset")
def audit(dataset: str) -> None:
    """Count what is wrong, or worth knowing, about a dataset's files.

    \b
    nsbench data audit db15k
    nsbench data audit path/to/my/graph
    """
    from tabulate import tabulate

    from nsbench.datasets import audit as auditing

    click.echo(tabulate(auditing.printable(auditing.audit(dataset)), tablefmt="plain", disable_numparse=True))


@data.command("import-features")
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--modality", required=True, help="What they are: visual, textual, ...")
def import_features(dataset: str, file: Path, modality: str) -> None:
    """Check a .npy, .pth or .h5 FILE and keep it as features of DATASET: one row per entity, in the order of the ids.

    \b
    nsbench data import-features path/to/my/graph images.npy --modality visual
    """
    from nsbench.datasets import features

    kept = features.import_features(dataset, file, modality)
    shape = " x ".join(map(str, kept.shape))
    empty = f"{kept.absent} of {kept.shape[0]} rows are empty"
    click.echo(f"{modality} features [{shape}] of {dataset} are in {kept.path}; {empty}")
    if kept.unknown:
        click.echo(f"{kept.unknown} entries of the file belong to no entity of {dataset} and were left out")


@data.command("encode-names")
@click.argument("dataset")
def encode_names(dataset: str) -> None:
    """Encode the entity names of DATASET as text features (extra `features`; no network).

    \b
    nsbench data encode-names mkg_y
    nsbench run --dataset mkg_y --features names --fusion two_view ...
    """
    from nsbench.commands.display import counting
    from nsbench.datasets import features

    with counting(f"encoding the names of {dataset}", "names") as progress:
        path = features.encode_names(dataset, progress=progress)
    click.echo(f"the encoded names of {dataset} are in {path}; use them with --features names")
