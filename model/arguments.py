"""Reading `--name=value` arguments into a Config; every mistake is told at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import Field, fields, replace
from typing import Any, get_type_hints

from model.architecture import STRIDES
from model.config import Config, ConfigError, Integers


def parse(arguments: Iterable[str]) -> Config:
    """Read `--name=value` arguments. Raises ConfigError with every mistake."""
    rows = {row.name: row for row in fields(Config)}
    types = get_type_hints(Config)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            problems.append(f"{argument!r}: expected --name=value")
        elif name not in rows:
            problems.append(_unknown(name, rows))
        elif name in values:
            problems.append(f"--{name} is given twice")
        else:
            values[name] = _read(text, types[name], rows[name], problems)
    good = {name: value for name, value in values.items() if value is not _BAD}
    config = replace(Config(), **good)
    problems += [problem for names, problem in _contradictions(config) if names <= good.keys()]
    if problems:
        raise ConfigError(problems)
    return config


_BAD = object()


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"--{name}: no such parameter" + (f"; did you mean --{near[0]}?" if near else "")


def _read(text: str, kind: Any, row: Field[Any], problems: list[str]) -> Any:
    expected, reader = _READERS[kind]
    try:
        value = reader(text)
    except ValueError:
        problems.append(f"--{row.name}={text}: expected {expected}")
        return _BAD
    complaint = _out_of_range(value, row.metadata)
    if complaint:
        problems.append(f"--{row.name}={text}: {complaint}")
        return _BAD
    return value


def _out_of_range(value: Any, limits: Any) -> str:
    choices = limits["choices"]
    if choices:
        return "" if value in choices else f"expected one of {', '.join(map(str, choices))}"
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        if not limits["low"] <= number <= limits["high"]:
            return f"must lie between {limits['low']:g} and {limits['high']:g}"
        if number <= limits["above"]:
            return f"must be above {limits['above']:g}"
    return ""


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _integers(text: str) -> Integers:
    return tuple(int(part) for part in text.strip("[]()").split(",") if part.strip())


def _optional(text: str) -> int | None:
    return int(text) if text else None


_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", _number),
    bool: ("1 or 0, true or false", _flag),
    str: ("text", str),
    Integers: ("whole numbers with commas between them", _integers),
    int | None: ("a whole number, or nothing", _optional),
}


def _contradictions(config: Config) -> list[tuple[set[str], str]]:
    """What does not go together: (names that must all be readable, what is wrong)."""
    c = config
    coarsest = STRIDES["l"]
    sides = [("training_shape", c.training_shape), ("testing_shape", c.testing_shape)]
    sides += [("multi_scale", side) for side in c.multi_scale]
    sides += [("test_img_shape", side) for side in c.test_img_shape]
    found = [
        ({name}, f"--{name}: side {side} is not a positive multiple of {coarsest}")
        for name, side in sides
        if side is not None and (side <= 0 or side % coarsest)
    ]
    rules = [
        (not c.multi_scale, {"multi_scale"}, "--multi_scale is empty"),
        (len(set(c.test_img_shape)) != 1 or len(c.test_img_shape) > 2, {"test_img_shape"},
         f"--test_img_shape={c.test_img_shape}: only squares can be evaluated"),
        (len(c.anchor_scales) != 18, {"anchor_scales"},
         f"--anchor_scales has {len(c.anchor_scales)} numbers, not 18"),
        (c.eta_min > c.lr, set(), f"eta_min={c.eta_min:g} is above lr={c.lr:g}"),
        (c.warmup_epochs > c.max_epoch, set(),
         f"warmup_epochs={c.warmup_epochs:g} is above max_epoch={c.max_epoch}"),
        (bool(c.early_stop and not c.evaluate_every), {"early_stop"},
         f"early_stop={c.early_stop} counts evaluations, and evaluate_every=0 makes none"),
        (bool(c.resume_yolov3 and c.resume_from), set(),
         "resume_yolov3 starts anew from weights, resume_from goes on: give one of them"),
        (c.num_classes is not None and c.out_channel not in (None, 3 * ((c.num_classes or 0) + 5)),
         set(), f"out_channel={c.out_channel} contradicts num_classes={c.num_classes}"),
        (c.enable_modelarts, set(), "enable_modelarts: ModelArts is not supported"),
        (c.need_profiler, set(), "need_profiler: not built yet"),
        (not c.is_save_on_master, set(),
         "is_save_on_master=0: a checkpoint always holds every rank's statistics; leave it at 1"),
    ]  # fmt: skip
    return found + [(names, text) for wrong, names, text in rules if wrong]
