"""Checkpoints: directories that are complete or not there at all.

`step-00000040/` holds `model.ckpt` (every parameter, momentum and rank 0's statistics, under the
original's names), `ema.ckpt` (their moving average, if there is one, under the network's names),
`rank-K.ckpt` (the batch-normalisation statistics of rank K > 0, which each
rank has its own of), `state.json`, and `MANIFEST.json` with size and sha256 of the others.

All ranks write into one directory aside, whose name holds the attempt; each part appears under
its name only when it is whole and on disk. Rank 0 waits for all, writes the manifest and renames
the directory: a kill at any moment leaves the earlier checkpoints and at most a directory aside.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from model.averaging import PREFIX as AVERAGED
from model.whole_file import sync

FORMAT = 1
MODEL = "model.ckpt"
AVERAGE = "ema.ckpt"
STATE = "state.json"
MANIFEST = "MANIFEST.json"
PREFIX = "yolo_network."
KEPT = "kept."
"""Begins the names of copies that are no state of their own: checkpoints leave them out."""
STATISTICS = (".moving_mean", ".moving_variance")
CATEGORIES = "categories.json"
WAIT_SECONDS = 600.0

_ASIDE = re.compile(r"\.(?P<final>step-\d{8,})\.attempt-(?P<attempt>\d+)(?P<was>\.replaced)?\.tmp$")
_POLL_SECONDS = 0.02
_BLOCK = 1 << 20


def part_of(rank: int) -> str:
    """The file that holds one rank's share of a checkpoint."""
    return MODEL if rank == 0 else f"rank-{rank}.ckpt"


def parts_of(world_size: int, *, averaged: bool = False) -> list[str]:
    """Every file of a checkpoint but the manifest."""
    average = [AVERAGE] if averaged else []
    return [*(part_of(rank) for rank in range(world_size)), *average, STATE]


@dataclass(frozen=True)
class TrainingState:
    """What state.json holds: where the run stands after `step`, and what it depends on.

    `epoch` and `batch` are those of the next batch, both from 0; `next_step` is the global index
    from 0 that the data pipeline continues with. `categories` are rows of index, id and name.
    """

    step: int
    epoch: int
    batch: int
    next_step: int
    seed: int
    learning_rate: float
    loss_scale: dict[str, Any]
    categories: list[dict[str, Any]]
    configuration: str
    world_size: int
    threads: str
    backend: str
    mindspore: str

    def differences(self, other: TrainingState) -> list[str]:
        """In which of the things that exactness depends on `other` is not like this state."""
        names = ("seed", "configuration", "threads", "backend", "mindspore")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [f"{name}: {mine} then, {its} now" for name, mine, its in pairs if mine != its]


@dataclass(frozen=True)
class CheckpointWriter:
    """One process's hand in writing checkpoints below `directory`.

    `rank` is the first of the ranks that it computes, of `world_size` in the whole job.
    """

    directory: Path
    rank: int
    world_size: int
    attempt: int
    wait_seconds: float = WAIT_SECONDS

    def clear_leftovers(self) -> None:
        """Remove what this or an earlier attempt left unfinished; rank 0, before the first step.

        A checkpoint that lost its name to one which then never got it has it again.
        """
        if self.rank or not self.directory.is_dir():
            return
        for entry in list(self.directory.iterdir()):
            match = _ASIDE.match(entry.name)
            if match is None or int(match["attempt"]) > self.attempt:
                continue
            if match["was"] and not (self.directory / match["final"]).exists():
                os.rename(entry, self.directory / match["final"])
            else:
                shutil.rmtree(entry, ignore_errors=True)

    def save(
        self,
        network: nn.Cell,
        state: TrainingState,
        others: Sequence[dict[str, Parameter]] = (),
    ) -> Path:
        """Write the checkpoint of `state.step`; returns once it has its final name.

        `others` are the statistics of the virtual ranks that follow `rank` in this process.
        Every rank calls this after the same step. Raises FloatingPointError if a parameter is not
        finite (such a state is of no use to anybody), OSError with its errno if the disk is full,
        TimeoutError that names the missing ranks.
        """
        final = self.directory / f"step-{state.step:08d}"
        aside = self.directory / f".step-{state.step:08d}.attempt-{self.attempt:03d}.tmp"
        self.directory.mkdir(parents=True, exist_ok=True)
        aside.mkdir(exist_ok=True)
        parameters, averages = split_average(network)
        share = statistics_of(parameters) if self.rank else parameters
        write_part(aside, part_of(self.rank), share)
        for number, statistics in enumerate(others, self.rank + 1):
            write_part(aside, part_of(number), statistics)
        if self.rank:
            self._await(lambda: final.is_dir() and not aside.is_dir(), lambda: [0])
            return final
        if averages:
            write_part(aside, AVERAGE, averages)
        write_json(aside / STATE, asdict(state))
        self._await(lambda: not _missing(aside, self.world_size),
                    lambda: _missing(aside, self.world_size))  # fmt: skip
        parts = parts_of(self.world_size, averaged=bool(averages))
        write_manifest(aside, state.step, self.world_size, parts)
        _publish(aside, final)
        return final

    def _await(self, reached: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while not reached():
            if time.monotonic() > deadline:
                ranks = ", ".join(map(str, missing()))
                raise TimeoutError(
                    f"rank {self.rank} waited {self.wait_seconds:g} s for the checkpoint part of "
                    f"rank {ranks} in {self.directory}"
                )
            time.sleep(_POLL_SECONDS)


def split_average(network: nn.Cell) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """Parameters by name, and those of the moving average by the name of what they follow.

    The latter is without the prefix of a training checkpoint, as a file of weights alone is.
    """
    own: dict[str, Parameter] = {}
    averages: dict[str, Parameter] = {}
    for parameter in network.get_parameters():
        name = parameter.name
        if name.startswith(KEPT):
            continue
        if name.startswith(AVERAGED):
            averages[name.removeprefix(AVERAGED).removeprefix(PREFIX)] = parameter
        else:
            own[name] = parameter
    return own, averages


def statistics_of(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """Those parameters that differ between ranks: batch normalisation's moving statistics."""
    return {name: row for name, row in parameters.items() if name.endswith(STATISTICS)}


def write_part(directory: Path, name: str, parameters: dict[str, Parameter]) -> None:
    """Write a MindSpore checkpoint file that appears under `name` whole and on disk, or not.

    `parameters` go by their names in the file. Raises FloatingPointError for one that is not
    finite, OSError (ENOSPC, ...).
    """
    for parameter in parameters.values():
        if not np.isfinite(parameter.asnumpy()).all():
            raise FloatingPointError(f"{parameter.name} is not finite: no checkpoint is written")
    partial = directory / f".{Path(name).stem}.partial.ckpt"
    rows = [{"name": called, "data": parameter} for called, parameter in parameters.items()]
    try:
        ms.save_checkpoint(rows, str(partial))
        # MindSpore only logs a failed rename; and a file nobody else may read is of little use.
        expected = sum(parameter.nbytes for parameter in parameters.values())
        if not partial.is_file() or partial.stat().st_size < expected:
            raise OSError(errno.EIO, "MindSpore left no whole file", str(partial))
        partial.chmod(0o644)
        sync(partial)
        os.rename(partial, directory / name)
    except BaseException:
        for leftover in (partial, partial.with_suffix(".tmp")):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that appears whole and on disk, or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def write_manifest(directory: Path, step: int, world_size: int, parts: Sequence[str]) -> None:
    """Write MANIFEST.json for the `parts` that lie in `directory`."""
    files = {}
    for name in parts:
        size, digest = measure(directory / name)
        files[name] = {"size": size, "sha256": digest}
    manifest = {"format": FORMAT, "step": step, "world_size": world_size, "files": files}
    write_json(directory / MANIFEST, manifest)


def measure(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            digest.update(block)
    return size, digest.hexdigest()


def link_original_name(checkpoint: Path, folder: Path, epoch: int, step: int) -> Path:
    """Give `model.ckpt` the original's name below `folder`: `0-EPOCH_STEP.ckpt`, EPOCH from 1.

    A hard link (a symbolic one across file systems). Earlier links whose checkpoint has been
    deleted go: they would hold the space that deleting it was to free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("0-*_*.ckpt"):
        if not old.exists() or (not old.is_symlink() and old.stat().st_nlink == 1):
            old.unlink(missing_ok=True)
    _leave_categories(checkpoint, folder)
    link = folder / f"0-{epoch}_{step}.ckpt"
    link.unlink(missing_ok=True)
    source = checkpoint / MODEL
    try:
        os.link(source, link)
    except OSError:
        link.symlink_to(source.resolve())
    return link


def save_own_copy(
    network: nn.Cell,
    checkpoint: Path,
    folder: Path,
    name: str,
    statistics: Mapping[str, Parameter] | None = None,
) -> None:
    """Write all parameters of a rank as `name` below `folder`, beside the common checkpoint.

    `statistics` are put in place of the network's own, for another of its virtual ranks.

    For users of `is_save_on_master=0`. Earlier copies go with the checkpoints they belong to.
    Raises as `write_part`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*-*_*.ckpt"):
        step = old.stem.rpartition("_")[2]
        if step.isdigit() and not (checkpoint.parent / f"step-{int(step):08d}").exists():
            old.unlink(missing_ok=True)
    _leave_categories(checkpoint, folder)
    write_part(folder, name, {**split_average(network)[0], **(statistics or {})})


def _leave_categories(checkpoint: Path, folder: Path) -> None:
    """Say beside files of weights, which do not, what their classes are."""
    write_json(folder / CATEGORIES, json.loads((checkpoint / STATE).read_bytes())["categories"])


def _missing(aside: Path, world_size: int) -> list[int]:
    return [rank for rank in range(world_size) if not (aside / part_of(rank)).is_file()]


def _publish(aside: Path, final: Path) -> None:
    """Give a complete directory its final name, durably."""
    sync(aside)
    if final.exists():
        # A run that fell back past this step has reached it again: the new one is wanted.
        replaced = aside.with_name(aside.name.replace(".tmp", ".replaced.tmp"))
        os.rename(final, replaced)
        # Killed here, neither has the name: whoever looks next gives it back to the old one.
        os.rename(aside, final)
        sync(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        os.rename(aside, final)
        sync(final.parent)
