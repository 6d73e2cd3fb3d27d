"""Snapshots seen by the controller: which are whole, how one becomes a checkpoint.

A snapshot is not a checkpoint of record: one that is broken is dropped, and no run is kept from
anything by its loss. `whole` is pure; the rest reads and writes slots while no trainer runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoints import FORMAT, MANIFEST, Broken, Checkpoint, Verified, sha256, verify
from orchestrator.layout import (
    SNAPSHOT_SLOTS,
    promotion,
    read_json,
    snapshot_seal,
    snapshot_slot,
    sync_directory,
    write_json,
)
from orchestrator.snapshot_slots import SEAL_FORMAT


@dataclass(frozen=True)
class Snapshot:
    """A slot in which every rank has sealed the same step of the same attempt.

    `files`: size, and sha256 where its rank had worked it out before it ended, by name.
    """

    path: Path
    step: int
    attempt: int
    world_size: int
    files: Mapping[str, tuple[int, str | None]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def whole(path: Path, seals: Mapping[int, Any]) -> Snapshot | None:
    """The snapshot that these seals, by rank, vouch for; None if they do not agree."""
    try:
        first = seals[0]
        common = [first[key] for key in _COMMON]
        size = int(first["world_size"])
        files: dict[str, tuple[int, str | None]] = {}
        for rank in range(size):
            if seals[rank]["rank"] != rank or [seals[rank][key] for key in _COMMON] != common:
                return None
            for name, entry in seals[rank]["files"].items():
                files[str(name)] = (int(entry["size"]), entry["sha256"])
        if first["format"] != SEAL_FORMAT or not files:
            return None
        return Snapshot(path, int(first["step"]), int(first["attempt"]), size, files)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


_COMMON = ("format", "step", "attempt", "world_size")


def found(place: Path | None) -> list[Snapshot]:
    """The whole snapshots in a run's place, newest first."""
    if place is None:
        return []
    slots = (snapshot_slot(place, number) for number in range(SNAPSHOT_SLOTS))
    read = (whole(slot, dict(_seals(slot))) for slot in slots)
    return sorted((one for one in read if one), key=lambda one: one.step, reverse=True)


def _seals(slot: Path) -> Iterator[tuple[int, Any]]:
    """The seals in a slot from rank 0 on, as far as they go."""
    rank = 0
    while (seal := read_json(snapshot_seal(slot, rank))) is not None:
        yield rank, seal
        rank += 1


def verified(snapshot: Snapshot, world_size: int) -> Verified | Broken:
    """Give it a manifest, which makes the slot a checkpoint, and read every byte of it."""
    path, step = snapshot.path, snapshot.step
    if snapshot.world_size != world_size:
        reason = f"taken by {snapshot.world_size} ranks, but the job has {world_size}"
        return Broken(path, step, reason)
    try:
        files = {
            name: {"size": size, "sha256": digest or sha256(path / name)}
            for name, (size, digest) in snapshot.files.items()
        }
        head = {"format": FORMAT, "step": step, "world_size": world_size}
        write_json(path / MANIFEST, {**head, "files": files}, durable=False)
    except OSError as error:
        return Broken(path, step, f"{error.filename or path}: {error.strerror}")
    return verify(Checkpoint(path, step))


def drop(slot: Path) -> None:
    """Take a snapshot away: its memory is free, and nobody tries it again."""
    shutil.rmtree(slot, ignore_errors=True)


def promote(snapshot: Verified, checkpoints: Path) -> Path:
    """Make a durable checkpoint of a snapshot: aside, fsync, rename, fsync of the directory.

    Raises OSError, leaving nothing; ValueError if the copy is not what the manifest says.
    """
    final, aside = promotion(checkpoints, snapshot.step)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        manifest: Any = read_json(snapshot.path / MANIFEST)
        for name in (*manifest["files"], MANIFEST):
            _copy(snapshot.path / name, aside / name)
        copy = verify(Checkpoint(aside, snapshot.step))
        if not isinstance(copy, Verified) or copy.digest != snapshot.digest:
            raise ValueError(getattr(copy, "reason", "another manifest"))
        sync_directory(aside)
        # Until here a kill leaves a directory aside, from here on a checkpoint.
        os.rename(aside, final)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside)
        raise
    sync_directory(checkpoints)
    return final


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
