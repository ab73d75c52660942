"""Standard streams: every sign gets through, a reader may leave, and what should have been kept is told."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from nsbench.streams import Lasting, lasting, lost


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "12 ± 3 ↑ Δ−1 ○? é".encode()),
        ("cp1252", b"12 \xb1 3 ^ d-1 o? \xe9"),
        ("latin-1", b"12 \xb1 3 ^ d-1 o? \xe9"),
        ("ascii", b"12 +- 3 ^ d-1 o? ?"),
    ],
)
def test_signs_that_an_encoding_lacks(encoding: str, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    under = io.BytesIO()
    stream = io.TextIOWrapper(under, encoding)  # which closes what is under it when nobody has it any more
    monkeypatch.setattr(sys, "stdout", Lasting(stream))
    text = "12 ± 3 ↑ Δ−1 ○\udce9 é"
    print(text)
    click.echo(text)
    assert under.getvalue() == 2 * (expected + b"\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as under, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", under)
        with lasting():
            for _ in range(3):
                print("nobody reads this")
            sys.stdout.flush()
            assert lost() is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_file_that_is_not_whole_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as under, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", under)
        with lasting():
            print("this was to be kept")
            trouble = lost()
    assert trouble is not None
    assert trouble.errno == errno.ENOSPC
    program = [sys.executable, "-m", "nsbench", "--version"]
    with open("/dev/full", "w") as full:
        said = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, cwd=checkout, timeout=60)
    assert said.returncode == 1
    assert said.stderr == (
        "Error: the output could not be written (No space left on device); free some space, or send it elsewhere\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
def test_no_file_takes_the_place_of_a_stream_that_is_closed(checkout: Path, tmp_path: Path) -> None:
    program = (
        "import os\nfrom nsbench.streams import lasting\n"
        "for number in (0, 1, 2): os.close(number)\n"
        f"with lasting():\n    with open({str(tmp_path / 'file')!r}, 'w') as file: file.write(str(file.fileno()))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=checkout, timeout=60)
    assert int((tmp_path / "file").read_text()) > 2
