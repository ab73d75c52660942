"""Files that are there as a whole or not at all, and folders by the names that people give them."""

import errno
import os
import re
import stat
from pathlib import Path

import pytest

from nsbench import files
from nsbench.errors import Misuse, RunFailed
from nsbench.files import replacing, store_folder, unfinished, write_text

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("mine")])
def test_after_an_error_the_old_file_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    said = r"cannot write \S+table.csv \(No space left on device\); free some space or choose another place$"

    def write() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(RunFailed if error is FULL else type(error), match=said if error is FULL else None):
        write()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("table.csv", "old")]


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_a_link_stays_a_link_and_who_may_read_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "shared" / "real.md", tmp_path / "link.md"
    real.parent.mkdir()
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert (link.is_symlink(), real.read_text(), stat.S_IMODE(real.stat().st_mode)) == (True, "new", 0o640)
    assert [path.name for path in real.parent.iterdir()] == ["real.md"]


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(RunFailed, match=r"is a folder; name a file in it$"):
        write_text(tmp_path, "whole")


def test_names_as_long_as_they_may_be_and_names_that_are_no_text(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 252 + ".md")
    write_text(longest, "a\udce9b")  # what Python makes of a byte that is no UTF-8
    assert longest.read_bytes() == b"a?b"


def test_a_temporary_name_tells_what_it_was_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.extend(path.name for path in tmp_path.iterdir()))
    write_text(tmp_path / "ranks.npz", "")
    assert [unfinished(name) for name in (seen[0], "ranks.npz", ".ranks.npz.tmp")] == ["ranks.npz", None, None]


def test_one_way_to_write(checkout: Path) -> None:
    """Whoever opens a file to write it, beside nsbench.files, has a reason that is listed here."""
    reasons = {
        "nsbench/runs/claim.py": "a claim is made by creating it",
        "nsbench/runs/folder.py": "events are appended",
        "nsbench/tuning/ledger.py": "a lock",
        "nsbench/machine.py": "a switch of the kernel",
        "nsbench/commands/scaffold.py": "a new folder, all of it or none",
        "results/store/archive.py": "a new folder, renamed as a whole",
        "datasets/encoding.py": "rows are appended",
    }
    writes = re.compile(r"\.write_text\(|\.write_bytes\(|open\([^)]*[\"'][wxa]b?[\"']|open\([^)]*\"r\+b")
    found = {
        str(path.relative_to(checkout))
        for folder in ("nsbench", "results", "datasets", "samplers", "kge")
        for path in (checkout / folder).rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"nsbench/files.py", *reasons}


def test_home_is_known_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NSBENCH_RUNS", "~/mine")
    assert store_folder() == tmp_path / "mine"
    assert store_folder("~/yours") == tmp_path / "yours"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/kept")
    assert files.cache_folder() == tmp_path / "kept" / "nsbench"
    with pytest.raises(Misuse, match="nobody's home folder is known for ~no-such-user/x; write the path without ~"):
        store_folder("~no-such-user/x")


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
def test_without_a_home_the_cache_is_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = files.cache_folder()
    assert (folder.parent, stat.S_IMODE(folder.stat().st_mode)) == (tmp_path, 0o700)
    assert files.cache_folder() == folder
    folder.chmod(0o777)  # anybody could have put a library there
    with pytest.raises(Misuse, match="is not this user's own; set HOME or XDG_CACHE_HOME"):
        files.cache_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(Misuse, match="is not this user's own"):
        files.cache_folder()
