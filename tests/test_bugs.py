"""What nobody foresaw: one sentence, and a file that says what, where and with which versions."""

import re

import pytest
import torch

from nsbench.errors import foreseen, out_of_memory


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raising(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("nsbench.results.tables.comparison", raising)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (EOFError("no data left in file"), "EOFError: no data left in file"),  # click says "Aborted!"
        (BrokenPipeError(32, "Broken pipe"), r"BrokenPipeError: \[Errno 32\] Broken pipe"),  # click says nothing
        (SystemExit(3), "something that was loaded ends the process, exit code 3"),
    ],
)
def test_a_bug_is_told_with_a_file_to_send(command, tmp_path, monkeypatch, error: BaseException, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    broken(monkeypatch, error)
    got = command("table", "--where", "dataset=my graph")
    (file,) = tmp_path.glob("nsbench-bug-*.txt")
    assert (got.code, got.out) == (1, "")
    assert re.fullmatch(rf"Error: a bug in nsbench, .*{said}; please report it with {re.escape(str(file))}.*\n", got.err)
    text = file.read_text()
    assert text.startswith("nsbench table --where 'dataset=my graph'\n")
    assert f"\ntorch {torch.__version__}\n" in text
    assert "Traceback (most recent call last):" in text
    assert "in raising" in text


def test_where_the_folder_is_gone_the_file_lies_elsewhere(command, tmp_path, monkeypatch) -> None:
    gone, there = tmp_path / "gone", tmp_path / "there"
    gone.mkdir()
    there.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(there))
    broken(monkeypatch, TypeError("y"))
    gone.rmdir()
    assert str(there) in command("table").err
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(there / "a file"))
    (there / "a file").touch()
    assert command("table").err == "Error: a bug in nsbench, TypeError: y; nsbench --debug ... shows where\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space or choose another place"),
        (OSError(24, "Too many open files"), "Too many open files; raise the limit of open files"),
        (PermissionError(13, "Permission denied", "/x"), "cannot use /x: Permission denied; check the path"),
        (RuntimeError("std::bad_alloc"), "out of memory; use a smaller"),
        (OSError(12, "Cannot allocate memory", "/x"), "out of memory; use a smaller"),
        (ValueError("z"), None),
    ],
)
def test_what_is_foreseen(error: BaseException, words: str | None) -> None:
    assert (words is None) == (foreseen(error) is None)
    assert (words or "") in (foreseen(error) or "")
    assert out_of_memory(error) == ("memory" in (words or ""))
