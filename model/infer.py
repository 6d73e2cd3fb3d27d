"""Detect in a folder of images: `python -m model.infer --mindir=FILE --images=DIR [--annFile=...]`.

Leaves in `--output` (default: `outputs/<time>`) `predict_<time>.json` in COCO's results form,
`images.json` (which id is which file), `inference.json` (counts, speed, files passed over), with
annotations `acc.log` and `evaluation.json`, and with `--draw=N` the first N images with their
boxes of score `--threshold` (0.3) and more. `--result_path=DIR` takes the heads that an Ascend 310
left in files instead of running a network. Images that cannot be read are passed over, counted and
named.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.config import ConfigError
from model.data_error import EXIT_NOT_READABLE, DataError
from model.options import (
    Options,
    categories_without_table,
    number_of,
    read_options,
    run_command,
    use_device,
)
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from model.coco_eval import CocoFigures
    from model.coco_scan import SplitScan
    from model.detector import Found, Heads
    from model.pictures import Picture

ACCURACY, FIGURES, SUMMARY, IMAGES = "acc.log", "evaluation.json", "inference.json", "images.json"
MOST_DRAWN = 1000
SKIPPED_SHOWN = 20
_STARTED = time.strftime("%Y-%m-%d_time_%H_%M_%S")


@dataclass(frozen=True)
class Inference:
    """What was found in which pictures, and how long it took to compile in seconds.

    With annotations: the figures, and of how many images they are annotations.
    """

    pictures: list[Picture]
    found: Found
    compiling: float
    figures: CocoFigures | None
    annotated: int

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the speed (with reading and suppression) and what was passed over."""
        done = len(self.found.sizes)
        return {
            "images": done,
            "detections": len(self.found.rows),
            "seconds": round(self.found.seconds, 3),
            "images_per_second": round(done / max(self.found.seconds, 1e-9), 2),
            "compile_seconds": round(self.compiling, 3),
            "skipped": [{"file": s.path.name, "reason": s.reason} for s in self.found.skipped],
        }


def infer(options: Options, folder: Path, rank: Rank) -> Inference:
    """Detect in every image of `folder`; with annotations, measure.

    Raises ConfigError, ModelFileError and DataError; 66 if no image can be used at all.
    """
    from model.detector import detect
    from model.pictures import annotated, files_in, numbered, with_annotations

    config = options.config
    files = files_in(folder)
    truth = annotated(config.annFile, folder) if config.annFile else None
    pictures, strange = with_annotations(files, truth) if truth else (numbered(files), [])
    if not pictures:
        raise DataError(config.annFile, [f"it names none of the {len(files)} images of {folder}"])
    source, compiling = source_of(options, rank, truth)
    found = detect(
        pictures,
        source,
        confidence=config.eval_ignore_threshold,
        overlap=config.nms_thresh,
        look=_drawer(options, {c.id: c.name for c in source.categories.categories}),
    )
    found.skipped += strange
    if not found.sizes:
        reasons = [f"{skipped.path}: {skipped.reason}" for skipped in found.skipped]
        raise DataError(str(folder), reasons, EXIT_NOT_READABLE)
    figures = _measure(config.annFile, pictures, found)
    return Inference(pictures, found, compiling, figures, len(truth.images) if truth else 0)


def source_of(options: Options, rank: Rank, truth: SplitScan | None) -> tuple[Heads, float]:
    """What gives the heads, ready to run, and the seconds that took; its classes fit `truth`."""
    from model.detector import mindir_detector

    if options.config.result_path:
        source: Heads = _files_of_device(options)
        compiling = 0.0
    else:
        use_device(options, rank)
        detector = mindir_detector(Path(options.own["mindir"]), options.config)
        source, compiling = detector, detector.warm_up()
    wrong = source.categories.differences(truth.table) if truth else []
    if wrong:
        raise DataError(options.config.annFile, [f"{text} (in the network)" for text in wrong])
    return source, compiling


def _files_of_device(options: Options) -> Heads:
    from model.device_heads import DeviceHeads
    from model.exported import read_description

    config = options.config
    folder = Path(config.result_path)
    about = read_description(Path(options.own["mindir"])) if options.own.get("mindir") else None
    if about is not None:
        return DeviceHeads(folder, about.side, about.categories)
    categories = categories_without_table(config, str(folder))
    return DeviceHeads(folder, config.testing_side, categories)


def _measure(file: str, pictures: Sequence[Picture], found: Found) -> CocoFigures | None:
    """The figures over all pictures; one that was passed over has no detections."""
    from model.coco_eval import evaluate_detections

    if not file:
        return None
    return evaluate_detections(file, found.rows, [picture.id for picture in pictures])


def drawing_limits(options: Options) -> tuple[int, float]:
    """How many images to draw, and from which score on; raises ConfigError."""
    most = number_of(options, "draw", 0, high=MOST_DRAWN, whole=True)
    return int(most), number_of(options, "threshold", 0.3, high=1.0)


def _drawer(options: Options, names: dict[int, str]) -> Any:
    from model.drawing import draw, drawn_name, write_image

    most, threshold = drawing_limits(options)
    folder = output_of(options) / "drawn"
    taken: set[Path] = set()

    def look(picture: Picture, pixels: np.ndarray, rows: np.ndarray) -> None:
        if len(taken) < most:
            drawing = draw(pixels, rows[rows[:, 6] >= threshold], names)
            write_image(drawn_name(folder, picture.path, taken), drawing)

    return look


def output_of(options: Options) -> Path:
    """Where results go: `--output`, else a folder of `log_path` named after the time."""
    if options.own.get("output"):
        return Path(options.own["output"])
    return Path(options.config.log_path) / _STARTED


def write_results(result: Inference, folder: Path) -> Path:
    """Write all documents into `folder`; returns the path of the detections."""
    from model.checkpoint import write_json
    from model.coco_eval import write_figures, write_predictions
    from model.curves import write_curves
    from model.whole_file import write_whole

    predictions = write_predictions(folder, result.found.rows)
    sizes = result.found.sizes
    write_json(
        folder / IMAGES,
        [
            {"id": p.id, "file_name": p.path.name, "width": sizes[p.id][0],
             "height": sizes[p.id][1]}
            for p in result.pictures if p.id in sizes
        ],
    )  # fmt: skip
    if result.figures is not None:
        write_figures(folder / FIGURES, result.figures)
        if result.figures.curves is not None:
            write_curves(folder, result.figures.curves)
        write_whole(folder / ACCURACY, result.figures.table().encode())
    write_json(folder / SUMMARY, result.to_json())
    return predictions


def run(words: Sequence[str], rank: Rank) -> None:
    """Infer, leave the results and say how it went."""
    own = ("mindir", "images", "output", "draw", "threshold")
    options = read_options(words, own)
    folder = options.own.get("images") or options.config.img_path
    problems = []
    if not folder:
        problems.append("--images: give the folder of images")
    if not options.own.get("mindir") and not options.config.result_path:
        problems.append("--mindir: give the MindIR to run, or --result_path of a device's files")
    if problems:
        raise ConfigError(problems)
    drawing_limits(options)
    rank.phase("infer")
    result = infer(options, Path(folder), rank)
    print(f"detections: {write_results(result, output_of(options))}")
    print("\n".join(lines_of(result)))


def lines_of(result: Inference) -> list[str]:
    """What a user reads of an inference."""
    content = result.to_json()
    skipped = content["skipped"]
    lines = [
        f"{content['images']} images in {content['seconds']} s: "
        f"{content['images_per_second']} images/s; {content['detections']} detections; "
        f"compiled in {content['compile_seconds']} s"
    ]
    if skipped:
        lines.append(f"{len(skipped)} images passed over:")
        lines += [f"  {row['file']}: {row['reason']}" for row in skipped[:SKIPPED_SHOWN]]
    if len(skipped) > SKIPPED_SHOWN:
        lines.append(f"  ... and {len(skipped) - SKIPPED_SHOWN} more, in {SUMMARY}")
    if result.figures is None:
        return lines
    measured = f"measured on {result.figures.images} of {result.annotated} annotated images"
    return [*lines, measured, "\n" + result.figures.table()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 64 for arguments, 65 or 66 for files, 1 if it failed."""
    return run_command(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
