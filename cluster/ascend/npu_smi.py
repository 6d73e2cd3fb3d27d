"""What npu-smi's sub-commands `-m`, `-l` and `-t health` print, as values.

Pure: text in, values out; nothing raises, and every line that makes no sense is kept as a
problem. Formats: the tool's published source, and samples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.ascend.values import Health, Measured, Unmeasured

NUMBER = re.compile(r"[0-9]{1,9}")
MAX_PROBLEMS = 50

_CODE = re.compile(r"[0-9A-Fa-f]{4,8}")
_BLANKS = re.compile(r"\t+|\s{2,}")
_CUT = "npu-smi -t health: the answer ends among its error codes"


@dataclass(frozen=True)
class Mapped:
    """A row of `npu-smi info -m`: the ids of one chip. `logical` is what processes ask for."""

    card: int
    chip: int
    logical: int
    physical: int | None


def parse_mapping(text: str) -> tuple[tuple[Mapped, ...], tuple[str, ...]]:
    """Read `npu-smi info -m` by the names of its columns. Returns rows and problems.

    Rows of the management unit (`Mcu`, logic id `-`) are left out.
    """
    columns: list[str] = []
    rows: list[Mapped] = []
    problems: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        cells = _BLANKS.split(line)
        if "Chip ID" in cells:
            columns = cells
            continue
        named = dict(zip(columns, cells, strict=False))
        if named.get("Chip Name", "").casefold() == "mcu":
            continue
        row = _mapped(named)
        if row is not None:
            rows.append(row)
        elif len(problems) < MAX_PROBLEMS:
            problems.append(f"npu-smi info -m: not a chip: {short(line)}")
    return tuple(rows), tuple(problems)


def _mapped(named: dict[str, str]) -> Mapped | None:
    asked = [named.get(column, "") for column in ("NPU ID", "Chip ID", "Chip Logic ID")]
    # The name stands last: without it a number before it may have been cut.
    if not all(NUMBER.fullmatch(value) for value in asked) or "Chip Name" not in named:
        return None
    card, chip, logical = map(int, asked)
    physical = named.get("Chip Phy-ID", "")
    return Mapped(card, chip, logical, int(physical) if NUMBER.fullmatch(physical) else None)


def parse_total(text: str) -> Measured[int]:
    """The number of cards by `npu-smi info -l`."""
    for label, value in _pairs(text):
        if label == "Total Count" and NUMBER.fullmatch(value):
            return int(value)
    if "There is no NPU card on this server" in text:
        return 0
    return Unmeasured("npu-smi info -l states no Total Count")


@dataclass(frozen=True)
class HealthAnswer:
    """`npu-smi info -t health -i N -c C`: health, error codes, and the tool's texts for them."""

    health: Measured[Health]
    codes: Measured[tuple[str, ...]]
    information: tuple[str, ...] = ()


def parse_health(text: str) -> HealthAnswer:
    """Read the health of one chip. What stands twice (several chips answered) is unmeasured.

    OK without a code is what the tool says, not proof: its source prints OK for a bad state
    that has no code.
    """
    found: dict[str, list[str]] = {}
    for label, value in _pairs(text):
        found.setdefault("Health" if label == "Health Status" else label, []).append(value)
    codes = found.get("Error Code", [])
    return HealthAnswer(
        health_word(_only(found.get("Health", []))),
        _codes(_only(codes)) if _is_ended(text) else Unmeasured(_CUT),
        _information(text),
    )


def _is_ended(text: str) -> bool:
    """Whether there is more than the codes: of an answer cut short the worst may be missing."""
    return "Error Code" not in text.rpartition("\n")[2]


def _only(values: list[str]) -> str:
    return values[0] if len(values) == 1 else ""


def _codes(value: str) -> Measured[tuple[str, ...]]:
    words = value.split()
    if words == ["NA"]:
        return ()
    if words and all(_CODE.fullmatch(word) for word in words):
        return tuple(dict.fromkeys(word.upper() for word in words))
    return Unmeasured(f"npu-smi -t health states no error codes, nor NA: {short(value)}")


def _information(text: str) -> tuple[str, ...]:
    """The lines of `Error Information`; a line that goes on has no label of its own."""
    kept: list[str] = []
    for label, value in _pairs(text):
        if label == "Error Information" or (kept and not label):
            kept.append(value)
    return () if kept == ["NA"] else tuple(kept[:MAX_PROBLEMS])


def _pairs(text: str) -> list[tuple[str, str]]:
    """`label : value` of each line that has a colon; blanks around both are cut."""
    split = (line.partition(":") for line in text.splitlines())
    return [(label.strip(), value.strip()) for label, colon, value in split if colon]


def health_word(word: str) -> Measured[Health]:
    """The health that npu-smi's word stands for."""
    try:
        return Health(word)
    except ValueError:
        return Unmeasured(f"npu-smi states no health that is known: {short(word)}")


def short(text: str, limit: int = 60) -> str:
    """A text in quotes, for a problem that names it."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
