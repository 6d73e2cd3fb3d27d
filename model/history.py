"""The evaluations of a run: one file each, which step is best, and whether to end early."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.config import METRICS
from model.journal import LOGGER
from model.whole_file import sync, write_whole

BEST = "best"
_NAME = re.compile(r"step-(\d{8,})\.json")
_SUPERSEDED = ".superseded.json"


@dataclass(frozen=True)
class Entry:
    """One evaluation: of which step (from 1) and its epoch (from 0), and what was found.

    `checkpoint` is the sha256 of the manifest of what was evaluated, `figures` are those of
    `model.coco_eval.ROWS` by key, from 0 to 1, with the numbers of images and detections.
    """

    step: int
    epoch: int
    checkpoint: str
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Decision:
    """What follows from the evaluations: the best step (None: no evaluation), and the end."""

    best: int | None
    since: int
    """Evaluations in a row, up to the last, that were not better than the best one."""
    stop: bool


def decide(history: Sequence[tuple[int, float]], patience: int) -> Decision:
    """Judge (step, figure) of all evaluations so far, in the order of the steps.

    Better is greater, so of equals the earliest is the best. `patience` evaluations in a row
    without a better one end the training; 0: never.
    """
    best, highest, since = None, float("-inf"), 0
    for step, figure in history:
        if figure > highest:
            best, highest, since = step, figure, 0
        else:
            since += 1
    return Decision(best, since, bool(patience) and since >= patience)


@dataclass(frozen=True)
class History:
    """The folder with a file for every evaluation of a run; it outlives attempts."""

    folder: Path

    def path(self, step: int) -> Path:
        """Where the evaluation of `step` is kept."""
        return self.folder / f"step-{step:08d}.json"

    def write(self, entry: Entry) -> None:
        """Keep an evaluation, whole and on disk or not at all; replaces that of the same step."""
        write_whole(self.path(entry.step), json.dumps(asdict(entry), indent=1).encode() + b"\n")

    def read(self, step: int) -> Entry | None:
        """The evaluation of `step`; None if there is none, or none that can be read."""
        try:
            return _parsed(json.loads(self.path(step).read_bytes()), step)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def until(self, step: int) -> list[Entry]:
        """The evaluations up to and with `step`, in order."""
        found = {known: self.read(known) for known in self._steps() if known <= step}
        for known, entry in found.items():
            if entry is None:
                LOGGER.warning("%s is not as it was written: left out", self.path(known))
        return [entry for entry in found.values() if entry is not None]

    def forget_after(self, step: int) -> None:
        """Put evaluations of later steps aside: the run went back, and will get there again."""
        for later in [known for known in self._steps() if known > step]:
            path = self.path(later)
            os.replace(path, path.with_suffix(_SUPERSEDED))

    def _steps(self) -> list[int]:
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def manifest_of(checkpoint: Path) -> tuple[int, str]:
    """The step of a step directory, and the sha256 of its manifest: which checkpoint it is."""
    from model.checkpoint import MANIFEST

    raw = (checkpoint / MANIFEST).read_bytes()
    return int(json.loads(raw)["step"]), hashlib.sha256(raw).hexdigest()


def point_to_best(directory: Path, step: int | None) -> None:
    """Let the link `best` name the checkpoint of `step` in `directory`, or nothing for None.

    The link is replaced in one move. Whatever keeps it from being made is a warning: no training
    ends for a link.
    """
    link = directory / BEST
    name = None if step is None else f"step-{step:08d}"
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise OSError(f"{link} is there and is no link")
        if name is not None and not (directory / name).is_dir():
            LOGGER.warning("%s, the best so far, is gone: no link names it", directory / name)
            name = None
        _replace_link(link, name)
    except OSError as error:
        LOGGER.warning("the best checkpoint is of step %s, but no link says so: %s", step, error)


def _replace_link(link: Path, name: str | None) -> None:
    if name is None:
        link.unlink(missing_ok=True)
    elif not link.is_symlink() or os.readlink(link) != name:
        aside = link.with_name(f".{link.name}.partial")
        aside.unlink(missing_ok=True)
        os.symlink(name, aside)
        os.replace(aside, link)
        sync(link.parent)


def _parsed(content: dict[str, Any], step: int) -> Entry:
    entry = Entry(**{row.name: content[row.name] for row in fields(Entry)})
    if entry.step != step:
        raise ValueError(f"it is of step {entry.step}")
    for name in METRICS:
        figure = entry.figures[name]
        if not isinstance(figure, int | float) or not -1 <= figure <= 1:
            raise ValueError(f"{name} is {figure!r:.40}")
    return entry
