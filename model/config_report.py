"""The table of parameters for a person or a program: `--help`, and `python -m model.config`.

`python -m model.config [--name=value ...]` prints every parameter with its value, where the value
comes from and what it means. What it prints is a configuration file. `--json` prints one document
for programs. Wrong arguments: every mistake on stderr, exit 64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from model.arguments import TYPES, parse
from model.config import PARAMETERS, Config, ConfigError
from model.values import allowed

_COLUMN = 36
_ORIGIN = 60


def show_help(about: str | None, words: Sequence[str] | None = None) -> None:
    """Print a command's help and leave (SystemExit 0), if `words` ask for it.

    `about` is the docstring of the command; `words` are those of the process by default.
    """
    if {"--help", "-h"} & set(sys.argv[1:] if words is None else words):
        print(help_text(about or ""))
        raise SystemExit(0)


def help_text(about: str) -> str:
    """`about`, and below it every parameter with its default, meaning and what it may be."""
    intro = "Parameters, as --name=value or as name: value in the file of --config_path:"
    return "\n".join([about.strip(), "", intro, *_parameters()])


def _parameters() -> Iterator[str]:
    for row in PARAMETERS:
        head = f"  --{row.name}={_word(row.default)}"
        if len(head) >= _COLUMN:
            yield head
            head = ""
        may_be = allowed(TYPES[row.name], row.metadata)
        yield f"{head:<{_COLUMN}}{row.metadata['meaning']}{may_be and f' ({may_be})'}"


def _word(value: Any) -> str:
    """A value as it stands on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def table(config: Config) -> list[str]:
    """Every parameter with value, origin and meaning: a configuration file for a person."""
    rows = zip(config.lines(), PARAMETERS, strict=True)
    return [f"{line:<{_ORIGIN}}  {row.metadata['meaning']}" for line, row in rows]


def document(config: Config) -> dict[str, Any]:
    """The same for a program: a list of parameters, and the fingerprint."""
    return {
        "fingerprint": config.fingerprint(),
        "parameters": [
            {
                "name": row.name,
                "value": getattr(config, row.name),
                "origin": config.origin(row.name).kind,
                "place": config.origin(row.name).place,
                "note": config.origin(row.name).note,
                "meaning": row.metadata["meaning"],
            }
            for row in PARAMETERS
        ],
    }


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; returns 0, or 64 for wrong arguments."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_help(__doc__, words)
    as_json = "--json" in words
    try:
        config = parse(word for word in words if word != "--json")
    except ConfigError as error:
        if as_json:
            print(json.dumps({"problems": error.problems}, indent=1))
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(document(config), indent=1) if as_json else "\n".join(table(config)))
    return 0
