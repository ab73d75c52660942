"""Commands about components: list, show, check, inspect, new-sampler, bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nsbench.commands.options import FOLDER, one_fusion, runs_option, set_option, set_threads, threads_option, words
from nsbench.errors import Misuse, RunFailed, suggest
from nsbench.files import store_folder

KINDS = ("SAMPLERS", "MODELS", "FUSIONS", "AUXILIARIES", "DATASETS")  # registries in nsbench.registry


@click.command("list")
def list_() -> None:
    """List the samplers, models, fusions, datasets, protocols and sweeps at hand.

    \b
    nsbench list
    nsbench show nscaching         more about one of them
    """
    from nsbench import registry
    from nsbench.campaign.sweep import content as sweep_content
    from nsbench.campaign.sweep import names as sweep_names
    from nsbench.config.protocol import protocol_names, read_protocol

    for kind in (getattr(registry, name) for name in KINDS):
        cards: dict[str, list[str]] = {}  # components of one file may share its card
        for name in kind.names():
            source = kind.source(name)
            card = registry.card(kind.get(name)).removeprefix(f"{name}: ")
            cards.setdefault(card + ("" if source == "built-in" else f"  [{source}]"), []).append(name)
        if cards:
            click.secho(f"{kind.kind}s" if kind.kind != "auxiliary loss" else "auxiliary losses", bold=True)
        for card, names in cards.items():
            click.echo(f"  {', '.join(names):<20} {card}")
    click.secho("protocols", bold=True)
    for name in protocol_names():
        click.echo(f"  {name:<20} {read_protocol(name)['description']}")
    click.secho("sweeps", bold=True)
    for name in sweep_names():
        click.echo(f"  {name:<20} {sweep_content(name)['description']}")
    broken = {name: reason for kind in KINDS for name, reason in getattr(registry, kind).broken.items()}
    if broken:
        click.secho("installed, but cannot be loaded", bold=True)
    for name, reason in broken.items():
        click.echo(f"  {name:<20} {reason}")


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what NAME is, where it comes from, and its options with their defaults.

    \b
    nsbench show nscaching         a sampler, model, fusion, auxiliary loss or dataset
    nsbench show cpu               a protocol
    nsbench show ./mine.py:Mine
    """
    import inspect

    from nsbench import registry
    from nsbench.config.protocol import Protocol, protocol_names, read_protocol
    from nsbench.options import searched, shown

    if name in protocol_names() or name.endswith(".toml"):
        for key, value in read_protocol(name).items():
            click.echo(f"{key} = {value}")
        for key, search in searched(Protocol).items():
            click.echo(f"nsbench tune looks for {key} in {shown(search)}")
        return
    kinds = [getattr(registry, kind) for kind in KINDS]
    owners = [kind for kind in kinds if name in kind.names() or name in kind.broken]
    if ".py:" in name:
        owners = [registry.SAMPLERS]
    if not owners:
        everything = [n for kind in kinds for n in kind.names()] + protocol_names()
        raise Misuse(f"nothing is called '{name}'{suggest(name, everything)} (nsbench list)")
    for kind in owners:
        component = kind.get(name)
        click.secho(f"{kind.kind} {name} ({kind.source(name)})", bold=True)
        click.echo(inspect.getdoc(sys.modules[component.__module__]) or inspect.getdoc(component) or "")
        for line in option_lines(component, kind.kind, name):
            click.echo(line)


def option_lines(component: Any, kind: str, name: str) -> list[str]:
    """`--set sampler.x=1` lines of a component, generated from its options dataclass."""
    import dataclasses

    from nsbench.options import shown

    prefix = {"sampler": "sampler", "model": "kge", "fusion": "fusion", "auxiliary loss": f"aux.{name}"}.get(kind)
    fields = dataclasses.fields(component.Options) if hasattr(component, "Options") else ()
    lines = [
        f"  --set {prefix}.{field.name}={field.default}   {field.metadata.get('help', '')}"
        + (f" (one of {', '.join(map(str, field.metadata['choices']))})" if field.metadata.get("choices") else "")
        + (f" [tuned over {shown(field.metadata['search'])}]" if field.metadata.get("search") else "")
        for field in fields
    ]
    for variant, values in getattr(component, "variants", {}).items():
        changes = ", ".join(f"{key}={value}" for key, value in values.items()) or "nothing"
        lines.append(f"  --set sampler.variant={variant}   sets {changes}")
    return ["\noptions", *lines] if lines else ["\nno options"]


@click.command()
@click.argument("sampler")
@click.option("--kge", default="transe,distmult,rotate", show_default=True, help="One or several models to check it with.")
@click.option("--fusion", default="none", show_default=True, help="For samplers that need one: two_view for mans.")
def check(sampler: str, kge: str, fusion: str) -> None:
    """Check that SAMPLER (a name, or ./mine.py:Class) keeps the rules that every built-in sampler keeps.

    \b
    nsbench check bernoulli
    nsbench check ./mine.py:Mine --kge transe
    nsbench check mans --fusion two_view
    """
    from nsbench.testing.rules import check_sampler

    broken = 0
    for model in words(kge):
        click.secho(f"{sampler} with {model}", bold=True)
        for finding in check_sampler(sampler, model, fusion=fusion):
            mark = {True: "kept", False: "BROKEN", None: "-"}[finding.passed]
            click.echo(f"  {mark:<7} {finding.rule:<11} {finding.words}")
            broken += finding.passed is False
    if broken:
        raise RunFailed(f"{broken} rules are broken; mend the sampler and repeat the command")


@click.command()
@click.option("--run", "name", required=True, help="A run made with --save-model: its folder, its name, or a part of that.")
@click.option("--head", help="Name of the head, or #ID; the sampler replaces the tail.")
@click.option("--relation", required=True, help="Name of the relation, or #ID.")
@click.option("--tail", help="Name of the tail, or #ID; the sampler replaces the head.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Entities to show.")
@click.option("--overlap", is_flag=True, help="The ten of the highest score, and which of them are among the ten likeliest.")
@click.option("--dataset", help="The data, where the run's own name for them does not find them.")
@runs_option
def inspect(
    name: str,
    head: str | None,
    relation: str,
    tail: str | None,
    top: int,
    overlap: bool,
    dataset: str | None,
    runs: Path | None,
) -> None:
    """Show what a trained run's sampler draws for one query: by name, with the model's scores, true answers marked.

    \b
    nsbench run --sampler nscaching --kge transe --dataset mkg_y --protocol cpu --save-model
    nsbench inspect --run nscaching --head "Taylor Swift" --relation created --overlap
    """
    from nsbench.runs import inspection

    folder = inspection.find_run(store_folder(runs), name)
    found = inspection.inspect(folder, head=head, relation=relation, tail=tail, dataset=dataset)
    click.echo(inspection.text(found, top, overlap))


@click.command("new-sampler")
@click.argument("name")
@click.option("--into", type=FOLDER, help="Folder of the new package.  [default: ./nsbench-NAME]")
def new_sampler(name: str, into: Path | None) -> None:
    """Write a small package with a working sampler NAME, its options and its test, to be changed into your own.

    \b
    nsbench new-sampler near_misses && pip install -e nsbench-near-misses
    nsbench check near_misses
    nsbench new-sampler near_misses --into samplers/near
    """
    from nsbench.commands import scaffold

    click.echo(scaffold.new_sampler(name, into))


@click.command()
@click.option("--sampler", default="uniform", show_default=True, help="One or several, comma-separated.")
@click.option("--kge", default="transe,distmult,rotate", show_default=True, help="One or several models.")
@click.option("--dataset", default="mkg_y", show_default=True, help="One or several; planted:1k,planted:10k for growth.")
@click.option("--protocol", default="nsbench", show_default=True, help="Width, batch and negatives come from it.")
@click.option("--fusion", default="none", show_default=True, callback=one_fusion, help="How features enter entity vectors.")
@click.option("--baseline", default="uniform", show_default=True, help="Other samplers are measured against this one.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Alternations.")
@click.option("--pairs", type=click.IntRange(min=2), default=20, show_default=True, help="Interleaved epochs of two.")
@click.option("--peers", is_flag=True, help="Measure PyKEEN in turns with nsbench (extra `peers`).")
@set_option
@threads_option
def bench(
    sampler: str,
    kge: str,
    dataset: str,
    protocol: str,
    fusion: str,
    baseline: str,
    rounds: int,
    pairs: int,
    peers: bool,
    settings: tuple[str, ...],
    threads: int | None,
) -> None:
    """Measure how fast samplers and models are, and what memory they take, beside uniform or PyKEEN.

    \b
    nsbench bench --peers --threads 2
    nsbench bench --sampler bernoulli --kge transe
    nsbench bench --kge transe --dataset planted:1k,planted:10k,planted:100k

    Shows seconds per epoch, negatives per second, seconds of the evaluation, peak memory and the size of the sampler's
    state. Whatever is compared takes turns, so that a busy machine slows both.
    """
    from nsbench.bench.report import report
    from nsbench.campaign import plan as campaign

    if threads is not None:
        set_threads(threads)
    configs = campaign.plan(
        words(sampler), words(kge), words(dataset), [0], protocol=protocol, fusion=fusion, settings=list(settings)
    )
    for row in report(configs, baseline, rounds, pairs, peers, lambda text: click.echo(text, err=True)):
        for name, value in row.items():
            click.echo(f"{name:<18} {value}")
        click.echo()
