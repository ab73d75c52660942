"""Triples of N-Triples and Turtle files, by rdflib (extra `rdf`).

An address is a label without its brackets, a literal one in quotes, with its language or type. RDF knows neither order nor
repeats: triples are sorted.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nsbench.datasets import text
from nsbench.errors import Misuse

FORMS = {".nt": "nt", ".ttl": "turtle"}
NAMES = {"nt": "N-Triples", "turtle": "Turtle"}


def rows(file: Path, form: str) -> list[list[str]]:
    """[head, relation, tail] of each triple, sorted. Misuse for what does not parse, and for nodes without an address."""
    try:
        import rdflib
    except ImportError:
        raise Misuse(f"reading {file} needs rdflib; run pip install 'nsbench[rdf]'") from None
    graph, log, kept = rdflib.Graph(), logging.getLogger("rdflib"), rdflib.NORMALIZE_LITERALS
    quiet = log.disabled, logging.getLogger("rdflib.term").disabled
    try:
        rdflib.NORMALIZE_LITERALS = False  # else "01" and "1" would be one integer, and the label another than the file's
        log.disabled = logging.getLogger("rdflib.term").disabled = True
        graph.parse(data=text.read(file), format=form, publicID="")
    except Misuse:
        raise
    except Exception as error:  # the parsers raise anything
        said = " ".join(str(error).split())[:120]
        raise Misuse(f"{file} is not {NAMES[form]} ({type(error).__name__}: {said}); correct it") from None
    finally:
        rdflib.NORMALIZE_LITERALS = kept
        log.disabled, logging.getLogger("rdflib.term").disabled = quiet
    if any(isinstance(term, rdflib.BNode) for triple in graph for term in triple):
        raise Misuse(f"{file} holds blank nodes, whose names mean nothing in another file; give them addresses")
    return sorted([_label(term, isinstance(term, rdflib.Literal)) for term in triple] for triple in graph)


def _label(term: Any, literal: bool) -> str:
    if not literal:
        return str(term)
    kind = f"@{term.language}" if term.language else f"^^{term.datatype}" if term.datatype else ""
    return f'"{term}"{kind}'
