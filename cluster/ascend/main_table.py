"""The main table, `npu-smi info`, as values. Pure; nothing raises.

Cells are split at `|` and blanks, never by column: the table exists in at least two widths (older
and 2026 sources of the tool). Every line that makes no sense is kept as a problem.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from cluster.ascend.npu_smi import MAX_PROBLEMS, NUMBER, health_word, short
from cluster.ascend.values import Health, Measured, Memory, Process, Unmeasured

_BUS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]{1,2}")
_RULE = re.compile(r"[+=|\-\s]*")
_PAIR = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9})", re.ASCII)
_IDLE = re.compile(r"No running processes found in NPU (\d{1,9})", re.ASCII)
_VERSION = re.compile(r"npu-smi\s.*Version:\s*(.*)")
_HELD = "Process memory(MB)"


@dataclass(frozen=True)
class Chip:
    """One chip of the main table. `physical` is stated by tables with a Phy-ID column (A3) only."""

    card: int
    chip: int
    physical: int | None
    name: str
    health: Measured[Health]
    bus_id: str
    memory: Measured[Memory]


@dataclass(frozen=True)
class MainTable:
    """`npu-smi info`: chips in the order of the table, and what runs on them by (card, chip).

    `idle` are cards that the tool says nobody uses; `problems` are lines that made no sense.
    """

    version: str = ""
    chips: tuple[Chip, ...] = ()
    running: tuple[tuple[int, int, Process], ...] = ()
    idle: frozenset[int] = frozenset()
    complete: bool = True
    problems: tuple[str, ...] = ()

    def processes(self, card: int, chip: int) -> Measured[tuple[Process, ...]]:
        """Who runs on a chip. A card that the table says nothing of is not known to be free."""
        found = tuple(p for c, d, p in self.running if (c, d) == (card, chip))
        if found or card in self.idle:
            return found
        if not self.complete:
            return Unmeasured("a row of npu-smi's process table cannot be read")
        if any(c == card for c, _, _ in self.running):
            return ()
        return Unmeasured("npu-smi's process table says nothing of this card")


@dataclass
class _Reading:
    """The state while a table is read, line by line."""

    version: str = ""
    chips: list[Chip] = field(default_factory=list)
    running: list[tuple[int, int, Process]] = field(default_factory=list)
    idle: set[int] = field(default_factory=set)
    complete: bool = True
    problems: list[str] = field(default_factory=list)
    card: tuple[int, str, Measured[Health]] | None = None
    process_columns: tuple[str, ...] = ()
    unended: bool = False
    """Whether the last row was a process: a rule follows the processes of every card."""

    def wrong(self, number: int, why: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"npu-smi info, line {number}: {why}")


def parse_table(text: str) -> MainTable:
    """Read the output of `npu-smi info`. A chip listed twice has no health that could be told."""
    reading = _Reading()
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        _line(reading, number, line)
    if reading.card is not None:
        reading.wrong(len(lines), f"NPU {reading.card[0]} has no line for its chip")
    if reading.unended:
        reading.complete = False
        reading.wrong(len(lines), "the table ends among processes")
    return MainTable(
        version=reading.version,
        chips=_once_each(reading, len(lines)),
        running=tuple(reading.running),
        idle=frozenset(reading.idle),
        complete=reading.complete,
        problems=tuple(reading.problems),
    )


def _line(reading: _Reading, number: int, line: str) -> None:
    line = line.strip()
    if _RULE.fullmatch(line):
        reading.unended = reading.unended and "+" not in line
        return
    if len(line) < 2 or line[0] != "|" or line[-1] != "|":
        reading.wrong(number, f"not a row of the table: {short(line)}")
        return
    cells = [cell.strip() for cell in line[1:-1].split("|")]
    title, idle = _VERSION.match(cells[0]), _IDLE.match(cells[0])
    if len(cells) == 1 and title:
        reading.version = title[1].strip()
    elif len(cells) == 1 and idle:
        reading.idle.add(int(idle[1]))
    elif cells[0].split()[:1] in (["NPU"], ["Chip"]):
        reading.process_columns = tuple(cells) if "Process id" in cells else ()
    elif reading.process_columns:
        _process(reading, number, cells)
    elif len(cells) == 3 and _BUS.fullmatch(cells[1]):
        _chip(reading, number, cells)
    else:
        _card(reading, number, cells)


def _card(reading: _Reading, number: int, cells: list[str]) -> None:
    """The first line of a device: NPU id, name, health, and figures that nobody asked for."""
    if reading.card is not None:
        reading.wrong(number, f"NPU {reading.card[0]} has no line for its chip")
        reading.card = None
    words = cells[0].split()
    if len(cells) != 3 or len(words) != 2 or not NUMBER.fullmatch(words[0]):
        reading.wrong(number, f"neither a card nor a chip: {short(' | '.join(cells))}")
        return
    health = health_word(cells[1])
    if isinstance(health, Unmeasured):
        reading.wrong(number, health.why)
    reading.card = (int(words[0]), words[1], health)


def _chip(reading: _Reading, number: int, cells: list[str]) -> None:
    """The second line of a device: chip, physical id where there is one, bus id, memory."""
    ids = cells[0].split()
    card, reading.card = reading.card, None
    if card is None:
        reading.wrong(number, "a chip without the line of its card before it")
    elif not 1 <= len(ids) <= 2 or not all(NUMBER.fullmatch(word) for word in ids):
        reading.wrong(number, f"chip {short(cells[0])}: not a number, or two of them on A3")
    else:
        physical = int(ids[1]) if len(ids) == 2 else None
        memory = _memory(cells[2])
        if isinstance(memory, Unmeasured):
            reading.wrong(number, memory.why)
        number_of, name, health = card
        reading.chips.append(Chip(number_of, int(ids[0]), physical, name, health, cells[1], memory))


def _process(reading: _Reading, number: int, cells: list[str]) -> None:
    """A row by the names of its columns: some tools add one. A process may have no name."""
    named = dict(zip(reading.process_columns, cells, strict=False))
    reading.unended = True
    ids, pid, memory = cells[0].split(), named.get("Process id", ""), named.get(_HELD, "")
    numbers = (*ids, pid, memory)
    if len(ids) != 2 or not all(NUMBER.fullmatch(text) for text in numbers):
        reading.complete = False
        reading.wrong(number, f"not a process: {short(' | '.join(cells))}")
        return
    process = Process(int(pid), named.get("Process name", ""), int(memory))
    reading.running.append((int(ids[0]), int(ids[1]), process))


def _memory(cell: str) -> Measured[Memory]:
    """HBM where there is any, else DDR; `AICore% used / total used / total`, blanks optional."""
    for used, total in reversed(_PAIR.findall(cell)):
        if 0 < int(total) >= int(used):
            return Memory(int(used), int(total))
    return Unmeasured(f"npu-smi states no memory: {short(cell)}")


def _once_each(reading: _Reading, end: int) -> tuple[Chip, ...]:
    """The chips, those that stand twice once, without health."""
    found: dict[tuple[int, int], Chip] = {}
    for chip in reading.chips:
        key = (chip.card, chip.chip)
        if key in found:
            why = f"NPU {chip.card} chip {chip.chip} is listed twice"
            reading.wrong(end, why)
            chip = replace(found[key], health=Unmeasured(f"{why} by npu-smi"))
        found[key] = chip
    return tuple(found.values())
