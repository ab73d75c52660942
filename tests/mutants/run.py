"""Plants the bugs listed beside this file, one at a time, and says which of them the tests notice.

    python tests/mutants/run.py [NAME ...]     all, or those alone
    python tests/mutants/run.py --unmutated    first the same tests without a bug: they must pass

The bugs lie in *.toml, each a one-line fragment that its file holds exactly once, a replacement, and the tests that are to
fail then. `stale` is a bug that can no longer be planted, or tests that are no longer there. Nothing here is touched: bugs
are planted in a copy, from whose root `python -m pytest` imports the copy's nsbench, whatever is installed. Tests that start
the `nsbench` command would meet the installed one, and are of no use.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from shutil import copyfile

import click

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent


@click.command()
@click.argument("names", nargs=-1)
@click.option("--unmutated", is_flag=True, help="Run the tests without a bug first.")
@click.option("--seconds", default=240, show_default=True, help="A run of tests that takes longer has noticed the bug.")
def main(names: tuple[str, ...], unmutated: bool, seconds: int) -> None:
    mutants = [m for file in sorted(HERE.glob("*.toml")) for m in tomllib.loads(file.read_text("utf-8"))["mutant"]]
    known = [mutant["name"] for mutant in mutants]
    if wrong := [n for n in names if n not in known] or sorted({n for n in known if known.count(n) > 1}):
        raise click.ClickException(f"no mutant, or several, of the name {', '.join(wrong)}")
    mutants = [mutant for mutant in mutants if not names or mutant["name"] in names]
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.split("\0"):
            if (CHECKOUT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                copyfile(CHECKOUT / name, copy / name)
        for tests in dict.fromkeys(mutant["tests"] for mutant in mutants) if unmutated else ():
            if (outcome := tested(copy, tests, seconds)) != "SURVIVED":
                raise click.ClickException(f"{tests} without any mutant: {outcome}")
        for mutant in mutants:
            found.append(planted(copy, mutant, seconds))
            print(f"{mutant['name']:<55} {found[-1]}", flush=True)
    counts = {word: sum(outcome.startswith(word) for outcome in found) for word in ("killed", "SURVIVED", "stale")}
    print(f"{', '.join(f'{n} {word}' for word, n in counts.items())} of {len(found)}, {time.monotonic() - began:.0f} s")
    sys.exit(counts["killed"] < len(found))


def planted(copy: Path, mutant: dict[str, str], seconds: int) -> str:
    """What the tests make of one mutant; the file is put back afterwards."""
    file = copy / mutant["file"]
    text = file.read_text("utf-8") if file.is_file() else ""
    if text.count(mutant["old"]) != 1 or "\n" in mutant["old"]:
        return f"stale: {mutant['file']} has the fragment {text.count(mutant['old'])} times"
    file.write_text(text.replace(mutant["old"], mutant["new"]), "utf-8")
    try:
        return tested(copy, mutant["tests"], seconds)
    finally:
        file.write_text(text, "utf-8")


def tested(copy: Path, tests: str, seconds: int) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    # No byte code: it would outlive a mutant of the same second and size. Kernels compiled here go with the copy.
    own = {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(copy.parent / "cache"), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=os.environ | own, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"killed (no end after {seconds} s)"
    test = r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$|(ImportError while loading conftest)"
    first = re.search(test, done.stdout + done.stderr, re.M)
    if done.returncode == 0:
        return "SURVIVED"
    return f"killed by {first[1] or first[2]}" if first else f"stale: pytest {tests} ends with {done.returncode}"


if __name__ == "__main__":
    main()
