"""Make a small data set in COCO form for rehearsals: deterministic, complete or not there.

``python -m model.rehearsal_data DIR --images N --seed S`` writes N training images, a quarter as
many held-out ones from another stream of the seed, and their annotations. Called again with the
same arguments it checks what is there and leaves it; with others it refuses without ``--force``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.data_error import DataError
from model.rehearsal_shapes import CLASSES, Difficulty, draw_picture

STAMP = "rehearsal.json"
FORMAT = 1
"""Raise it when the same recipe gives other pictures."""
DEFAULT_SIZE = 128
SMALLEST_SIZE = 32
JPEG_QUALITY = 92
_FIRST_ID = {"train2017": 1, "val2017": 1_000_001}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that the data set is a function of."""

    images: int
    val_images: int
    seed: int
    size: int = DEFAULT_SIZE
    difficulty: Difficulty = Difficulty()

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.images < 1 or self.val_images < 1:
            raise ValueError(f"--images {self.images}, --val-images {self.val_images}: at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: at least 0")
        if self.size < SMALLEST_SIZE:
            raise ValueError(f"--size {self.size}: at least {SMALLEST_SIZE} pixels")

    def to_json(self) -> dict[str, Any]:
        """Return the form that the stamp holds."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.loads(json.dumps(content))


def make(directory: str | Path, recipe: Recipe, *, force: bool = False) -> bool:
    """Make the data set at ``directory``; return whether anything was written.

    It is made under another name and renamed, so that ``directory`` is whole or absent at any
    instant. Raises DataError if something else is there: a data set of another recipe or a damaged
    one is replaced with ``force``, anything that this program did not make is never touched.
    """
    target = Path(os.path.abspath(directory))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.parent):
        reason = _why_not_usable(target, recipe)
        if reason is None:
            return False
        if reason and not force:
            raise DataError(str(target), [f"{reason}; use --force to replace it"])
        aside, old = (target.with_name(f".{target.name}.{role}") for role in ("making", "old"))
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _write_all(aside, recipe)
            if target.exists():
                target.rename(old)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    return True


@contextlib.contextmanager
def _only_one(parent: Path) -> Iterator[None]:
    """Let one maker work below ``parent`` at a time, where the file system can lock."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _why_not_usable(target: Path, recipe: Recipe) -> str | None:
    """Return None if ``target`` is this very data set, "" if it is free, else what is there."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return ""
    try:
        stamp = json.loads((target / STAMP).read_text())
        made_as, digest = stamp["recipe"], stamp["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        message = f"there is something that is no rehearsal data set (no readable {STAMP})"
        raise DataError(str(target), [f"{message}; choose another directory"]) from None
    if made_as != recipe.to_json():
        return f"there is a rehearsal data set made otherwise ({_differences(made_as, recipe)})"
    if _digest(target) != digest:
        return "there is this rehearsal data set, but its files have changed"
    return None


def _differences(made_as: Any, recipe: Recipe) -> str:
    wanted = recipe.to_json()
    if not isinstance(made_as, dict):
        return "unknown recipe"
    return ", ".join(
        f"{key} {made_as.get(key)!r}, asked for {wanted[key]!r}"
        for key in wanted
        if made_as.get(key) != wanted[key]
    )


def _write_all(directory: Path, recipe: Recipe) -> None:
    for stream, split in enumerate(_FIRST_ID):
        count = recipe.images if split == "train2017" else recipe.val_images
        _write_split(directory, recipe, split, stream, count)
    stamp = {"recipe": recipe.to_json(), "digest": _digest(directory)}
    _write(directory / STAMP, json.dumps(stamp, indent=1).encode())
    for folder in (directory, *(path for path in directory.iterdir() if path.is_dir())):
        _sync_directory(folder)


def _write_split(directory: Path, recipe: Recipe, split: str, stream: int, count: int) -> None:
    """Write one split; each picture is a function of (seed, stream, its number)."""
    cv2.setNumThreads(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (directory / split).mkdir(parents=True)
    for number in range(count):
        words = np.random.SeedSequence([recipe.seed, stream, number])
        rng = np.random.Generator(np.random.Philox(words))
        picture = draw_picture(rng, recipe.size, recipe.difficulty)
        image_id = _FIRST_ID[split] + number
        name = f"{image_id:012d}.jpg"
        _, encoded = cv2.imencode(".jpg", picture.pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _write(directory / split / name, encoded.tobytes())
        images.append(
            {"id": image_id, "file_name": name, "width": recipe.size, "height": recipe.size}
        )
        for category, *box in picture.objects:
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                "bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": c.id, "name": c.name, "supercategory": "shape"} for c in CLASSES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (directory / "annotations").mkdir(exist_ok=True)
    file = directory / "annotations" / f"instances_{split}.json"
    _write(file, json.dumps(content).encode())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(directory: Path) -> str:
    """Return the SHA-256 over names and contents of all files but the stamp."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name != STAMP:
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.rehearsal_data", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="where to make the data set")
    parser.add_argument("--images", type=int, default=256, help="training images (256)")
    parser.add_argument("--val-images", type=int, help="held-out images (a quarter of --images)")
    parser.add_argument("--seed", type=int, default=1, help="what all randomness comes from (1)")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="side in pixels (128)")
    parser.add_argument("--force", action="store_true", help="replace one made otherwise")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 64 for wrong usage, 65 if it refuses."""
    options = _parser().parse_args(arguments)
    held_out = options.val_images
    if held_out is None:
        held_out = max(1, options.images // 4)
    try:
        recipe = Recipe(options.images, held_out, options.seed, options.size)
        written = make(options.directory, recipe, force=options.force)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 64
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    done = "made" if written else "already there, unchanged:"
    print(f"{done} {options.directory}: {recipe.images} training and {held_out} held-out images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
