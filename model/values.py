"""Values as they are written, on the command line or in a file, read by their type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from model.config import Integers
from model.config_file import Scalar, Tree, scalars

LONGEST_NUMBER = 40

_FLAGS = {"1": True, "true": True, "yes": True, "on": True,
          "0": False, "false": False, "no": False, "off": False}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BRACKETS = str.maketrans("()", "[]")


def read_value(tree: Tree, kind: Any, limits: Mapping[str, Any]) -> Any:
    """The value of type `kind` that `tree` stands for; `limits` is the metadata of its row.

    Raises ValueError with what is expected instead.
    """
    expected, reader = _READERS[kind]
    trap = next((scalar.trap for scalar in scalars(tree) if scalar.trap), "")
    if trap and kind is not str:
        raise ValueError(trap)
    try:
        value = reader(tree)
    except (ValueError, RecursionError):
        raise ValueError(f"expected {expected}") from None
    if kind == Integers:
        value = _joined(value, limits["pairs"])
    complaint = _out_of_range(value, limits)
    if complaint:
        raise ValueError(complaint)
    return value


def as_written(tree: Tree) -> str:
    """`tree` in one line, as it could stand on the command line."""
    if isinstance(tree, Scalar):
        return tree.text
    return f"[{', '.join(map(as_written, tree))}]"


def allowed(kind: Any, limits: Mapping[str, Any]) -> str:
    """What a parameter may be, in words; empty if it may be any text."""
    if limits["choices"]:
        return " | ".join(map(str, limits["choices"]))
    bounds = (("from", "low"), ("above", "above"), ("to", "high"), ("below", "below"))
    words = [f"{word} {limits[key]:g}" for word, key in bounds if math.isfinite(limits[key])]
    return "; ".join(filter(None, ("" if kind is str else _READERS[kind][0], " ".join(words))))


def _out_of_range(value: Any, limits: Mapping[str, Any]) -> str:
    choices, low, high = limits["choices"], limits["low"], limits["high"]
    if choices:
        return "" if value in choices else f"expected one of {', '.join(map(str, choices))}"
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        if not low <= number <= high:
            least = f"be {low:g} or more"
            return f"must {least if math.isinf(high) else f'lie between {low:g} and {high:g}'}"
        if number <= limits["above"]:
            return f"must be above {limits['above']:g}"
        if number >= limits["below"]:
            return f"must be below {limits['below']:g}"
    return ""


def _text(tree: Tree) -> str:
    if not isinstance(tree, Scalar) or _CONTROL.search(tree.text):
        raise ValueError(tree)
    return tree.text


def _number_text(tree: Tree) -> str:
    text = _text(tree)
    if len(text) > LONGEST_NUMBER:
        raise ValueError(text)
    return text


def _integer(tree: Tree) -> int:
    return int(_number_text(tree))


def _number(tree: Tree) -> float:
    value = float(_number_text(tree))
    if not math.isfinite(value):
        raise ValueError(tree)
    return value


def _flag(tree: Tree) -> bool:
    text = _text(tree).lower()
    if text not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text]


def _optional(tree: Tree) -> int | None:
    return _integer(tree) if _text(tree) else None


def _integers(tree: Tree) -> tuple[int | Integers, ...]:
    items = _split(_text(tree)) if isinstance(tree, Scalar) else tree
    return tuple(
        tuple(map(_integer, item)) if isinstance(item, tuple) else _integer(item) for item in items
    )


def _split(text: str) -> tuple[Tree, ...]:
    """A list on the command line: `320,352`, `[320, 352]` or `[[10, 13], [16, 30]]`."""
    if not text.lstrip().startswith(("[", "(")):
        return tuple(Scalar(part) for part in text.split(",") if part.strip())
    found = json.loads(text.translate(_BRACKETS), parse_int=Scalar)
    return tuple(tuple(item) if isinstance(item, list) else item for item in found)


def _joined(items: tuple[int | Integers, ...], pairs: str) -> Integers:
    """A plain list of a list that may hold pairs; raises ValueError."""
    lists = [item for item in items if isinstance(item, tuple)]
    if lists and not pairs:
        raise ValueError("expected numbers, found a list in the list")
    if any(len(item) != 2 for item in lists):
        raise ValueError("expected pairs of two numbers")
    if pairs == "square" and any(width != height for width, height in lists):
        raise ValueError("expected pairs of twice the same side: only squares can be computed")
    rows = [(item,) if isinstance(item, int) else item for item in items]
    return tuple(n for row in rows for n in (row[:1] if pairs == "square" else row))


_READERS: dict[Any, tuple[str, Callable[[Tree], Any]]] = {
    int: ("a whole number", _integer),
    float: ("a number", _number),
    bool: ("1 or 0, true or false", _flag),
    str: ("one line of text", _text),
    Integers: ("whole numbers with commas between them", _integers),
    int | None: ("a whole number, or nothing", _optional),
}
