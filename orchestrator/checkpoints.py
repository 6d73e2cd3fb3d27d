"""The catalogue of a run's checkpoints: verify before use, quarantine, fall back, retain.

A checkpoint is a directory `step-%08d/` with a MANIFEST.json that was written last:
`{"format": 1, "step": N, "world_size": W, "files": {name: {"size": …, "sha256": …}}}`.
Its digest is the sha256 of that manifest. Whatever has another name is no checkpoint, and no link
is one. A link `best` names the one that its trainer holds for the best.
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
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.layout import sync_directory, write_json

FORMAT = 1
MANIFEST = "MANIFEST.json"
MODEL = "model.ckpt"
BEST = "best"

_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED = re.compile(r"\.step-\d{8,}\..*")
_REPLACED = re.compile(r"\.(step-\d{8,})\..*\.replaced\.tmp")
_MANIFEST_LIMIT = 16 << 20
_BLOCK = 1 << 20
_NO_LINK = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory by its name; nothing is known yet of its content."""

    path: Path
    step: int


@dataclass(frozen=True)
class Verified:
    """A checkpoint whose every byte is as its manifest says."""

    path: Path
    step: int
    digest: str
    world_size: int


@dataclass(frozen=True)
class Broken:
    """A checkpoint that cannot be used, and why."""

    path: Path
    step: int
    reason: str


def catalogue(directory: Path) -> list[Checkpoint]:
    """The checkpoints in a directory, newest step first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [
        Checkpoint(directory / name, int(match[1]))
        for name in names
        if (match := _NAME.fullmatch(name)) and _is_real_directory(directory / name)
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def best(directory: Path) -> Path | None:
    """The checkpoint that the link `best` names, whether it is there or not; None without one.

    The link's text must be the bare name of a checkpoint: it is read and never followed, so it
    cannot lead out of the directory. Raises OSError of a storage that fails.
    """
    try:
        name = os.readlink(directory / BEST)
    except OSError as error:
        if error.errno in _NO_LINK:
            return None
        raise
    return directory / name if _NAME.fullmatch(name) else None


def verify(checkpoint: Checkpoint) -> Verified | Broken:
    """Read every byte of a checkpoint and compare it with its manifest."""

    def broken(reason: str) -> Broken:
        return Broken(checkpoint.path, checkpoint.step, reason)

    try:
        manifest, digest = _read_manifest(checkpoint.path)
        problem = _contradiction(checkpoint, manifest)
        for name, stated in {} if problem else manifest["files"].items():
            problem = problem or _file_problem(checkpoint.path, name, stated)
        world_size = int(manifest["world_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return broken(f"{MANIFEST}: {type(error).__name__}: {error}")
    if problem:
        return broken(problem)
    return Verified(checkpoint.path, checkpoint.step, digest, world_size)


def newest_usable(
    directory: Path, *, world_size: int, refused: Sequence[Path] = (), at_least: int = 0
) -> Iterator[Verified | Broken]:
    """Verify from the newest on: yields what is broken, then the first that is whole, and ends.

    None before step `at_least` is looked at.
    """
    for checkpoint in catalogue(directory):
        if checkpoint.path in refused or checkpoint.step < at_least:
            continue
        result = verify(checkpoint)
        if isinstance(result, Verified) and result.world_size != world_size:
            result = Broken(
                result.path,
                result.step,
                f"saved by {result.world_size} ranks, but the job has {world_size}",
            )
        yield result
        if isinstance(result, Verified):
            return


def quarantine(broken: Broken, directory: Path) -> Path:
    """Move a broken checkpoint aside with its reason, so that it is never tried again."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{broken.path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.split('~')[0]}~{number}")
    os.rename(broken.path, target)
    sync_directory(broken.path.parent)
    sync_directory(directory)
    try:
        write_json(
            target / "REASON.json",
            {"step": broken.step, "reason": broken.reason, "time": time.time()},
        )
    except OSError:
        # A full disk must not keep a broken checkpoint in place; the journal has the reason.
        return target
    return target


def expendable(
    checkpoints: Sequence[Verified | Broken], keep: int, spared: Collection[Path] = ()
) -> list[Path]:
    """Which checkpoints retention may delete, given all of them, newest first.

    Only what is older than `keep` verified ones goes; so the last verified one never does,
    and a broken one stays until enough good ones have replaced it. `spared` stay, however old.
    """
    verified = 0
    gone = []
    for checkpoint in checkpoints:
        if verified >= max(1, keep):
            if checkpoint.path not in spared:
                gone.append(checkpoint.path)
        elif isinstance(checkpoint, Verified):
            verified += 1
    return gone


def fallbacks(checkpoints: Sequence[Verified | Broken], agreed: Iterable[int]) -> set[Path]:
    """What is left to a run whose ranks turn out to differ, given all checkpoints, newest first.

    `agreed` are the steps that may then be the last after which all had the same: the newest
    verified one at or before each of them, where there is none the oldest of all.
    """
    verified = [one for one in checkpoints if isinstance(one, Verified)]
    if not verified:
        return set()
    return {
        next((one.path for one in verified if one.step <= step), verified[-1].path)
        for step in agreed
    }


def sweep(directory: Path) -> None:
    """Remove what was never finished: parts under a temporary name, half-deleted ones.

    Only while no trainer runs. What cannot be removed stays: it is in nobody's way.
    """
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if _UNFINISHED.fullmatch(name) and not _put_back(directory, name):
            shutil.rmtree(directory / name, ignore_errors=True)


def _put_back(directory: Path, name: str) -> bool:
    """Whether this was a whole checkpoint that was to be replaced when its trainer was killed.

    It had lost its name and the new one had not got it yet: it has it again.
    """
    match = _REPLACED.fullmatch(name)
    if match is None or os.path.lexists(directory / match[1]):
        return False
    with contextlib.suppress(OSError):
        os.rename(directory / name, directory / match[1])
        sync_directory(directory)
    return True


def size(path: Path) -> int:
    """Bytes of a checkpoint's files; 0 for one that is not there."""
    try:
        with os.scandir(path) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0


def delete(path: Path) -> None:
    """Remove a checkpoint: it loses its name first, so that a kill leaves no half of one."""
    doomed = path.with_name(f".{path.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _is_real_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    with open(path / MANIFEST, "rb") as file:
        raw = file.read(_MANIFEST_LIMIT + 1)
    if len(raw) > _MANIFEST_LIMIT:
        raise ValueError(f"longer than {_MANIFEST_LIMIT} bytes")
    manifest = json.loads(raw)
    if not isinstance(manifest, dict):
        raise ValueError("not a JSON object")
    return manifest, hashlib.sha256(raw).hexdigest()


def _contradiction(checkpoint: Checkpoint, manifest: dict[str, Any]) -> str | None:
    if manifest["format"] != FORMAT:
        return f"{MANIFEST}: format {manifest['format']!r}, this release reads {FORMAT}"
    if manifest["step"] != checkpoint.step:
        return f"{MANIFEST}: of step {manifest['step']}, in a directory of step {checkpoint.step}"
    if not manifest["files"]:
        return f"{MANIFEST}: lists no file"
    return None


def _file_problem(directory: Path, name: str, stated: dict[str, Any]) -> str | None:
    if "/" in name or name in ("", ".", ".."):
        return f"{MANIFEST}: {name!r} is not a file name"
    path = directory / name
    try:
        size = path.stat().st_size
        if size != stated["size"]:
            return f"{name}: {size} bytes, the manifest says {stated['size']}"
        if sha256(path) != stated["sha256"]:
            return f"{name}: its sha256 is not what the manifest says"
    except OSError as error:
        return f"{name}: {error.strerror}"
    return None


def sha256(path: Path) -> str:
    """The digest of a file's content, as hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
