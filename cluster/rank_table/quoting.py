"""How texts of a file are shown."""

from __future__ import annotations

_LONGEST = 80


def shown(text: str) -> str:
    """A text in quotes, printable and not too long."""
    if len(text) <= _LONGEST:
        return repr(text)
    return f"{text[:_LONGEST]!r}… ({len(text)} characters)"
