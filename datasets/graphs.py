"""Where a graph is read: the files at hand, else what the package holds, else files that are fetched."""

from __future__ import annotations

from nsbench.datasets import embedded, places
from nsbench.datasets.fetch import ensure
from nsbench.datasets.places import Place
from nsbench.datasets.reading import Graph, read_graph


def graph_of(home: Place) -> Graph:
    """The graph of a public dataset, or of a user's folder. Raises Misuse where it is malformed or cannot be had."""
    if not home.public:
        return read_graph(home.writable)
    if is_embedded(home):
        return embedded.graph(home.name)
    return read_graph(ensure(home.name))


def is_embedded(home: Place) -> bool:
    """Whether the graph is that of the package: it is there, and no files are at hand, which would win."""
    return home.public and embedded.has(home.name) and home.find(*places.TRIPLE_FILES) is None
