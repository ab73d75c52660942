"""Every label is questioned: audits count, loading warns in a line, what cannot be meant is refused."""

import gzip
import re
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from nsbench.datasets.audit import audit
from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse

FACTS = [(f"Zoé {h}", f"r{(h + t) % 3}", f"Zoé {t}") for h in range(12) for t in range(12) if (h * t + h) % 3 == 0]
Spoil = Callable[[str, str, int], str]  # (label, split, column) -> label


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    def write(
        spoil: Spoil = lambda label, split, column: label, end: str = "tsv", mark: str = "\t", first: str = ""
    ) -> Path:
        facts = Random(1).sample(FACTS, len(FACTS))
        for split, part in (("train", facts[16:]), ("valid", facts[:8]), ("test", facts[8:16])):
            rows = [mark.join(spoil(label, split, i) for i, label in enumerate(fact)) for fact in part]
            text = first + "\n".join(rows) + "\n"
            data = text.encode()
            (tmp_path / f"{split}.{end}").write_bytes(gzip.compress(data) if end.endswith("gz") else data)
        return tmp_path

    return write


def counts(folder: Path) -> dict[str, int]:
    return {finding.key: finding.count for finding in audit(folder) if finding.count}


def warned(folder: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_folder(folder)
    assert len(caught) <= 1
    return str(caught[0].message) if caught else ""


def tails(change: Callable[[str], str]) -> Spoil:
    """The change is made to every second tail of train, to which the rest has no part."""
    return lambda label, split, column: change(label) if (split, column) == ("train", 2) and int(label[-1]) % 2 else label


def test_nothing_is_said_of_a_graph_without_doubts(graph: Callable[..., Path]) -> None:
    assert warned(graph()) == ""
    keys = {finding.key for finding in audit(graph())}
    assert {"entity_spaces", "entity_forms", "relation_quotes", "headers", "header_like", "few_ends"} <= keys


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (lambda x: x + " ", "spaces", "only spaces or invisible characters tell from others"),
        (lambda x: x.replace(" ", "\u00a0"), "spaces", r"(as 'Zoé 1' and 'Zoé\xa01')"),
        (lambda x: x + "\u200b", "spaces", r"\u200b')"),
        (lambda x: "\ufeff" + x, "spaces", "spaces"),
        (lambda x: x + "\v", "spaces", r"\x0b')"),
        (lambda x: unicodedata.normalize("NFD", x), "forms", r"(as 'Zoe\u0301 1' and 'Zo\xe9 1')"),
        (lambda x: x.replace("Z", "Ｚ"), "forms", "Unicode forms"),
        (lambda x: f'"{x}"', "quotes", """(as '"Zoé 1"' and 'Zoé 1')"""),
        (lambda x: f"<{x}>", "quotes", "quotes, brackets or full stops"),
        (lambda x: f"<{x}> .", "quotes", "<Zoé 1> ."),
        (lambda x: x.replace(" ", "_"), "escapes", "(as 'Zoé 1' and 'Zoé_1')"),
        (lambda x: x.replace("é", "%C3%A9"), "escapes", "Zo%C3%A9 1"),
        (str.upper, "case", "(as 'ZOÉ 1' and 'Zoé 1')"),
    ],
)
def test_spellings_of_one_entity_are_counted(graph, change: Callable[[str], str], key: str, words: str) -> None:
    folder = graph(tails(change))
    odd = {x for h, _, t in FACTS for x in (h, t) if int(x[-1]) % 2}
    written = {line.split("\t")[2] for line in (folder / "train.tsv").read_bytes().decode().split("\n") if line}
    doubled = {x for x in odd if change(x) in written}
    assert counts(folder)[f"entity_{key}"] == len(doubled) > 3
    said = warned(folder)
    assert words in said
    assert said.count("tell from others") == 1  # of one kind alone
    assert said.endswith(f"see 'nsbench data audit {folder}'")


def test_relations_are_questioned_too(graph: Callable[..., Path]) -> None:
    folder = graph(
        lambda label, split, column: label + " " if column == 1 and split == "train" and label[-1] == "1" else label
    )
    assert counts(folder)["relation_spaces"] == 1
    assert "1 relation labels that only spaces" in warned(folder)


def test_ids_of_one_thing_are_questioned(small: Path) -> None:
    (small / "entity2id.txt").write_text("5\nAnn 0\nann 1\nCem 2\n<Cem> 3\nEve 4\n")
    assert {key: n for key, n in counts(small).items() if key.startswith("entity_")} == {
        "entity_quotes": 1,
        "entity_case": 1,
    }


@pytest.mark.parametrize("change", [lambda x: f'"{x}"', lambda x: x + "\u00a0", lambda x: unicodedata.normalize("NFD", x)])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_that_spells_all_entities_otherwise_is_refused(graph, change, split: str) -> None:
    folder = graph(lambda label, where, column: change(label) if where == split and column != 1 else label)
    with pytest.raises(Misuse, match=r"entities of valid\.tsv are in train\.tsv in another spelling only .* in one way"):
        load_folder(folder)
    assert counts(folder)["valid_spelt_otherwise"] > 6  # an audit counts and does not refuse


@pytest.mark.filterwarnings("ignore:.*first lines:UserWarning")
@pytest.mark.parametrize("first", ["head\trelation\ttail\n", "h\tr\tt\n", "Subject\tPredicate\tObject\n"])
def test_a_header_is_no_triple(graph: Callable[..., Path], first: str) -> None:
    plain = load_folder(graph())
    folder = graph(first=first)
    assert load_folder(folder).fingerprint == plain.fingerprint
    assert "3 first lines read as names of the columns (train.tsv, valid.tsv, test.tsv)" in warned(folder)


@pytest.mark.filterwarnings("ignore:.*first lines:UserWarning")
def test_a_header_says_the_order_of_the_columns(graph: Callable[..., Path]) -> None:
    plain = load_folder(graph())
    folder = graph()
    for split in ("train", "test"):
        rows = [line.split("\t") for line in (folder / f"{split}.tsv").read_text().splitlines()]
        (folder / f"{split}.tsv").write_text("o\ts\tp\n" + "".join(f"{t}\t{h}\t{r}\n" for h, r, t in rows))
    assert load_folder(folder).fingerprint == plain.fingerprint
    (folder / "train.tsv").write_text(
        (folder / "train.tsv").read_text() + rows[0][2] + f"\t{rows[0][0]}\t{rows[0][1]}\n" * 2
    )
    with pytest.raises(Misuse, match=r"train\.tsv, line \d+, "):
        load_folder(folder)


@pytest.mark.filterwarnings("ignore:.*triples of:UserWarning")
def test_words_of_the_columns_may_be_labels(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text("h\tr\tt\n" + (f"t\tr\t{split}\nh\tr\t{split}\n"))
    assert len(load_folder(tmp_path).train) == 3


def test_an_unknown_header_is_refused_and_a_lone_one_warned_of(graph: Callable[..., Path]) -> None:
    folder = graph(first="von\tLinie\tnach\n")
    said = r"the first line of train\.tsv and valid\.tsv and test\.tsv is a header, 'von', 'Linie', 'nach'; remove it"
    with pytest.raises(Misuse, match=said):
        load_folder(folder)
    plain = graph() / "test.tsv"
    text = plain.read_text()
    plain.write_text("von\tLinie\tnach\n" + text)
    assert "1 first triples whose labels stand nowhere else ('von', 'Linie', 'nach' in test.tsv)" in warned(folder)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2)])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_columns_in_another_order_are_refused(graph: Callable[..., Path], order: tuple[int, ...], split: str) -> None:
    folder = graph()
    for name in ("train", "valid", "test") if split == "all" else (split,):
        rows = [line.split("\t") for line in (folder / f"{name}.tsv").read_text().splitlines()]
        (folder / f"{name}.tsv").write_text("".join("\t".join(row[i] for i in order) + "\n" for row in rows))
    said = "second column holds entities" if split == "all" else r"has the columns in another order than train\.tsv"
    with pytest.raises(Misuse, match=said):
        load_folder(folder)


def test_columns_that_cannot_be_told_apart_are_warned_of(tmp_path: Path) -> None:
    rows = [f"u{i}\ti{i * j % 9}\t{'bought' if i % 2 else 'saw'}\n" for i in range(9) for j in range(1, 4)]
    for split, part in (("train", rows[6:]), ("valid", rows[:3]), ("test", rows[3:6])):
        (tmp_path / f"{split}.tsv").write_text("".join(dict.fromkeys(part)))
    assert "1 more relations than heads or tails in train" in warned(tmp_path)


def test_a_split_that_train_hardly_knows_is_warned_of(graph: Callable[..., Path]) -> None:
    folder = graph(lambda label, split, column: f"wd:{label}" if split == "test" and column != 1 else label)
    assert re.search(r"8 of 8 triples of test\.tsv have an entity that train\.tsv lacks", warned(folder))


@pytest.mark.parametrize(
    ("end", "mark"), [("tsv.gz", "\t"), ("txt", "\t"), ("csv", ","), ("csv", ";"), ("csv", "\t"), ("csv.gz", ",")]
)
def test_forms_of_one_graph_are_one_graph(graph: Callable[..., Path], tmp_path: Path, end: str, mark: str) -> None:
    plain = load_folder(graph()).fingerprint
    for file in tmp_path.iterdir():
        file.unlink()
    folder = graph(lambda label, *_: f'"{label}"' if end.startswith("csv") and label[-1] == "0" else label, end, mark)
    (folder / f"valid.{end}").rename(folder / f"dev.{end}")
    assert load_folder(folder).fingerprint == plain


def test_two_files_for_one_split_are_refused(graph: Callable[..., Path]) -> None:
    folder = graph()
    (folder / "dev.csv").write_text("a,r,b\n")
    with pytest.raises(Misuse, match=r"holds dev\.csv and valid\.tsv; keep the one that is meant as valid"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a,r,"b\nc"\n', r"line 1, has a label that goes on in the next line"),
        ('a,r,"b"c\n', r"line 1, is no line of a \.csv"),
        ('a,r,"b\rc"\n', r"line 1, has a label that goes on in the next line"),
        ("a,r,b\na,r\n", r"line 2, has 2 columns; write head, relation, tail with commas"),
        ("a,\u200b,b\n", r"line 1, has an empty label"),
        ("\n", r"holds no triple"),
        ("head,relation,tail\n", r"holds no triple"),
    ],
)
def test_malformed_csv_is_refused(graph: Callable[..., Path], tmp_path: Path, text: str, said: str) -> None:
    graph(end="csv", mark=",")
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(Misuse, match=said):
        load_folder(tmp_path)


class TestRDF:
    @staticmethod
    def written(folder: Path, end: str, line: Callable[[str, str, str], str], first: str = "") -> Path:
        facts = [(f"e{i % 7}", f"p{i % 2}", f"e{i * i % 5}") for i in range(14)]
        for split, part in (("train", facts[4:]), ("valid", facts[:2]), ("test", facts[2:4])):
            (folder / f"{split}.{end}").write_text(first + "".join(line(*fact) for fact in part), "utf-8")
        return folder

    @pytest.mark.parametrize("end", ["tsv", "txt"])
    @pytest.mark.parametrize("mark", ["\t", " "])
    def test_n_triples_under_another_name_are_refused(self, tmp_path: Path, end: str, mark: str) -> None:
        folder = self.written(tmp_path, end, lambda *fact: mark.join(f"<http://x/{x}>" for x in fact) + " .\n")
        with pytest.raises(Misuse, match=rf"train\.{end} holds N-Triples, each with a full stop; call it train\.nt"):
            load_folder(folder)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # the literals are in each split
    def test_addresses_and_literals(self, tmp_path: Path) -> None:
        pytest.importorskip("rdflib")
        more = '<http://x/e0> <http://x/says> "one\\t\\u00e9"@fr .\n'
        more += '<http://x/e0> <http://x/has> "01"^^<http://x/int> .\n# a comment\n'
        folder = self.written(tmp_path, "nt", lambda *fact: " ".join(f"<http://x/{x}>" for x in fact) + " .\n", more)
        data = load_folder(folder)
        assert data.entities[:3] == ['"01"^^http://x/int', '"one\té"@fr', "http://x/e0"]
        assert data.relations == ["http://x/has", "http://x/p0", "http://x/p1", "http://x/says"]
        rows = [(data.entities[h], data.relations[r], data.entities[t]) for h, r, t in data.train.tolist()]
        assert rows == sorted(rows)  # a graph of RDF has no order

    def test_turtle_is_the_same_graph(self, tmp_path: Path) -> None:
        pytest.importorskip("rdflib")
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        n_triples = self.written(tmp_path / "a", "nt", lambda *fact: " ".join(f"<http://x/{x}>" for x in fact) + " .\n")
        turtle = self.written(
            tmp_path / "b", "ttl", lambda *fact: ":{} :{} :{} .\n".format(*fact), "@prefix : <http://x/> .\n"
        )
        assert load_folder(turtle).fingerprint == load_folder(n_triples).fingerprint

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("<http://x/a> <http://x/r> _:b .\n", "holds blank nodes"),
            ("<http://x/a> <http://x/r> .\n", r"train\.nt is not N-Triples \(.*\); correct it"),
            ("", "holds no triple"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, tmp_path: Path, text: str, said: str) -> None:
        pytest.importorskip("rdflib")
        folder = self.written(tmp_path, "nt", lambda *fact: " ".join(f"<http://x/{x}>" for x in fact) + " .\n")
        (folder / "train.nt").write_text(text)
        with pytest.raises(Misuse, match=said):
            load_folder(folder)

    def test_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "rdflib", None)
        folder = self.written(tmp_path, "nt", lambda *fact: " ".join(f"<http://x/{x}>" for x in fact) + " .\n")
        with pytest.raises(Misuse, match=r"train\.nt needs rdflib; run pip install 'nsbench\[rdf\]'"):
            load_folder(folder)
