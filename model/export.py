"""Export a checkpoint: `python -m model.export --ckpt_file=... --file_name=...`.

`--ckpt_file` is a checkpoint file (of this trainer or the original) or a step directory.
`--file_format` is MINDIR, ONNX, or, on Ascend only, AIR; `--keep_detect=false` leaves out the
decoding, so that raw heads come out; `--batch_size` and `--testing_shape` fix the input. What was
written is loaded as a new graph and run on images (of `--img_path`, else of noise): it appears
under its name only if it gives what the checkpoint gives. `<file>.json` beside it holds the
category table, the input and the sha256.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.config import Config, ConfigError
from model.data_error import DataError
from model.exported import Exported, ModelFileError, description_of
from model.options import read_options, run_command, use_device
from model.whole_file import sync
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from mindspore import nn

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far an output of the exported network may be from the checkpoint's: kernels may differ."""
NOISE_SEED = 1


@dataclass(frozen=True)
class Result:
    """What was written; the largest difference (None: could not be run) and who ran it, or why."""

    file: Path
    about: Exported
    difference: float | None
    by: str


def export(config: Config) -> Result:
    """Write the network of `config.ckpt_file`; the file appears whole and verified, or not.

    Raises ConfigError (64), ModelFileError (1: not exported or not verified; 65), DataError and
    OSError.
    """
    from model.detector import open_checkpoint, run_cell

    target = target_of(config)
    network, about = open_checkpoint(Path(config.ckpt_file), config, decoded=config.keep_detect)
    images = sample(config)
    expected = run_cell(network)(images)
    if not all(np.isfinite(head).all() for head in expected):
        raise ModelFileError(
            [f"{config.ckpt_file}: its outputs are not finite; nothing is written"]
        )
    about = replace(about, file_format=config.file_format)
    return _write_verified(target, network, images, expected, about)


def _write_verified(
    target: Path,
    network: nn.Cell,
    images: np.ndarray,
    expected: list[np.ndarray],
    about: Exported,
) -> Result:
    """Write into a folder aside, compare, then rename: an older file stays until then."""
    from model.checkpoint import measure, write_json
    from model.export_formats import SUFFIXES, runner, write

    # A folder of its own: MindSpore takes the rights to the folder it writes to from others.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        aside = Path(folder) / f"network{SUFFIXES[about.file_format]}"
        write(network, images, aside, about.file_format)
        aside.chmod(0o644)
        run, by = runner(aside, about.file_format)
        difference = None if run is None else compare(expected, run(images), target)
        sync(aside)
        size, digest = measure(aside)
        os.replace(aside, target)
    # A kill here leaves an older description, whose sha256 then does not match.
    about = replace(about, size=size, sha256=digest)
    write_json(description_of(target), about.to_json())
    sync(target.parent)
    return Result(target, about, difference, by)


def compare(expected: list[np.ndarray], found: Sequence[np.ndarray], file: Path) -> float:
    """Return the largest difference between heads; raises ModelFileError (1) if it is too large."""
    shapes = [head.shape for head in expected], [head.shape for head in found]
    if shapes[0] != shapes[1]:
        problem = f"{file}: outputs have shapes {shapes[1]}, the checkpoint's {shapes[0]}"
        raise ModelFileError([f"{problem}; not kept"], 1)
    pairs = list(zip(expected, found, strict=True))
    largest = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    if not all(np.allclose(theirs, ours, RELATIVE, ABSOLUTE) for ours, theirs in pairs):
        problem = f"{file}: loaded anew, outputs differ by up to {largest:g} from the checkpoint's"
        raise ModelFileError([f"{problem}; not kept"], 1)
    return largest


def target_of(config: Config) -> Path:
    """Where to write: `file_name`, with the format's ending added where it lacks; ConfigError."""
    from model.export_formats import SUFFIXES

    suffix = SUFFIXES[config.file_format]
    file = Path(config.file_name)
    if not file.name.endswith(suffix):
        file = file.with_name(file.name + suffix)
    if not file.absolute().parent.is_dir():
        raise ConfigError([f"--file_name={config.file_name}: there is no folder {file.parent}"])
    if file.is_dir():
        raise ConfigError([f"--file_name={config.file_name}: {file} is a folder"])
    return file


def sample(config: Config) -> np.ndarray:
    """One batch of inputs: images of `img_path`, over again if there are few, or seeded noise."""
    from model.pictures import files_in, in_batches, numbered
    from model.transforms import evaluation_input, normalise

    side, batch = config.testing_side, config.batch_size
    if not config.img_path:
        noise = np.random.default_rng(NOISE_SEED).integers(0, 256, (batch, side, side, 3), np.uint8)
        return np.stack([normalise(image) for image in noise])
    pictures = numbered(files_in(Path(config.img_path)))
    _, pixels = next(in_batches(pictures, batch, []), ([], []))
    if not pixels:
        raise DataError(config.img_path, ["no file in it can be read as an image"])
    inputs = [evaluation_input(image, side) for image in pixels]
    return np.stack([inputs[i % len(inputs)] for i in range(batch)])


def run(words: Sequence[str], rank: Rank) -> None:
    """Export and say what was written."""
    options = read_options(words)
    config = options.config
    if not config.ckpt_file:
        raise ConfigError(["--ckpt_file: give the checkpoint to export"])
    if use_device(options, rank) != "ascend" and config.file_format == "AIR":
        raise ConfigError(
            ["--file_format=AIR: MindSpore writes AIR on an Ascend device only; export MINDIR"]
        )
    rank.phase("export")
    print("\n".join(lines_of(export(config))))


def lines_of(result: Result) -> list[str]:
    """What a user reads of an export."""
    about = result.about
    what = "boxes" if about.decoded else "raw heads"
    verified = f"not verified: {result.by}"
    if result.difference is not None:
        verified = f"verified by {result.by}: largest difference {result.difference:g}"
    return [
        f"written: {result.file} ({about.size} bytes), {description_of(result.file).name}",
        f"input ({about.batch}, 3, {about.side}, {about.side}), {what} of "
        f"{len(about.categories)} classes",
        verified,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 64 for arguments, 65 or 66 for files, 1 if it failed."""
    return run_command(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
