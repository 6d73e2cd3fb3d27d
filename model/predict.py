"""Detect in single images: `python -m model.predict IMAGE... --pretrained=CKPT|--mindir=FILE`.

Draws boxes, class names and scores of at least `--threshold` (0.3) into copies in `--output`
(default: `predictions`) and prints a table of the detections; with `--json` one document instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.config import ConfigError
from model.data_error import EXIT_NOT_READABLE, DataError
from model.options import Options, number_of, read_options, run_command, use_device
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from model.detector import Detector
    from model.pictures import Picture

MOST_IMAGES = 100
THRESHOLD = 0.3


@dataclass(frozen=True)
class Detection:
    """One object: its class, score and box (x, y, w, h) in pixels of the image."""

    category_id: int
    name: str
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The objects of one image, best first, and the drawing."""

    image: str
    drawing: str
    detections: list[Detection]


def predict(
    files: Sequence[Path], detector: Detector, options: Options
) -> tuple[list[Prediction], list[str]]:
    """Detect and draw; returns the predictions and what is wrong with other files.

    Raises ConfigError; DataError, 66, if no file can be used at all.
    """
    from model.detector import detect
    from model.drawing import draw, drawn_name, write_image
    from model.pictures import Picture

    folder = Path(options.own.get("output") or "predictions")
    names = {category.id: category.name for category in detector.categories.categories}
    predictions: list[Prediction] = []
    taken: set[Path] = set()

    def look(picture: Picture, pixels: np.ndarray, rows: np.ndarray) -> None:
        drawing = drawn_name(folder, picture.path, taken)
        write_image(drawing, draw(pixels, rows, names))
        found = [_detection(row, names) for row in rows[np.argsort(-rows[:, 6], kind="stable")]]
        predictions.append(Prediction(str(picture.path), str(drawing), found))

    found = detect(
        [Picture(number, file) for number, file in enumerate(files)],
        detector,
        confidence=number_of(options, "threshold", THRESHOLD, high=1.0),
        overlap=options.config.nms_thresh,
        look=look,
    )
    problems = [f"{skipped.path}: {skipped.reason}" for skipped in found.skipped]
    if not predictions:
        raise DataError("given", problems, EXIT_NOT_READABLE)
    return predictions, problems


def _detection(row: np.ndarray, names: dict[int, str]) -> Detection:
    box = tuple(round(float(number), 2) for number in row[2:6])
    return Detection(int(row[1]), names[int(row[1])], round(float(row[6]), 6), box)


def open_detector(options: Options) -> Detector:
    """The network of `--pretrained` or `--mindir`; raises ConfigError, ModelFileError."""
    from model.detector import checkpoint_detector, mindir_detector

    if options.own.get("mindir"):
        return mindir_detector(Path(options.own["mindir"]), options.config)
    return checkpoint_detector(Path(options.config.pretrained), options.config)


def table(predictions: Sequence[Prediction]) -> str:
    """One line a detection under a line for each image."""
    lines = []
    for prediction in predictions:
        count = len(prediction.detections)
        lines.append(f"{prediction.image}: {count} objects, drawn in {prediction.drawing}")
        for found in prediction.detections:
            box = " ".join(f"{number:8.1f}" for number in found.box)
            lines.append(f"  {found.score:.3f}  {found.name:<16} {box}")
    return "\n".join(lines)


def run(words: Sequence[str], rank: Rank) -> None:
    """Predict and print."""
    options = read_options(words, ("mindir", "output", "threshold"), ("json",), takes_files=True)
    _check(options)
    number_of(options, "threshold", THRESHOLD, high=1.0)
    use_device(options, rank)
    rank.phase("predict")
    files = [Path(name) for name in options.files]
    predictions, problems = predict(files, open_detector(options), options)
    if "json" in options.flags:
        content = {"images": [asdict(row) for row in predictions], "skipped": problems}
        print(json.dumps(content, indent=1))
    else:
        print(table(predictions))
    for problem in problems:
        print(f"passed over: {problem}", file=sys.stderr)


def _check(options: Options) -> None:
    problems = []
    if not options.files:
        problems.append("give the images to look at: python -m model.predict IMAGE...")
    if len(options.files) > MOST_IMAGES:
        problems.append(
            f"{len(options.files)} images are more than {MOST_IMAGES}; "
            "use model.infer --images=DIR for a folder"
        )
    if bool(options.config.pretrained) == bool(options.own.get("mindir")):
        problems.append("give either --pretrained=CHECKPOINT or --mindir=FILE")
    if problems:
        raise ConfigError(problems)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 64 for arguments, 65 or 66 for files, 1 if it failed."""
    return run_command(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
