"""What a thing is, by its content: a graph by its fingerprint, a file by its SHA-256. Its name is a label.

Where a label has to tell content apart, in a protocol or in a table, the first digits follow it: `toy@3f9a1c2b`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PUBLIC = {  # fingerprints of the public datasets, as nsbench.datasets reads their files
    "c09af6629d73767fb3f4e8d9da380219daeaa3a356d4ffe44400c7238d0d24ea": "mkg_y",
    "df7b01925ad18547b1590a3b0f8ec22f7028beb312554bc4e6025f738dff0aab": "mkg_w",
    "52c97da0296915a8fb863d4a125da9770116d5acd7ae120b14126f2292db47dc": "db15k",  # clean
    "ee95e8305f860e242158882af1cd6a2f78bb4d3ad2eec076405333ad4de274b7": "db15k",  # released
}
DIGITS = 8


def marked(label: str, content: str) -> str:
    """The label with the first digits of a SHA-256: `toy@3f9a1c2b`."""
    return f"{label}@{content[:DIGITS]}"


def graph_label(name: str, fingerprint: str) -> str:
    """What a graph is called: a public one by its public name; another that has taken such a name, with its digits."""
    public = PUBLIC.get(fingerprint)
    return public or (marked(name, fingerprint) if name in PUBLIC.values() else name)


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plugin_label(name: str) -> str:
    """`mine.py:Mine` of a component that was named as some/where/mine.py:Mine; other names as they are."""
    return name.replace("\\", "/").rpartition("/")[2] if ".py:" in name else name
