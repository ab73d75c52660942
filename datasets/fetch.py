"""Public datasets, fetched from the repositories in manifest.json and verified.

A mirror (NSBENCH_MIRROR, or the parameter) replaces both hosts; it serves <mirror>/<repository>/<commit>/<path>.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from nsbench.datasets import names, places
from nsbench.datasets.places import PublicFile, Source
from nsbench.datasets.reading import read_identifiers
from nsbench.errors import Misuse, suggest

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_PLAIN_HOST = "https://raw.githubusercontent.com"
_LFS_HOST = "https://media.githubusercontent.com/media"
_CHUNK = 1 << 18  # bytes
_LONGEST_LIST = 1 << 24  # bytes; lists of names are below one million
_PATIENCE = 30.0  # seconds without an answer


class Unfetched(Misuse):
    """A file cannot be had, which is no fault of the command."""


class _Unavailable(Exception):
    """A source could not give a file; the text says why."""


def fetch(
    dataset: str,
    *,
    graph: bool = True,
    extra: Sequence[PublicFile] = (),
    mirror: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring a public dataset's triples and names, if its `graph` is wanted, and the `extra` files to its folder.

    Files that are there and verify are left alone; others are replaced, each in one piece. The progress counts verified
    files, not the short lists of names. Raises Unfetched when a file cannot be had: missing, truncated or altered at its
    source, no network, no room.
    """
    check_public(dataset)
    stem, target = places.FOLDERS[dataset], places.place(dataset).writable
    mirror = mirror or os.environ.get("NSBENCH_MIRROR") or None
    wanted = [*(places.triple_files(stem) if graph else ()), *extra]
    missing = [file for file in wanted if not file.is_at(target / file.name)]
    unnamed = [file for file in places.name_files(stem) if graph and not file.is_at(target / file.name)]
    total, done = sum(file.bytes for file in missing), 0

    def report(bytes_of_file: int) -> None:
        if progress:
            progress(done + bytes_of_file, total)

    try:
        for file in missing:
            _download_verified(file, target / file.name, mirror, report)
            done += file.bytes
        for file in unnamed:
            _derive(file, stem, target, mirror)
    except _Unavailable as error:
        still = ", ".join(file.name for file in missing + unnamed if not file.is_at(target / file.name))
        raise Unfetched(
            f"cannot fetch {dataset}: {error}; place {still} in {target} by hand, or set NSBENCH_DATA to a folder that "
            f"holds {stem}/, or NSBENCH_MIRROR to another copy"
        ) from error
    return target


def check_public(dataset: str) -> None:
    """Misuse for a dataset that cannot be fetched."""
    if dataset not in places.FOLDERS:
        near = suggest(dataset, places.FOLDERS) or f"; the public datasets are {', '.join(places.FOLDERS)}"
        raise Misuse(f"'{dataset}' cannot be fetched{near}")


def ensure(dataset: str) -> Path:
    """The folder with a public dataset's triples, verified; they are fetched when nowhere on this machine."""
    home = places.place(dataset)
    folder = home.find(*places.TRIPLE_FILES)
    if folder is None:
        return fetch(dataset)
    for file in places.triple_files(home.stem):
        if not file.is_at(folder / file.name):
            raise Misuse(
                f"{folder / file.name} is not the published file (its SHA-256 differs); fetch it again with "
                f"'nsbench data fetch {dataset}', or name the folder itself as the dataset if the change is meant"
            )
    return folder


def _download_verified(file: PublicFile, path: Path, mirror: str | None, report: Callable[[int], None]) -> None:
    """Write the file from the first source that has it whole and unaltered."""
    for last, source in enumerate(file.sources, start=1 - len(file.sources)):
        url = _url(source, mirror)
        try:
            with places.replacing(path) as sink:
                size, sha256 = _download(url, sink, file.bytes, report)
                if size < file.bytes:
                    raise _Unavailable(f"{url} is truncated, {size} of {file.bytes} bytes came")
                if sha256 != file.sha256:
                    raise _Unavailable(f"{url} was altered, it is not the file in the manifest (SHA-256)")
            return
        except _Unavailable:
            if last == 0:
                raise


def _derive(file: PublicFile, stem: str, target: Path, mirror: str | None) -> None:
    """Write entity_names.txt or relation_names.txt, which must come out as the manifest says."""
    kind = file.name.removesuffix("_names.txt")  # entity or relation
    lists = places.name_lists(stem)
    if lists:
        url, answer = _url(lists[kind], mirror), io.BytesIO()
        _download(url, answer, _LONGEST_LIST, lambda _: None)
        labels = names.labels_by_id(answer.getvalue().decode("utf-8", errors="replace"), url)
    else:
        url, labels = str(target / f"{kind}2id.txt"), read_identifiers(target / f"{kind}2id.txt")
    rule = names.entity_name if kind == "entity" else names.relation_name
    text = "".join(f"{rule(label)}\n" for label in labels).encode()
    if hashlib.sha256(text).hexdigest() != file.sha256:
        raise _Unavailable(f"{url} was altered, the names derived from it are not those in the manifest (SHA-256)")
    with places.replacing(target / file.name) as sink:
        sink.write(text)


def _url(source: Source, mirror: str | None) -> str:
    host = mirror.rstrip("/") if mirror else _LFS_HOST if source.lfs else _PLAIN_HOST
    return f"{host}/{source.repository}/{source.commit}/{quote(source.path)}"


def _download(url: str, sink: BinaryIO, limit: int, report: Callable[[int], None]) -> tuple[int, str]:
    """Copy the answer into `sink`, at most a chunk beyond `limit` bytes; its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    try:
        answer = urllib.request.urlopen(url, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        raise _Unavailable(f"{url} does not exist" if error.code == 404 else f"{url} answers {error.code}") from error
    except ValueError as error:
        raise _Unavailable(f"{url} is no web address") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Unavailable(f"no network to {url} ({getattr(error, 'reason', error)})") from error
    with answer:
        while size <= limit:
            try:
                chunk = answer.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Unavailable(f"{url} broke off after {size} bytes ({error})") from error
            if not chunk:
                break
            sink.write(chunk)  # outside the try: a full disk is no fault of the network
            digest.update(chunk)
            size += len(chunk)
            report(min(size, limit))
    return size, digest.hexdigest()
