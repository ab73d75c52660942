import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from nsbench.datasets.upstream import TEXTS, unpickled
from nsbench.errors import Misuse


class Intruder:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read(tmp_path: Path, protocol: int) -> None:
    plain = {"a": 1, "Jūrmala": [2, 70_000, 2.5, None, True], 3: ("x", b"y")}
    if protocol < 3:
        del plain[3]  # bytes are made by a call there
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(plain, protocol))
    assert unpickled(tmp_path / "x.pkl") == plain


class TestNoCodeIsRun:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_call(self, tmp_path: Path, protocol: int) -> None:
        file, trace = tmp_path / "x.pkl", tmp_path / "trace"
        file.write_bytes(pickle.dumps([1, Intruder(trace)], protocol))
        with pytest.raises(Misuse, match=r"x\.pkl is no pickle of plain data, reading it would run code .*mkdir"):
            unpickled(file)
        assert not trace.exists()
        pickle.loads(file.read_bytes())
        assert trace.exists()  # the file does what it is accused of

    @pytest.mark.parametrize("value", [OrderedDict(a=1), np.arange(3), {1, 2}.__class__, print, ValueError("x")])
    def test_no_name_is_looked_up(self, tmp_path: Path, value: object) -> None:
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(Misuse, match="would run code"):
            unpickled(tmp_path / "x.pkl")

    def test_damaged(self, tmp_path: Path) -> None:
        for content in (b"", b"garbage", pickle.dumps([1, 2, 3])[:-3]):
            (tmp_path / "x.pkl").write_bytes(content)
            with pytest.raises(Misuse, match=r"x\.pkl is no pickle"):
                unpickled(tmp_path / "x.pkl")


def test_captions_by_way_of_freebase(tmp_path: Path) -> None:
    """Two Freebase entities are one of ours: the first with a caption speaks; one of ours has no caption."""
    files = {
        "captions_fb15k237.txt": '3\n0\t A tall man.\n1\t\n2\t A city, "old".\n',
        "entities_fb15k237.txt": "3\n/m/01\t0\n/m/02\t1\n/m/03\t2\n",
        "sameas_db15k.txt": "".join(
            f"{mid} <SameAs> <http://dbpedia.org/resource/{name}> .\n"
            for mid, name in [("/m/02", "City,_The"), ("/m/09", "City,_The"), ("/m/03", "City,_The"), ("/m/01", "B")]
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    ours = [f"<http://dbpedia.org/resource/{name}>" for name in ("B", "C", "City,_The")]
    read = TEXTS["DB15K", "captions"]
    assert read({name: tmp_path / name for name in files}, ours, ()) == ["A tall man.", None, 'A city, "old".']


@pytest.mark.parametrize("tokens", [[[1] * 11], [[1] * 12, [1]], [["a"] * 12], [], 7])
def test_tokens_that_are_not_thirteen(tmp_path: Path, tokens: object) -> None:
    files = {"ent2id.pkl": {"A": 0, "B": 1}, "txt_master.pkl": [1, 2], "txt_neighbors.pkl": tokens}
    for name, value in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    with pytest.raises(Misuse, match=r"txt_neighbors\.pkl do not give 13 tokens to each entity"):
        TEXTS["MKG-Y", "wordpieces"]({name: tmp_path / name for name in files}, ["A", "B"], [""] * 9)
