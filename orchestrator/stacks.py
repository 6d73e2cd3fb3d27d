"""Where hung ranks are, by the stacks that Python's faulthandler wrote of them. Pure.

`parse` reads a dump, `place_of` says what a rank is doing, `verdict` whom that names: one that is
elsewhere while its peers wait inside the framework. Where all look alike nobody is named.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_HEADER = re.compile(r"(Current thread|Thread) (0x[0-9a-fA-F]+)[^\n]*\(most recent call first\):$")
_FRAME = re.compile(
    r'  File (?:"(?P<file>.*)"|\?\?\?), line (?P<line>\d+|\?\?\?) in (?P<function>.*)$'
)


@dataclass(frozen=True)
class Frame:
    """A line of Python that is being executed; `line` None: unknown."""

    file: str
    line: int | None
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line if self.line is not None else '?'} in {self.function}"


@dataclass(frozen=True)
class Thread:
    """A thread's frames, the innermost first; `current`: it took the signal."""

    ident: str
    current: bool
    frames: tuple[Frame, ...]


def parse(dump: str) -> tuple[Thread, ...]:
    """The threads of a dump of `faulthandler`, in its order; what is no part of one is skipped."""
    threads: list[tuple[str, bool, list[Frame]]] = []
    for line in dump.splitlines():
        header = _HEADER.match(line)
        if header:
            threads.append((header[2], header[1] == "Current thread", []))
        elif threads and (frame := _FRAME.match(line)):
            number = frame["line"]
            known = int(number) if number.isdecimal() and len(number) < 10 else None
            threads[-1][2].append(Frame(frame["file"] or "???", known, frame["function"]))
    return tuple(Thread(ident, current, tuple(frames)) for ident, current, frames in threads)


def main_thread(threads: Sequence[Thread]) -> Thread | None:
    """The thread that runs the script: threads are listed the newest first. None: no threads."""
    return threads[-1] if threads else None


class Place(enum.Enum):
    """What a rank is doing; the values stand in sentences: "it is …"."""

    STOPPED = "stopped by a signal"
    DISK = "in uninterruptible sleep"
    DATA = "in the data pipeline"
    USER = "in the job's own Python code"
    LEAVING = "on its way out of Python"
    COLLECTIVE = "in a collective"
    GRAPH = "inside the framework"
    BUSY = "busy inside the framework"
    """Outside training: it compiles or evaluates, and its peers may wait for it in Python."""
    UNCLEAR = "in a call that may wait for the framework"
    UNKNOWN = "nowhere that can be seen"

    @property
    def blames(self) -> bool:
        """Whether a rank there holds up peers that wait for it."""
        return self in _BLAMES

    @property
    def waits(self) -> bool:
        """Whether that is where a rank waits for its peers."""
        return self in (Place.COLLECTIVE, Place.GRAPH)


_SHOWN = 4
_BLAMES = (Place.STOPPED, Place.DISK, Place.DATA, Place.USER, Place.LEAVING)


@dataclass(frozen=True)
class Sight:
    """What was seen of one rank: its process as the kernel has it, its threads, its phase."""

    rank: int
    state: str = ""
    wchan: str = ""
    threads: tuple[Thread, ...] = ()
    phase: str | None = None


@dataclass(frozen=True)
class Found:
    """Where a rank is; `frame` is the line that says so, if there is one, `source` its text."""

    place: Place
    frame: Frame | None = None
    source: str = ""

    def __str__(self) -> str:
        shown = f", {self.frame}" if self.frame else ""
        return f"{self.place.value}{shown}" + (f": {self.source}" if self.source else "")


_COLLECTIVE_FILE = re.compile(
    r"/mindspore/(communication|mint/distributed)/|/mindspore/ops/.*comm|/torch/distributed/"
    r"|/horovod/|/mpi4py/"
)
_COLLECTIVE_NAME = re.compile(
    r"_*(all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier)(_\w+)?", re.IGNORECASE
)
_DATA_FILE = re.compile(
    r"/(mindspore/dataset|torch/utils/data|webdataset|tensorflow/python/data)/"
    r"|(^|/)(\w+_)?(data|datasets?|data_?loaders?|loaders?|data_(pipeline|source|queue)"
    r"|input_pipeline)\.py$"
)
_DATA_NAME = re.compile(r"_*(next|get|load|fetch)_batch|__getitem__|_*collate(_fn)?")
_FRAMEWORK_FILE = re.compile(r"/(mindspore|torch|tensorflow|jax)/")
_LIBRARY_FILE = re.compile(r"/(site|dist)-packages/|/lib(64)?/python3[^/]*/|^<frozen ")
_LEAVING_NAMES = frozenset({"_shutdown", "_run_exitfuncs", "_exit_function", "_python_exit"})


def place_of(sight: Sight) -> Found:
    """What a rank is doing: first by its process, then by its main thread's Python."""
    if sight.state in ("T", "t"):
        return Found(Place.STOPPED)
    main = main_thread(sight.threads)
    by_stack = _by_stack(main.frames, sight) if main else Found(Place.UNKNOWN)
    if by_stack.place.waits and sight.phase not in (None, "train"):
        by_stack = Found(Place.BUSY, by_stack.frame)
    return Found(Place.DISK, by_stack.frame) if sight.state == "D" else by_stack


def _by_stack(frames: Sequence[Frame], sight: Sight) -> Found:
    if not frames or any(frame.function in _LEAVING_NAMES for frame in frames):
        return Found(Place.LEAVING)
    told = [(place, frame) for frame in frames if (place := _place_of_frame(frame))]
    if not told:
        return Found(Place.UNCLEAR, frames[0])
    place, frame = told[0]
    if place is Place.USER and any(outer is Place.DATA for outer, _ in _until_waiting(told)):
        return Found(Place.DATA, frame)
    if place is Place.USER and frame is frames[0] and sight.wchan.startswith("futex"):
        # A tensor that is asked for its value waits like this too, without a frame of its own.
        return Found(Place.UNCLEAR, frame)
    return Found(place, frame)


def _until_waiting(told: Sequence[tuple[Place, Frame]]) -> Iterator[tuple[Place, Frame]]:
    """Outwards as far as the framework: what called that is another matter."""
    for place, frame in told:
        if place.waits:
            return
        yield place, frame


def _place_of_frame(frame: Frame) -> Place | None:
    """What a frame says; None: nothing, as one of a library."""
    library = bool(_LIBRARY_FILE.search(frame.file))
    framework = bool(_FRAMEWORK_FILE.search(frame.file)) and library
    if _COLLECTIVE_FILE.search(frame.file):
        return Place.COLLECTIVE
    if (framework or not library) and _COLLECTIVE_NAME.fullmatch(frame.function):
        return Place.COLLECTIVE
    if framework:
        return Place.DATA if _DATA_FILE.search(frame.file) else Place.GRAPH
    if library:
        return None
    if _DATA_FILE.search(frame.file) or _DATA_NAME.fullmatch(frame.function):
        return Place.DATA
    return Place.USER


@dataclass(frozen=True)
class Verdict:
    """Which ranks hold the others up; none where that cannot be told. `text` says why."""

    ranks: tuple[int, ...]
    text: str


def verdict(found: Mapping[int, Found]) -> Verdict:
    """Whom the places of all ranks of a gang name."""
    waiting = [rank for rank, one in found.items() if one.place.waits]
    stopped = tuple(sorted(rank for rank, one in found.items() if one.place is Place.STOPPED))
    elsewhere = tuple(sorted(rank for rank, one in found.items() if one.place.blames))
    if stopped and len(stopped) < len(found):
        return Verdict(stopped, _named(stopped, found, waiting))
    # Many that are elsewhere may well wait for the few: by files, in Python.
    if elsewhere and (len(elsewhere) <= len(waiting) or len(found) == 1):
        return Verdict(elsewhere, _named(elsewhere, found, waiting))
    return Verdict((), _alike(found))


def _named(ranks: Sequence[int], found: Mapping[int, Found], waiting: Sequence[int]) -> str:
    if len(ranks) == 1:
        told = f"it is {found[ranks[0]]}"
    else:
        told = "; ".join(f"rank {rank} is {found[rank]}" for rank in ranks[:_SHOWN])
    return told + (f", while {_others(waiting, found)}" if waiting else "")


def _others(waiting: Sequence[int], found: Mapping[int, Found]) -> str:
    where = " or ".join(dict.fromkeys(found[rank].place.value for rank in waiting))
    if len(waiting) == 1:
        return f"rank {waiting[0]} waits {where}"
    return f"ranks {_numbers(waiting)} wait {where}"


def _numbers(ranks: Sequence[int]) -> str:
    more = f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else ""
    return ", ".join(map(str, sorted(ranks)[:_SHOWN])) + more


def _alike(found: Mapping[int, Found]) -> str:
    """What is common to all, where nobody can be named."""
    places = {one.place for one in found.values()}
    if len(places) == 1 and places != {Place.UNKNOWN}:
        return f"every rank is {places.pop().value}"
    if places and all(place.waits for place in places):
        return "every rank waits inside the framework"
    return ""
