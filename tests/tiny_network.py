"""A network small enough to be exported and run within a second or two, and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import pytest

from model import export
from model.arguments import parse
from model.coco import CocoDataset
from model.rehearsal_data import Recipe, make
from model.yolo import YoloV3

ARCHITECTURE = (
    "--res2net_block=1,1,1,1", "--res2net_in_channels=8,16,16,32",
    "--res2net_out_channels=16,16,32,32", "--backbone_shape=8,8,8,16,32",
)  # fmt: skip
SIDE = 64
PARAMETERS = (*ARCHITECTURE, f"--testing_shape={SIDE}", "--device_target=CPU")
IMAGES = 5


def make_data(folder: Path) -> Path:
    """A rehearsal data set with five held-out images."""
    make(folder, Recipe(images=1, val_images=IMAGES, seed=1, size=SIDE))
    return folder


def annotations(data: Path) -> Path:
    """The annotations of the held-out images."""
    return data / "annotations" / "instances_val2017.json"


def save_checkpoint(file: Path, data: Path, prefix: str = "yolo_network.") -> Path:
    """Random weights, saved as the original saves them: with a prefix and an optimizer's rests."""
    ms.set_context(mode=ms.GRAPH_MODE)
    classes = len(CocoDataset.load(data, "val2017").categories)
    yolo = YoloV3(parse(ARCHITECTURE).architecture(classes))
    rows = [{"name": prefix + row.name, "data": row} for row in yolo.get_parameters()]
    first = next(iter(yolo.get_parameters()))
    rows.append({"name": f"moments.{prefix}{first.name}", "data": first})
    ms.save_checkpoint(rows, str(file))
    return file


def export_to(file: Path, checkpoint: Path, data: Path, *arguments: str) -> export.Result:
    """Export `checkpoint` to `file`, classes as in `data`."""
    common = (f"--ckpt_file={checkpoint}", f"--file_name={file}", f"--annFile={annotations(data)}")
    return export.export(parse([*common, *PARAMETERS, *arguments]))


@dataclass(frozen=True)
class Tiny:
    """A data set, a checkpoint of random weights for it, and the checkpoint's MindIR."""

    data: Path
    checkpoint: Path
    mindir: Path


_BUILT: list[Tiny] = []


def built(factory: pytest.TempPathFactory) -> Tiny:
    """The one that all tests of a session share; they leave its files as they are."""
    if not _BUILT:
        data = make_data(factory.mktemp("tiny") / "shapes")
        checkpoint = save_checkpoint(data.parent / "0-1_40.ckpt", data)
        folder = factory.mktemp("mindir")
        _BUILT.append(Tiny(data, checkpoint, export_to(folder / "net", checkpoint, data).file))
    return _BUILT[0]
