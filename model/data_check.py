"""What is wrong with a data set, before anything is trained on it.

:func:`check` reads both splits with the very readers of training and gives a
:class:`~model.data_findings.Report`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from model.coco_scan import OUTSIDE_TOLERANCE, CocoImage, SplitScan, scan
from model.data_error import DataError, Problems
from model.data_findings import TRAIN, VALIDATION, Finding, Report
from model.image_file import (
    GONE,
    JPEG_START,
    MISSING,
    Flaw,
    ImageHeader,
    decode,
    missing_flaw,
    read_header,
    size_flaw,
)
from model.processors import usable_cpus
from model.sampling import require_global_batch

LARGE_PIXELS = 1 << 23
HEADER_BYTES = 1 << 16
TRAILER_BYTES = 64
_CHUNK = 64


class _Sorter(Problems):
    """Turns the readers' mistakes into findings."""

    def __init__(self, report: Report, split: str) -> None:
        super().__init__(split)
        self.report, self.split = report, split
        self.settled: set[int] = set()

    def add(
        self, message: str, *, kind: str = "", image_id: int | None = None, missing: bool = False
    ) -> None:
        """Note one mistake as a finding."""
        super().add(message, kind=kind, image_id=image_id, missing=missing)
        self.report.add(Finding(kind, self.split, message, image_id))
        if kind in (MISSING, "image_too_large") and image_id is not None:
            self.settled.add(image_id)  # there is no need to open the file


def check(
    directory: str | Path,
    *,
    global_batch: int | None = None,
    full: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read everything of the data set in ``directory`` that training and evaluation would read.

    ``global_batch`` is per_batch_size times ranks, to compare with the number of images. Headers
    and ends of JPEG and PNG are read, other formats decoded; ``full`` decodes everything.
    ``threads``: default :func:`usable_cpus`; each holds one image at a time. ``progress`` is
    called with (images done, of how many). Never raises for what is wrong with the data; an
    OSError of a failing storage passes.
    """
    root = Path(directory)
    report = Report(str(root))
    todo: list[tuple[str, CocoImage]] = []
    scans: dict[str, SplitScan] = {}
    for split in (TRAIN, VALIDATION) if root.is_dir() else (TRAIN,):
        if split == VALIDATION and _has_no_validation(root):
            report.add(Finding("no_validation", split, f"{root} has no {split}"))
            continue
        sorter = _Sorter(report, split)
        try:
            scans[split] = found = scan(root, split, sorter)
        except DataError:
            continue
        report.images[split] = len(found.images)
        todo += [(split, i) for i in found.images.values() if i.id not in sorter.settled]
    for finding in _compare(scans, global_batch):
        report.add(finding)
    for finding in _look_at_files(todo, threads or usable_cpus(), progress, full=full):
        report.add(finding)
    return report


def _has_no_validation(root: Path) -> bool:
    file = root / "annotations" / f"instances_{VALIDATION}.json"
    return not (root / VALIDATION).exists() and not file.exists()


def _compare(scans: dict[str, SplitScan], global_batch: int | None) -> Iterator[Finding]:
    """Findings about a split as a whole, and about both."""
    train, held_out = scans.get(TRAIN), scans.get(VALIDATION)
    if train and held_out:
        for message in train.table.differences(held_out.table):
            text = f"{message} (here: {TRAIN}, there: {VALIDATION})"
            yield Finding("categories_disagree", VALIDATION, text)
    if train:
        yield from annotation_findings(train)
    if train and global_batch:
        try:
            require_global_batch(len(train.worth_keeping), global_batch, 1, str(train.file))
        except DataError:
            text = f"{len(train.worth_keeping)} images to train on, one step takes {global_batch}"
            yield Finding("too_few_images", TRAIN, text)


def annotation_findings(scanned: SplitScan) -> Iterator[Finding]:
    """What is odd about the boxes of a training split, by image; pure."""
    for image in scanned.images.values():
        boxes = np.array(scanned.boxes[image.id]).reshape(-1, 5)
        if image.id not in scanned.worth_keeping:
            found = f"{len(boxes)} boxes, none larger than a pixel" if len(boxes) else "no boxes"
            yield Finding("image_without_boxes", scanned.split, found, image.id, image.path)
        elif not len(boxes):
            found = "nothing but crowds"
            yield Finding("crowds_only", scanned.split, found, image.id, image.path)
        limits = np.array([image.width, image.height]) + OUTSIDE_TOLERANCE
        out = ((boxes[:, :2] < -OUTSIDE_TOLERANCE) | (boxes[:, 2:4] > limits)).any(axis=1)
        flat = (boxes[:, 2:4] <= boxes[:, :2]).any(axis=1)
        for kind, odd in (("box_without_area", flat), ("box_sticks_out", out)):
            if odd.any():
                corners = boxes[odd][0, :4].tolist()
                found = f"{int(odd.sum())} of {len(boxes)} boxes, the first from {corners[:2]} to "
                found += f"{corners[2:]} in {image.width}x{image.height} pixels"
                yield Finding(kind, scanned.split, found, image.id, image.path)


def file_findings(split: str, image: CocoImage, *, full: bool = False) -> list[Finding]:
    """Look at one file: what training could not use, or would convert.

    ``full`` decodes it in any case. An OSError of the storage passes.
    """
    try:
        with open(image.path, "rb") as file:
            content = file.read(HEADER_BYTES)
            header = read_header(content)
            as_annotated = header is not None and header.size == (image.width, image.height)
            if full or not as_annotated or not _is_whole(file, content):
                content += file.read()
                full, header = True, read_header(content)
    except GONE as error:
        flaws = [missing_flaw(image, error)]
    else:
        flaws = _flaws(content, header, image, full=full)
    return [Finding(f.kind, split, f.message, image.id, image.path) for f in flaws]


def _is_whole(file: BinaryIO, content: bytes) -> bool:
    """Say whether the end marker of a JPEG or PNG stands near the end; the position stays."""
    position = file.tell()
    if position == HEADER_BYTES:
        file.seek(max(position, file.seek(0, os.SEEK_END) - TRAILER_BYTES))
    tail = content[-TRAILER_BYTES:] + file.read()
    file.seek(position)
    return (b"\xff\xd9" if content.startswith(JPEG_START) else b"IEND") in tail


def _flaws(
    content: bytes, header: ImageHeader | None, image: CocoImage, *, full: bool
) -> list[Flaw]:
    loaded = decode(content, image) if full else None
    if isinstance(loaded, Flaw):
        return [loaded]
    if header is None:
        stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is None:
            return []
        channels = 1 if stored.ndim == 2 else stored.shape[2]
        header = ImageHeader(*stored.shape[1::-1], channels, stored.itemsize * 8)
    return list(oddities(header, image, jpeg=content.startswith(JPEG_START)))


def oddities(header: ImageHeader, image: CocoImage, *, jpeg: bool) -> Iterator[Flaw]:
    """What training does not take as it is, by the header of a usable file; pure."""
    size = f"{header.width}x{header.height} pixels"
    if header.channels in (1, 2):
        yield Flaw("grey", f"{header.channels} of 3 channels")
    if header.channels == 2 or (header.channels == 4 and not jpeg):
        yield Flaw("alpha", f"{header.channels} channels, the last is alpha")
    if header.channels == 4 and jpeg:
        yield Flaw("cmyk", "4 channels in a JPEG")
    if header.bits > 8:
        yield Flaw("deep", f"{header.bits} bits a channel")
    if size_flaw(header.size, image) is not None:
        yield Flaw("orientation_applied", f"EXIF orientation {header.orientation}, {size} stored")
    elif header.orientation != 1:
        yield Flaw("orientation_ignored", f"EXIF orientation {header.orientation}, {size} stored")
    if header.width * header.height > LARGE_PIXELS:
        megabytes = header.width * header.height * 3 / 1e6
        yield Flaw("large_image", f"{size}: {megabytes:.0f} MB when decoded")


def _look_at_files(
    todo: Sequence[tuple[str, CocoImage]],
    threads: int,
    progress: Callable[[int, int], None],
    *,
    full: bool,
) -> Iterator[Finding]:
    """Findings of all files in their order; few chunks are in the making at a time."""

    def look(chunk: Iterable[tuple[str, CocoImage]]) -> list[Finding]:
        return [f for split, image in chunk for f in file_findings(split, image, full=full)]

    pending: deque[Future[list[Finding]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="data-check") as pool:
        try:
            for start in range(0, len(todo), _CHUNK):
                pending.append(pool.submit(look, todo[start : start + _CHUNK]))
                if len(pending) > 2 * threads:
                    yield from pending.popleft().result()
                    progress(start + _CHUNK - _CHUNK * len(pending), len(todo))
            while pending:
                yield from pending.popleft().result()
                progress(len(todo) - _CHUNK * len(pending), len(todo))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
