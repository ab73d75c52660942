"""--help of every command: a sentence, then the calls that people make, each of which is one that can be made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from nsbench.cli import cli


def below(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from below(sub, *path, name)


COMMANDS = dict(below(cli))


def calls(command: click.Command) -> list[list[str]]:
    """The words behind `nsbench` in each example; what stands two blanks further right explains it."""
    lines = re.findall(r"^ *nsbench (.*)$", command.help or "", re.MULTILINE)
    return [shlex.split(re.split(r" {2,}| && | [>|] ", line)[0]) for line in lines]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_a_sentence_and_the_calls(path):
    text = COMMANDS[path].help
    sentence, examples, *_ = text.split("\n\n")
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert 2 <= len(calls(COMMANDS[path])) <= 3
    assert len(calls(COMMANDS[path])) == len(re.findall("^ *nsbench ", examples, re.MULTILINE))  # at once, and no later
    assert max(map(len, examples.splitlines())) <= 100
    assert any(tuple(words[: len(path)]) == path for words in calls(COMMANDS[path]))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_calls_can_be_made(path):
    for words in calls(COMMANDS[path]):
        known = max((p for p in COMMANDS if tuple(words[: len(p)]) == p), key=len)
        assert known, words
        found = COMMANDS[known]
        arguments = [word for word in words[len(known) :] if word != "..."]
        left = found.make_parser(click.Context(found)).parse_args(arguments)[1]  # refuses unknown options
        assert not left, words
