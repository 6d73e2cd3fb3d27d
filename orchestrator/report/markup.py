"""HTML from Python values: what is not `Html` is escaped, always, in one place."""

from __future__ import annotations

import html
import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"meta", "br"})


class Html(str):
    """Markup of ours; any other text is a job's and is escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as text: escaped, with a mark in place of what no page may hold."""
    if isinstance(value, Html):
        return value
    shown = "–" if value is None else str(value)
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", shown), quote=True))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """An element. `class_` is `class`, other underscores are dashes; None attributes are left out.

    Tags and names of attributes are ours, never a job's.
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    given = "".join(f' {key}="{text(value)}"' for key, value in named.items() if value is not None)
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{''.join(map(text, children))}</{tag}>")


def join(parts: object, between: str = "") -> Html:
    """Several pieces as one; each is escaped unless it is markup."""
    return Html(between.join(map(text, parts)))  # type: ignore[call-overload]
