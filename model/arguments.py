"""Reading a Config: the command line goes before the file, the file before the defaults.

Every mistake of both is told at once, with its place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from model.config import PARAMETERS, Config, ConfigError
from model.config_file import REFUSED, ConfigFile, Entry, Scalar, Tree, read_file, scalars
from model.contradictions import contradictions
from model.origin import COMMAND_LINE, MUSTER, Origin, shortened
from model.values import as_written, read_value
from orchestrator.rank import Rank

ROWS = {row.name: row for row in PARAMETERS}
TYPES = get_type_hints(Config)

PLACEHOLDERS = {
    "data_dir": "/cache/data/coco2014/",
    "pretrained_backbone": "/cache/checkpoint_path/0-148_92000.ckpt",
    "data_path": "/cache/data",
    "output_path": "/cache/train",
    "load_path": "/cache/checkpoint_path",
}
"""Paths in the original's own file, which exist on ModelArts only: in a file they mean none."""


@dataclass(frozen=True)
class Given:
    """A value as somebody wrote it: for which parameter, and where."""

    name: str
    tree: Tree
    origin: Origin

    def __str__(self) -> str:
        """The head of a message about it."""
        return self.origin.says(self.name, as_written(self.tree))


def parse(arguments: Iterable[str]) -> Config:
    """Read `--name=value` arguments and the file that `--config_path` names.

    Raises ConfigError with every mistake of both, and of what does not go together.
    """
    problems: list[str] = []
    words = _from_words(arguments, problems)
    file = _named_file(words, problems)
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    unread: set[str] = set()
    for given in [*_from_file(file, problems), *words.values()]:
        if REFUSED in scalars(given.tree):
            unread.add(given.name)
            continue
        try:
            values[given.name] = read_value(given.tree, TYPES[given.name], _limits(given.name))
        except ValueError as error:
            problems.append(f"{given}: {error}")
            unread.add(given.name)
        else:
            origins[given.name] = given.origin
            unread.discard(given.name)
    config = replace(Config(), **values, origins=origins)
    problems += _not_chosen(config, file)
    problems += contradictions(config, unread)
    if problems:
        raise ConfigError(problems)
    return config


def as_run(config: Config, rank: Rank) -> Config:
    """`config` with what muster decides for this rank in place of what was asked for."""
    if not rank.active:
        return config
    decided: dict[str, Any] = {"rank": rank.rank, "group_size": rank.world_size}
    target = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}.get(rank.backend)
    if target:
        decided["device_target"] = target
    if rank.checkpoint_every:
        decided["ckpt_interval"] = rank.checkpoint_every
    return config.changed(MUSTER, **decided)


def _limits(name: str) -> Mapping[str, Any]:
    return ROWS[name].metadata


def _from_words(arguments: Iterable[str], problems: list[str]) -> dict[str, Given]:
    words: dict[str, Given] = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            problems.append(f"{shortened(argument)!r}: expected --name=value")
        elif name not in ROWS:
            problems.append(f"--{_unknown(name, '--')}")
        elif name in words:
            problems.append(f"--{name} is given twice")
        else:
            words[name] = Given(name, Scalar(text), COMMAND_LINE)
    return words


def _unknown(name: str, dashes: str = "") -> str:
    near = difflib.get_close_matches(name[:64], ROWS, n=1)
    hint = f"; did you mean {dashes}{near[0]}?" if near else ""
    return f"{shortened(name)}: no such parameter{hint}"


def _named_file(words: Mapping[str, Given], problems: list[str]) -> ConfigFile:
    given = words.get("config_path")
    path = "" if given is None else as_written(given.tree)
    if not path or "\0" in path:  # which is told with the values
        return ConfigFile("")
    file = read_file(path)
    problems += file.problems
    problems += [
        f"{file.name}:{entry.line}: {_unknown(name)}"
        for document in (file.values, file.texts, file.choices)
        for name, entry in document.items()
        if name not in ROWS and REFUSED not in scalars(entry.tree)
    ]
    return file


def _from_file(file: ConfigFile, problems: list[str]) -> Iterator[Given]:
    for name, entry in file.values.items():
        if name not in ROWS:
            continue
        place = f"{file.name}:{entry.line}"
        written = as_written(entry.tree)
        if name == "config_path" and written:
            problems.append(f"{place}: {name}: a file cannot name another; leave it out")
        elif written == PLACEHOLDERS.get(name):
            note = f"{written} is a place on ModelArts, taken for none"
            yield Given(name, Scalar(""), Origin("file", place, note))
        else:
            yield Given(name, entry.tree, Origin("file", place))


def _not_chosen(config: Config, file: ConfigFile) -> Iterator[str]:
    """What contradicts the file's third document: the values that may be chosen."""
    for name, entry in file.choices.items():
        if name not in ROWS or REFUSED in scalars(entry.tree):
            continue
        place = f"{file.name}:{entry.line}: {name}"
        try:
            chosen = _choices(name, entry)
        except ValueError as error:
            yield f"{place}: {error}"
        else:
            if name in config.origins and getattr(config, name) not in chosen:
                shown = shortened(as_written(entry.tree))
                yield f"{config.written(name)}: {file.name}:{entry.line} allows {shown}"


def _choices(name: str, entry: Entry) -> list[Any]:
    if isinstance(entry.tree, Scalar):
        raise ValueError("expected a list of the values that may be chosen")
    return [read_value(item, TYPES[name], _limits(name)) for item in entry.tree]
