"""Commands about data: list, fetch, audit, import-features, encode-names."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nsbench.commands.options import PATH, Commands
from nsbench.errors import RunFailed


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
    """List which datasets are on this machine, the features that each has here, and those that it could have.

    \b
    nsbench data list
    nsbench data fetch mkg_y --features mm         brings what it says is not here
    """
    from nsbench.datasets import features, graphs, modalities, places
    from nsbench.registry import DATASETS, card

    missing = False
    for name in DATASETS.names():
        if name not in places.FOLDERS:
            click.echo(f"{name:<10} {card(DATASETS.get(name)).removeprefix(f'{name}: ')}")
            continue
        home = places.place(name)
        where = "embedded" if graphs.is_embedded(home) else home.find(*places.TRIPLE_FILES)
        missing = missing or where is None
        click.echo(f"{name:<10} {where or f'not on this machine; nsbench data fetch {name}'}")
        here = features.at_hand(home)
        click.echo(f"{'':<10} features here: {', '.join(here) or 'none'}; mm: {', '.join(modalities.MM[home.stem])}")
        rest = [modality for modality in modalities.possible(home) if modality not in here]
        fetched = [modality for modality in rest if modality not in (modalities.NAMES, modalities.EMBEDDED)]
        if fetched:
            click.echo(f"{'':<10} not here: {', '.join(fetched)}; nsbench data fetch {name} --features LIST")
        if modalities.NAMES in rest:
            click.echo(f"{'':<10} not here: names; nsbench data encode-names {name}")
    if missing:
        given = " (NSBENCH_DATA)" if os.environ.get("NSBENCH_DATA") else "; NSBENCH_DATA names another folder"
        click.echo(f"looked in {', '.join(dict.fromkeys(map(str, places.roots())))}{given}")


@data.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--features", default="none", show_default=True, help="Modalities too, comma-separated; official; or mm.")
@click.option("--mirror", help="Base URL of another copy.  [default: NSBENCH_MIRROR]")
def fetch(datasets: tuple[str, ...], features: str, mirror: str | None) -> None:
    """Download public datasets and their features, verify them, and encode what is text; what is there stays.

    \b
    nsbench data fetch mkg_y db15k
    nsbench data fetch db15k --features captions,wikidata

    Stopped on its way, the same command goes on where it was.
    """
    from nsbench.commands.display import counting
    from nsbench.datasets import making
    from nsbench.datasets.fetch import Unfetched
    from nsbench.datasets.modalities import OFFICIAL

    for dataset in datasets:
        wanted = making.missing(dataset, features)
        with counting(f"fetching {dataset}", "bytes") as progress:
            try:
                folder = making.download(dataset, wanted, mirror=mirror, progress=progress)
            except Unfetched as reason:
                raise RunFailed(str(reason)) from None
        for modality in [name for name in wanted if name not in OFFICIAL]:
            with counting(f"encoding {modality} of {dataset}", "texts") as progress:
                making.make(dataset, modality, progress=progress)
        made = f", with {', '.join(wanted)}; use them with --features {features}" if wanted else ""
        click.echo(f"{dataset} is in {folder}{made}")


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
@click.argument("file", type=PATH)
@click.option("--modality", required=True, help="A name of your own; or official:visual, official:textual, of the papers.")
def import_features(dataset: str, file: Path, modality: str) -> None:
    """Check a .npy, .pth or .h5 FILE and keep it as features of DATASET: one row per entity, in the order of the ids.

    \b
    nsbench data import-features path/to/my/graph images.npy --modality images
    nsbench run --dataset path/to/my/graph --features images --fusion adamf
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
    nsbench run --dataset mkg_y --features names --fusion adamf
    """
    from nsbench.commands.display import counting
    from nsbench.datasets import making

    with counting(f"encoding the names of {dataset}", "names") as progress:
        path = making.encode_names(dataset, progress=progress)
    click.echo(f"the encoded names of {dataset} are in {path}; use them with --features names")
