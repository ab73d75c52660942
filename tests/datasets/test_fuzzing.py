"""Graphs in files, mutated: refused in a sentence, or read as a second parser reads them, written here from what
datasets/labels.py and datasets/reading.py say of the forms. NSBENCH_FUZZ=N says how many of each form.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import struct
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse

Triples = list[tuple[str, str, str]]
SPLITS = ("train", "valid", "test")
FORMS = ("tsv", "txt", "csv", "nt", "openke")
NAMES = [
    "Ann",
    "Bob",
    "AC/DC",
    "Beyonce\u0301",
    "Beyonc\u00e9",
    "東京",
    "O'Hara",
    'the "Rock"',
    "a, b",
    "x y",
    "é",
    "head",
    "0",
    "-1",
]


class Refused(Exception):
    """So says the second parser."""


# The second parser


def plain(folder: Path, name: str) -> str:
    file = folder / name
    if not file.exists() and (folder / f"{name}.gz").exists():
        file = folder / f"{name}.gz"
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.name.lower().endswith(".gz") else data
        found = data.decode("utf-8")
    except Exception:
        raise Refused from None
    return found.removeprefix("\ufeff").replace("\r\n", "\n")


def fields_of(line: str, mark: str) -> list[str]:
    """RFC 4180, character by character."""
    found, i, end = [], 0, False
    while not end:
        if line[i : i + 1] == '"':
            text, i = "", i + 1
            while True:
                if i >= len(line):
                    raise Refused
                if line[i] != '"':
                    text, i = text + line[i], i + 1
                elif line[i : i + 2] == '""':
                    text, i = text + '"', i + 2
                else:
                    i += 1
                    break
            if i < len(line) and line[i] != mark:
                raise Refused
        else:
            stop = line.find(mark, i)
            stop = len(line) if stop < 0 else stop
            text, i = line[i:stop], stop
        found.append(text)
        end, i = i >= len(line), i + 1
    return found


def labels_of(folder: Path) -> dict[str, Triples]:
    there = {}
    for split, stems in zip(SPLITS, ("train", "valid dev val", "test")):
        names = [name for name in os.listdir(folder) if re.fullmatch(r"[a-z]+\.(tsv|txt|csv|nt|ttl)(\.gz)?", name)]
        fitting = [name for name in names if name.split(".")[0] in stems.split()]
        if len(fitting) != 1:
            raise Refused
        there[split] = fitting[0]
    rows = {}
    for split, name in there.items():
        kind = name.split(".")[1]
        text = plain(folder, name)
        if kind in ("nt", "ttl"):
            rows[split] = addresses(text)
            continue
        lines = text.rstrip("\n").split("\n")
        if kind == "csv":
            lines = [line.removesuffix("\r") for line in lines]
            if any("\r" in line for line in lines) or not lines[0]:
                raise Refused
            mark = ","
            for candidate in ",;\t":
                with contextlib.suppress(Refused):
                    if len(fields_of(lines[0], candidate)) == 3:
                        mark = candidate
                        break
            rows[split] = [fields_of(line, mark) for line in lines]
        else:
            rows[split] = [line.split("\t") for line in lines]
        for row in rows[split]:
            if len(row) != 3 or not all(any(seen(c) for c in label) for label in row):
                raise Refused
    columns = [
        {"head", "h", "subject", "subj", "s", "source"},
        {"relation", "rel", "r", "predicate", "pred", "p", "property"},
    ]
    columns += [{"tail", "t", "object", "obj", "o", "target"}]
    body = {label for part in rows.values() for row in part[1:] for label in row}
    found = {}
    for split, part in rows.items():
        words = [word.strip(" \"'").casefold() for word in part[0]]
        order = [next((i for i, word in enumerate(words) if word in column), None) for column in columns]
        if sorted(order, key=str) == [0, 1, 2] and not body & set(part[0]):
            part = [[row[i] for i in order] for row in part[1:]]
        if not part:
            raise Refused
        found[split] = [(h, r, t) for h, r, t in part]
    return found


def seen(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf")


def addresses(text: str) -> list[list[str]]:
    """N-Triples without escapes, sorted, each once."""
    found = set()
    for line in text.split("\n"):
        if line.strip() and not line.strip().startswith("#"):
            match = re.fullmatch(
                r"\s*<([^<>\s]+)>\s*<([^<>\s]+)>\s*(?:<([^<>\s]+)>|\"([^\"\\]*)\"(@[A-Za-z-]+)?)\s*\.\s*", line
            )
            if not match:
                raise Refused
            found.add((match[1], match[2], match[3] or f'"{match[4]}"{match[5] or ""}'))
    if not found:
        raise Refused
    return [list(row) for row in sorted(found)]


def counted(folder: Path, name: str) -> list[list[str]]:
    first, *lines = plain(folder, name).rstrip().split("\n")
    if not re.fullmatch("-?[0-9]+", first.strip()) or int(first) != len(lines):
        raise Refused
    return [re.split(r"\s+", line.strip()) for line in lines]


def ids_of(folder: Path) -> tuple[int, int, dict[str, list[tuple[int, int, int]]]]:
    sizes = []
    for kind in ("entity", "relation"):
        first, *lines = plain(folder, f"{kind}2id.txt").rstrip().split("\n")
        pairs = [line.rstrip().rsplit(maxsplit=1) for line in lines]
        if any(len(pair) != 2 or not re.fullmatch("-?[0-9]+", pair[1]) for pair in pairs) or first.strip() != str(
            len(pairs)
        ):
            raise Refused
        if sorted(int(i) for _, i in pairs) != list(range(len(pairs))) or len({x.strip() for x, _ in pairs}) < len(pairs):
            raise Refused
        sizes.append(len(pairs))
    triples = {}
    for split in SPLITS:
        rows = counted(folder, f"{split}2id.txt")
        if any(len(row) != 3 or not all(re.fullmatch("-?[0-9]+", word) for word in row) for row in rows):
            raise Refused
        triples[split] = [(int(h), int(r), int(t)) for h, t, r in rows]
        for h, r, t in triples[split]:
            if not (0 <= h < sizes[0] and 0 <= t < sizes[0] and 0 <= r < sizes[1]):
                raise Refused
    return sizes[0], sizes[1], triples


def second(folder: Path) -> tuple[int, int, dict[str, list[tuple[int, int, int]]]]:
    """Sizes and triples of ids; labels are numbered in their order as text."""
    names = set(os.listdir(folder))
    labelled = any(re.fullmatch(r"train\.(tsv|txt|csv|nt|ttl)(\.gz)?", name) for name in names)
    if names & {"train2id.txt", "train2id.txt.gz"} or (not labelled and names & {"entity2id.txt", "entity2id.txt.gz"}):
        return ids_of(folder)
    found = labels_of(folder)
    entities = sorted({label for part in found.values() for h, _, t in part for label in (h, t)})
    relations = sorted({r for part in found.values() for _, r, _ in part})
    e, r_id = {x: i for i, x in enumerate(entities)}, {x: i for i, x in enumerate(relations)}
    return len(e), len(r_id), {split: [(e[h], r_id[r], e[t]) for h, r, t in part] for split, part in found.items()}


def fingerprint(entities: int, relations: int, triples: dict[str, list[tuple[int, int, int]]]) -> str:
    """SHA-256 of sizes and triples, as nsbench.contracts.Dataset says, from bytes that are packed here."""
    known = sorted({fact for part in triples.values() for fact in part})
    digest = hashlib.sha256()
    arrays: dict[str, list] = {"known": known, "sizes": [entities, relations], **triples}
    for name, rows in sorted(arrays.items()):
        shape = "(2,)" if name == "sizes" else f"({len(rows)}, 3)"
        numbers = rows if name == "sizes" else [number for row in rows for number in row]
        digest.update(f"{name} {shape} torch.int64".encode() + struct.pack(f"<{len(numbers)}q", *numbers))
    return digest.hexdigest()


# Mutations


def written(folder: Path, form: str, rng: Random) -> None:
    """A graph of a few entities, in a form."""
    names = rng.sample(NAMES, rng.randint(4, len(NAMES)))
    relations = [f"r{i}" for i in range(rng.randint(1, 3))]
    facts = sorted({(rng.choice(names), rng.choice(relations), rng.choice(names)) for _ in range(24)})
    rng.shuffle(facts)
    cut = len(facts) // 4
    parts = dict(zip(SPLITS, (facts[2 * cut :], facts[:cut], facts[cut : 2 * cut])))
    if form == "openke":
        for kind, listed in (("entity", names), ("relation", relations)):
            lines = [str(len(listed)), *(f"{x}\t{i}" for i, x in enumerate(listed))]
            (folder / f"{kind}2id.txt").write_text("\n".join(lines) + "\n", "utf-8")
        for split, part in parts.items():
            lines = [str(len(part)), *(f"{names.index(h)} {names.index(t)} {relations.index(r)}" for h, r, t in part)]
            (folder / f"{split}2id.txt").write_text("\n".join(lines) + "\n", "utf-8")
        return
    for split, part in parts.items():
        name = f"{rng.choice(['valid', 'dev', 'val']) if split == 'valid' else split}.{form}"
        text = "".join(line_of(form, *fact) for fact in part)
        (folder / name).write_text(text, "utf-8")


def line_of(form: str, h: str, r: str, t: str) -> str:
    if form == "csv":
        return ",".join('"' + x.replace('"', '""') + '"' if set('",') & set(x) else x for x in (h, r, t)) + "\n"
    if form == "nt":
        return " ".join(f"<http://x/{re.sub(r'[^A-Za-z0-9é東京]', '_', x)}>" for x in (h, r, t)) + " .\n"
    return f"{h}\t{r}\t{t}\n"


STRANGE = [
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\0",
    '"',
    "'",
    " ",
    "\u00a0",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u0301",
    ",",
    ";",
    "<",
    " .",
    "#",
    "-1",
    "9",
    "é",
]
HEADERS = ["head\trelation\ttail\n", "t\th\tr\n", "h,r,t\n", "Subject;Object;Predicate\n", "from\tlink\tto\n", "\n"]


def changed(folder: Path, rng: Random) -> None:
    """One thing done to one file, or to all of them."""
    files = sorted(folder.iterdir())
    file = rng.choice(files)
    data = file.read_bytes()
    lines = data.split(b"\n")
    at = rng.randrange(len(data) + 1)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))

    def everywhere(change: Callable[[bytes], bytes]) -> None:
        for each in files if rng.random() < 0.5 else [file]:
            each.write_bytes(change(each.read_bytes()))

    def text(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
        def of(data: bytes) -> bytes:
            try:
                return change(data.decode()).encode()
            except UnicodeDecodeError:
                return data

        return of

    def rearranged(data: bytes) -> bytes:
        return b"\n".join(
            b"\t".join(p[k] for k in order) if len(p := line.split(b"\t")) == 3 else line for line in data.split(b"\n")
        )

    def encoded(to: str) -> bytes:
        return data.decode("utf-8", "replace").encode(to, "replace")

    order = rng.sample(range(3), 3)
    header = rng.choice(HEADERS)
    match rng.randrange(24):
        case 0:
            file.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
        case 1:
            file.write_bytes(data[:at] + data[at + rng.randrange(20) :])
        case 2 | 3 | 4:
            file.write_bytes(data[:at] + rng.choice(STRANGE).encode() + data[at:])
        case 5:
            lines[i] += rng.choice(STRANGE).encode()
            file.write_bytes(b"\n".join(lines))
        case 6:
            everywhere(rearranged)
        case 7:
            everywhere(lambda data: header.encode() + data)
        case 8:
            everywhere(lambda data: data.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\r\r\n", b"\n\n"])))
        case 9:
            everywhere(text(lambda x: re.sub(r"[^\t\n]+", lambda m: f'"{m[0]}"', x)))
        case 10:
            lines[i], lines[j] = lines[j], lines[i]
            file.write_bytes(b"\n".join(lines))
        case 11:
            file.write_bytes(b"\n".join([*lines[:i], lines[j], *lines[i:]]))
        case 12:
            file.write_bytes(encoded(rng.choice(["latin-1", "utf-16", "utf-8-sig", "cp1252"])))
        case 13:
            file.unlink()
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(data)[: rng.choice([None, None, -4, 12])])
        case 14:
            file.rename(file.with_suffix(rng.choice([".tsv", ".csv", ".txt", ".nt", ".zip", ".ttl"])))
        case 15:
            everywhere(text(lambda x: unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC"]), x)))
        case 16:
            everywhere(text(rng.choice([str.upper, str.lower, str.swapcase, str.strip])))
        case 17:
            file.unlink() if rng.random() < 0.5 else file.write_bytes(b"")
        case 18:
            everywhere(text(lambda x: re.sub(r"(?m)$", rng.choice(["\t", " ", " .", "\t1.0", "\u200b"]), x)))
        case 19 | 20:
            said = "\t".join(("s", "p", "o")[k] for k in order).encode() + b"\n"
            mark = b"\t" if file.suffix != ".csv" else rng.choice([b",", b";", b"\t"])
            for each in files:
                facts = [line.split(b"," if file.suffix == ".csv" else b"\t") for line in each.read_bytes().split(b"\n")]
                kept = [mark.join(p[k] for k in order) for p in facts if len(p) == 3]
                each.write_bytes(said.replace(b"\t", mark) + b"\n".join(kept) + b"\n")
        case 21 | 22:
            lines[i] = b"\t".join(
                part + rng.choice(["", " ", "\u200b", "\u00a0"]).encode() for part in lines[i].split(b"\t")
            )
            file.write_bytes(b"\n".join(lines))
        case 23:
            file.write_bytes(data + b"\n" * rng.randrange(3) + rng.choice([b"", b"\xff", b"a\tb\tc", b"x,y,z\n", b"# end"]))


def check(folder: Path, form: str, seed: int) -> bool:
    """Whether it was read."""
    rng = Random(f"{form} {seed}")
    written(folder, form, rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        changed(folder, rng)
        if not list(folder.iterdir()):
            break
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = load_folder(folder, features="none")
        except Misuse as refusal:
            said = str(refusal)
            assert "\n" not in said.strip(), (form, seed, said)
            assert len(said) < 700, (form, seed, said)
            assert re.search("; | cannot |: ", said), (form, seed, said)  # what is wrong, and what to do
            return False
    try:
        entities, relations, triples = second(folder)
    except Refused:
        assert "nt" in form or any(file.suffixes[:1] in ([".nt"], [".ttl"]) for file in folder.iterdir()), (form, seed)
        return True  # rdflib alone knows all of RDF
    got = {"train": data.train, "valid": data.valid, "test": data.test}
    assert {split: [tuple(row) for row in part.tolist()] for split, part in got.items()} == triples, (form, seed)
    assert data.fingerprint == fingerprint(entities, relations, triples), (form, seed)
    return True


def fuzz(tmp_path: Path, form: str, cases: range) -> None:
    if form == "nt":
        pytest.importorskip("rdflib")
    read = 0
    for seed in cases:
        folder = tmp_path / f"{form}{seed}"
        folder.mkdir()
        read += check(folder, form, seed)
    assert len(cases) / 10 < read < len(cases), read  # else nothing is put to the test


@pytest.mark.parametrize("form", FORMS)
def test_a_mutated_graph_is_refused_or_read_as_it_stands(tmp_path: Path, form: str) -> None:
    fuzz(tmp_path, form, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_thousand_of_each_form(tmp_path: Path, form: str) -> None:
    fuzz(tmp_path, form, range(100, 100 + int(os.environ.get("NSBENCH_FUZZ", "2000"))))
