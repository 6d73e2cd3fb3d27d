"""The twelve COCO figures of a set of detections, by pycocotools, and the files that hold them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.curves import ClassCurve, Curves
from model.data_error import EXIT_NOT_READABLE, DataError

TITLE = "=============coco eval result========="
_PRECISION, _RECALL = ("Average Precision", "(AP)"), ("Average Recall", "(AR)")
_AREAS = ("small", "medium", "large")

_Row = tuple[str, tuple[str, str], str, str, int]
ROWS: tuple[_Row, ...] = (
    ("AP", _PRECISION, "0.50:0.95", "all", 100),
    ("AP50", _PRECISION, "0.50", "all", 100),
    ("AP75", _PRECISION, "0.75", "all", 100),
    *((f"AP_{area}", _PRECISION, "0.50:0.95", area, 100) for area in _AREAS),
    *((f"AR_{most}", _RECALL, "0.50:0.95", "all", most) for most in (1, 10, 100)),
    *((f"AR_{area}", _RECALL, "0.50:0.95", area, 100) for area in _AREAS),
)
"""Key, title, IoU, area and number of detections of each figure, in pycocotools' order."""


@dataclass(frozen=True)
class CocoFigures:
    """The twelve figures, each from 0 to 1, or -1 where there is no object of that kind.

    ``curves`` are those they are the means of; None for figures that were read or made up.
    """

    values: tuple[float, ...]
    images: int
    detections: int
    curves: Curves | None = field(default=None, compare=False, repr=False)

    def __getitem__(self, key: str) -> float:
        """Return one figure by its key in ROWS, e.g. "AP50"."""
        return self.to_json()[key]

    def to_json(self) -> dict[str, float]:
        """Return the figures by key, with the numbers of images and detections."""
        figures = {row[0]: value for row, value in zip(ROWS, self.values, strict=True)}
        return {**figures, "images": self.images, "detections": self.detections}

    def table(self) -> str:
        """Return the table as the original trainer's users know it."""
        lines = [
            f"{title:<18} {short} @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] "
            f"= {value:0.3f}"
            for (_, (title, short), iou, area, most), value in zip(ROWS, self.values, strict=True)
        ]
        return TITLE + "\n" + "\n\n".join(lines) + "\n"


def evaluate_detections(
    annotations: str | Path | Mapping[str, Any],
    detections: np.ndarray | Sequence[Sequence[float]],
    image_ids: Iterable[int] | None = None,
) -> CocoFigures:
    """Measure ``detections`` against the ground truth.

    ``annotations`` is an annotation file or its content; ``detections`` (n, 7) has image_id,
    category_id, x, y, width, height in pixels of the original image, and score, and may be empty.
    Only ``image_ids`` count (default: all annotated images): the images that were evaluated.
    Raises DataError for an unreadable file, ids it does not have, or numbers that are not finite.
    """
    where = "annotations" if isinstance(annotations, Mapping) else str(annotations)
    content = _with_defaults(annotations if isinstance(annotations, Mapping) else _read(where))
    rows = np.asarray(detections, dtype=np.float64).reshape(-1, 7)
    truth = _indexed(content)
    wanted = sorted(truth.imgs if image_ids is None else {int(number) for number in image_ids})
    _check(truth, rows, wanted, where)
    rows = rows[np.isin(rows[:, 0].astype(np.int64), wanted)]
    results = _indexed({
        "images": content["images"], "categories": content["categories"],
        "annotations": [_as_annotation(i + 1, row) for i, row in enumerate(rows.tolist())],
    })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, results, "bbox")
        judge.params.imgIds = wanted
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = tuple(float(value) for value in judge.stats)
    return CocoFigures(values, len(wanted), len(rows), _curves(judge, truth))


def _curves(judge: COCOeval, truth: COCO) -> Curves:
    """Take the curves of 100 detections and all areas out of pycocotools' table.

    Its ``precision`` is (T overlaps, R recalls, K classes, A areas, M numbers of detections), with
    -1 for a class that has no object.
    """
    params = judge.params
    precision = judge.eval["precision"][:, :, :, params.areaRngLbl.index("all"), -1]
    overlaps = [int(np.argmin(abs(params.iouThrs - iou))) for iou in (0.5, 0.75)]
    table = np.concatenate([precision[overlaps], precision.mean(axis=0, keepdims=True)])
    wanted = set(params.imgIds)
    objects = Counter(
        row["category_id"] for row in truth.dataset["annotations"]
        if row["image_id"] in wanted and not row["iscrowd"]
    )  # fmt: skip
    return Curves(params.recThrs, tuple(
        ClassCurve(
            number, str(truth.cats[number].get("name", number)), objects[number],
            table[:, :, place] if precision[0, 0, place] > -1 else None,
        )
        for place, number in enumerate(map(int, params.catIds))
    ))  # fmt: skip


def _read(file: str) -> Any:
    try:
        return json.loads(Path(file).read_bytes())
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}); set annFile or data_dir"
        raise DataError(file, [message], EXIT_NOT_READABLE) from error
    except (ValueError, RecursionError) as error:
        raise DataError(file, [f"is no whole JSON document ({error})"]) from error


def _with_defaults(content: Any) -> dict[str, Any]:
    """Copy what is needed; a missing ``iscrowd`` is 0, a missing ``area`` that of the box.

    Annotations are numbered anew: pycocotools takes a match with number 0 for no match.
    """
    keys = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(k), list) for k in keys):
        raise DataError("annotations", [f"not in COCO form: it needs the lists {', '.join(keys)}"])
    truth = [
        {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row, "id": number + 1}
        for number, row in enumerate(content["annotations"])
    ]
    return {
        "images": content["images"], "categories": content["categories"], "annotations": truth,
    }  # fmt: skip


def _indexed(content: dict[str, Any]) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco


def _check(truth: COCO, rows: np.ndarray, wanted: list[int], where: str) -> None:
    problems = []
    if not np.isfinite(rows).all():
        problems.append(f"{int((~np.isfinite(rows)).any(axis=1).sum())} detections are not finite")
    for name, given, known in (
        ("image", [*wanted, *np.unique(rows[:, 0])], truth.imgs),
        ("category", np.unique(rows[:, 1]), truth.cats),
    ):
        strange = sorted({float(number) for number in given if number not in known})
        if strange:
            shown = ", ".join(f"{number:g}" for number in strange[:10])
            problems.append(f"{len(strange)} {name} ids are not in the annotations: {shown}")
    if problems:
        raise DataError(where, problems)


def _as_annotation(number: int, row: list[float]) -> dict[str, Any]:
    return {**_as_result(row), "id": number, "area": row[4] * row[5], "iscrowd": 0}


def _as_result(row: Sequence[float]) -> dict[str, Any]:
    return {
        "image_id": int(row[0]), "category_id": int(row[1]), "bbox": [float(n) for n in row[2:6]],
        "score": float(row[6]),
    }  # fmt: skip


def write_predictions(
    directory: str | Path,
    detections: np.ndarray | Sequence[Sequence[float]],
    moment: time.struct_time | None = None,
) -> Path:
    """Write the detections (n, 7) in COCO results form as ``predict_<time>.json``; whole or not.

    ``moment`` is the local time for the name (default: now). Returns the path.
    """
    stamp = time.strftime("%Y_%m_%d_%H_%M_%S", moment or time.localtime())
    rows = np.asarray(detections, dtype=np.float64).reshape(-1, 7).tolist()
    path = Path(directory) / f"predict_{stamp}.json"
    _write_whole(path, json.dumps([_as_result(row) for row in rows]))
    return path


def write_figures(path: str | Path, figures: CocoFigures) -> None:
    """Write the figures as a JSON object; whole or not at all."""
    _write_whole(Path(path), json.dumps(figures.to_json(), indent=1) + "\n")


def _write_whole(path: Path, text: str) -> None:
    """Write under another name in the same directory, sync, rename, sync the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
