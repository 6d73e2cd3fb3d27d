"""Where the value of a parameter comes from, and how it is written in a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LONGEST = 80

Kind = Literal["default", "file", "command line", "muster", "program"]


@dataclass(frozen=True)
class Origin:
    """Who gave a value; for a file also `place`, FILE:LINE, and what has been made of it."""

    kind: Kind
    place: str = ""
    note: str = ""

    def __str__(self) -> str:
        """In words, for a table: `conf.yaml:12`, `command line`."""
        said = self.place or self.kind
        return f"{said}: {self.note}" if self.note else said

    def says(self, name: str, text: str) -> str:
        """The assignment as the user wrote it, with its place: the head of a message."""
        if self.kind == "command line":
            return f"--{name}={shortened(text)}"
        head = f"{self.place}: {name}: " if self.place else f"{name}="
        return head + shortened(text)


DEFAULT = Origin("default")
COMMAND_LINE = Origin("command line")
MUSTER = Origin("muster")
PROGRAM = Origin("program")


def printable(text: str) -> str:
    """`text` as it may stand in a line."""
    return text if text.isprintable() else repr(text)[1:-1]


def shortened(text: str) -> str:
    """`text` as it may stand in a line, and not without end."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def as_yaml(value: object) -> str:
    """A parameter's value in YAML, so that a printed table can be read as a file again."""
    if value is None:
        return '""'
    if isinstance(value, str):
        return '"' + "".join(map(_in_quotes, value)) + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float):
        # Without a point, YAML 1.1 takes 1e-05 for text.
        mantissa, exponent, power = repr(value).partition("e")
        point = ".0" if exponent and "." not in mantissa else ""
        return mantissa + point + exponent + power
    return str(value)


def _in_quotes(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    return f"\\U{ord(character):08x}"
