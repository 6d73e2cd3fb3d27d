"""Images to detect objects in: a folder of them or single files, with annotations or without."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from model.coco_scan import CocoImage, SplitScan, scan
from model.data_error import EXIT_NOT_READABLE, DataError, Problems
from model.image_file import MAX_PIXELS, MISSING, UNDECODABLE, Flaw, load_image, read_header

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_TRAILING_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Picture:
    """An image file with its id, and what the annotations say of it if there are any."""

    id: int
    path: Path
    annotation: CocoImage | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that was passed over, and why."""

    path: Path
    reason: str


class _AllowMissing(Problems):
    """Notes all mistakes but images that are not there: a folder may hold a part of them."""

    def add(
        self, message: str, *, kind: str = "", image_id: int | None = None, missing: bool = False
    ) -> None:
        if kind != MISSING:
            super().add(message, kind=kind, image_id=image_id, missing=missing)


def annotated(file: str | Path, folder: Path | None = None) -> SplitScan:
    """Read an annotation file whose images lie in `folder`; raises DataError."""
    place = (folder or Path(file).parent).resolve()
    problems = _AllowMissing(str(file))
    found = scan(place.parent, place.name, problems, annotation_file=file)
    problems.stop_if_any()
    return found


def files_in(folder: Path) -> list[Path]:
    """The image files of `folder` by name; raises DataError, 66 if it cannot be read."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        problem = f"{error.strerror or error}; give a folder of images"
        raise DataError(str(folder), [problem], EXIT_NOT_READABLE) from error
    if not found:
        raise DataError(str(folder), [f"no image in it ({', '.join(sorted(SUFFIXES))})"])
    return found


def numbered(files: Sequence[Path]) -> list[Picture]:
    """Give ids to files without annotations.

    They are the numbers at the ends of the names, as COCO's are, if all have one and they differ;
    else they count from 1.
    """
    matches = [_TRAILING_NUMBER.search(path.stem) for path in files]
    ids = [int(match[1]) for match in matches if match]
    if len(set(ids)) != len(files) or max(ids, default=0) >= 1 << 53:
        ids = list(range(1, len(files) + 1))
    return [Picture(number, path) for number, path in zip(ids, files, strict=True)]


def with_annotations(
    files: Sequence[Path], found: SplitScan
) -> tuple[list[Picture], list[Skipped]]:
    """The files that the annotations name, by rising id, and the others."""
    by_name = {Path(image.path).name: image for image in found.images.values()}
    images = [replace(by_name[f.name], path=str(f)) for f in files if f.name in by_name]
    known = [Picture(image.id, Path(image.path), image) for image in images]
    others = [Skipped(f, "the annotations do not name it") for f in files if f.name not in by_name]
    return sorted(known, key=lambda picture: picture.id), others


def read(picture: Picture) -> np.ndarray | Flaw:
    """Pixels (H, W, 3) uint8 RGB; without an annotation turned as its EXIF orientation says."""
    if picture.annotation is not None:
        return load_image(picture.annotation)
    try:
        content = picture.path.read_bytes()
    except OSError as error:
        return Flaw(MISSING, f"{error.strerror or error}")
    header = read_header(content)
    if header is not None and header.width * header.height > MAX_PIXELS:
        reason = f"{header.width}x{header.height} pixels are more than {MAX_PIXELS}; shrink it"
        return Flaw(UNDECODABLE, reason)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # empty, or more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        return Flaw(UNDECODABLE, f"{len(content)} bytes that are no image; replace the file")
    return pixels


def in_batches(
    pictures: Sequence[Picture], size: int, skipped: list[Skipped]
) -> Iterator[tuple[list[Picture], list[np.ndarray]]]:
    """Yield up to `size` readable pictures with their pixels; what cannot be read is noted."""
    good: list[Picture] = []
    pixels: list[np.ndarray] = []
    for picture in pictures:
        loaded = read(picture)
        if isinstance(loaded, Flaw):
            skipped.append(Skipped(picture.path, loaded.message))
            continue
        good.append(picture)
        pixels.append(loaded)
        if len(good) == size:
            yield good, pixels
            good, pixels = [], []
    if good:
        yield good, pixels
