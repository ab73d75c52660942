"""Readable names from the identifiers of the public datasets.

These rules gave the entity_names.txt and relation_names.txt whose SHA-256 is in manifest.json. They are kept as they
were, with their slip: an identifier that is no address is cut at its last slash, so that MKG-Y's `AC/DC` is called
`DC`. The encoded names (text_name_minilm.npy) were made from exactly these lines.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from nsbench.errors import Misuse

_WORD_BOUNDARY = re.compile(r"(?<=[a-z])(?=[A-Z])")


def entity_name(identifier: str) -> str:
    """`<http://dbpedia.org/resource/Athens,_Ohio>` -> `Athens, Ohio`."""
    bare = identifier.strip("<>")
    _, found, resource = bare.partition("/resource/")
    label = resource if found else re.split("[/#]", bare)[-1]
    return unquote(label).replace("_", " ").strip()


def relation_name(identifier: str) -> str:
    """`<http://dbpedia.org/ontology/birthPlace>` -> `birth Place`; `located_in/on_physical_feature` keeps its slash."""
    bare = identifier.strip("<>")
    label = re.split("[/#]", bare)[-1] if "://" in bare else bare
    return _WORD_BOUNDARY.sub(" ", label.replace("_", " ")).strip()


def labels_by_id(text: str, origin: str) -> list[str]:
    """Labels in the order of their ids, from lines `id label id` without a count line (the public list for MKG-W)."""
    labels: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        first, *label, last = line.split()
        if first != last or not label or not first.isdecimal():
            raise Misuse(f"{origin}, line {number}, is not 'id label id'; the list was altered, use another mirror")
        labels[int(first)] = " ".join(label)
    if sorted(labels) != list(range(len(labels))):
        raise Misuse(f"{origin} does not number its labels from 0 up; the list was altered, use another mirror")
    return [labels[i] for i in range(len(labels))]
