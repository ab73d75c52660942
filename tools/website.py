"""What mkdocs does not find in docs/ (mkdocs.yml, hooks): the cards, and links for what the pages cite.

A card is the docstring of a sampler, model, fusion or auxiliary loss with its options. Nothing is written into the
repository: a new component has its card by being registered. A citation as "notes/dhns.md 2.4" becomes a link to that
section, in cards as in pages.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbench.options import shown
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS, Registry

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent.parent / "docs"
CITED = re.compile(r"(?<!\]\()(?:\bdocs/|\b(?=notes/))((?:notes/)?[\w\\]+\.md)(?:,?\s+(?:sections?\s+)?(\d+(?:\.\d+)*))?")
FENCED = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(`[^`\n]*`)")
SPECIAL = re.compile(r"([\\*_\[\]#|~])")

KINDS = {  # file of the cards: registry, how an option is set, title, and what stands above the cards
    "samplers.md": (SAMPLERS, "sampler", "Samplers", "Which entities take the place of the answer: `--sampler NAME`"),
    "models.md": (MODELS, "kge", "Models", "How a triple is scored: `--kge NAME`"),
    "fusions.md": (FUSIONS, "fusion", "Fusions", "How features become part of an entity's vector: `--fusion NAME`"),
    "auxiliaries.md": (AUXILIARIES, "aux.NAME", "Auxiliary losses", "Losses beside the model's: `--set aux.NAME=WEIGHT`"),
}


def cards() -> dict[str, str]:
    """Markdown of the pages of cards, by their paths below docs/."""
    return {f"cards/{file}": _page(*about) for file, about in KINDS.items()}


def _page(registry: Registry, prefix: str, title: str, above: str) -> str:
    parts = [f"# {title}\n\n{above}. `nsbench show NAME` prints the same card in the terminal.\n"]
    for name in registry.names():
        if registry.source(name) == "built-in":
            component = registry.get(name)
            parts += [f"## {name}\n", card(component), _options(component, prefix.replace("NAME", name))]
    return "\n".join(parts)


def card(component: Any) -> str:
    """The docstring that `nsbench show` prints, as Markdown: paragraphs, lists, and what is indented as it stands."""
    text = inspect.getdoc(sys.modules[component.__module__]) or inspect.getdoc(component) or ""
    lines: list[str] = []
    kind = "text"  # of the last line: text, item of a list, or code
    for line in text.splitlines():
        before = kind
        if not line.strip():
            kind = "code" if before == "code" else "text"  # what is indented may go on
        elif line.startswith("    ") and before != "item":
            kind = "code"
        elif line.startswith("- "):
            kind = "item"
        elif before != "item" or not line.startswith("  "):
            kind = "text"
        lines += ["```", ""] if before == "code" != kind else []
        lines += ["", "```text"] if kind == "code" != before else []
        lines += [""] if {before, kind} == {"text", "item"} else []
        lines.append(line.removeprefix("    ") if kind == "code" else line)
    lines += ["```"] if kind == "code" else []
    return outside("\n".join(lines) + "\n", literal)


def outside(markdown: str, change: Callable[[str], str]) -> str:
    """The text changed, but for what stands in `code` and in fences."""
    parts = (
        part for piece in FENCED.split(markdown) for part in ([piece] if piece.startswith("```") else SPAN.split(piece))
    )
    return "".join(part if part.startswith("`") else change(part) for part in parts)


def literal(text: str) -> str:
    """Text in which nothing is a mark of Markdown, except the dash of a list. A citation stays one."""
    return SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def _options(component: Any, prefix: str) -> str:
    """A table of the options with their defaults, and one of the variants."""
    fields = dataclasses.fields(component.Options) if hasattr(component, "Options") else ()
    lines = ["| option | default | |", "|---|---|---|"] if fields else ["No options."]
    for field in fields:
        choices, search = field.metadata.get("choices"), field.metadata.get("search")
        about = literal(field.metadata.get("help", ""))
        about += f"; one of {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""
        about += f"; `nsbench tune` looks in {shown(search)}" if search else ""
        lines.append(f"| `{prefix}.{field.name}` | `{field.default}` | {about} |")
    variants = getattr(component, "variants", {})
    lines += ["", f"| `{prefix}.variant` | sets |", "|---|---|"] if variants else []
    for variant, values in variants.items():
        changes = ", ".join(f"`{key}={value}`" for key, value in values.items()) or "nothing"
        lines.append(f"| `{variant}` | {changes} |")
    return "\n".join(lines) + "\n"


def linked(markdown: str, path: str) -> str:
    """The page at `path` with its citations as links."""

    def link(found: re.Match[str]) -> str:
        page, section = found[1].replace("\\", ""), found[2]
        if not (DOCS / page).is_file():
            return found[0]
        there = posixpath.relpath(page, posixpath.dirname(path) or ".")
        return f"[{found[0]}]({there}{_anchor(page, section) if section else ''})"

    return outside(markdown, lambda text: CITED.sub(link, text))


@functools.cache
def _anchor(page: str, section: str) -> str:
    """Of the heading with this number; empty where the number is that of a list's item."""
    text = (DOCS / page).read_text(encoding="utf-8")
    heading = re.search(rf"^#+ ({re.escape(section)}[. ].*)$", text, flags=re.MULTILINE)
    return "#" + re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading[1]).strip().lower()) if heading else ""


def on_config(config: MkDocsConfig) -> None:
    """mkdocs has read mkdocs.yml: the notes join the last section of the menu, each by its file's name."""
    notes = sorted(file for file in (DOCS / "notes").glob("*.md") if file.name != "README.md")
    (inside,) = config.nav[-1].values()
    inside += [{file.stem.replace("_", " "): f"notes/{file.name}"} for file in notes]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs asks for the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for path, text in cards().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """mkdocs is about to render a page."""
    return linked(markdown, page.file.src_uri)
