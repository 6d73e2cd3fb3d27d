"""Evaluation of a checkpoint: every image counts once, and the figures are what they should be."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from model import evaluate as evaluation
from model.arguments import parse
from model.checkpoint import STATE, TrainingState, write_json
from model.coco import CocoDataset
from model.coco_eval import CocoFigures
from model.config import Config, ConfigError
from model.evaluate import Detector, batches, evaluate, held_out, load_held_out, write_results
from model.rehearsal_data import Recipe, make
from model.yolo import YoloV3

NETWORK = (
    "--res2net_block=1,1,1,1", "--res2net_in_channels=8,16,16,32",
    "--res2net_out_channels=16,16,32,32", "--backbone_shape=8,8,8,16,32",
)  # fmt: skip
SIDE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal data set with seven held-out images."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make(folder, Recipe(images=1, val_images=7, seed=1, size=SIDE))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, saved as the original saves them: with a prefix."""
    ms.set_context(mode=ms.GRAPH_MODE)
    classes = len(CocoDataset.load(data, "val2017").categories)
    yolo = YoloV3(parse(NETWORK).architecture(classes))
    file = tmp_path_factory.mktemp("checkpoint") / "0-1_40.ckpt"
    rows = [{"name": f"yolo_network.{row.name}", "data": row} for row in yolo.get_parameters()]
    ms.save_checkpoint(rows, str(file))
    return file


def config(data: Path, *arguments: str) -> Config:
    """The configuration of a small evaluation, in batches that do not divide the images."""
    common = (f"--data_dir={data}", f"--testing_shape={SIDE}", "--per_batch_size=3")
    return parse([*common, *NETWORK, *arguments])


def test_every_image_is_in_one_batch(data: Path) -> None:
    """The last batch is filled up with its own images, none is dropped, none counts twice."""
    dataset = CocoDataset.load(data, "val2017")
    found = list(batches(dataset, SIDE, 3))
    assert [list(positions) for positions, _ in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(images.shape == (3, 3, SIDE, SIDE) for _, images in found)
    assert (found[-1][1] == found[-1][1][0]).all()
    assert len(list(batches(dataset, SIDE, 100))) == 1


def test_an_image_that_cannot_be_read_costs_only_itself(data: Path, tmp_path: Path) -> None:
    """It is left out of its batch, so that it has no detections; the others are evaluated."""
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    dataset = CocoDataset.load(broken, "val2017")
    Path(dataset.images[1].path).write_bytes(b"no image")
    found = list(batches(dataset, SIDE, 3))
    assert [list(positions) for positions, _ in found] == [[0, 2], [3, 4, 5], [6]]


def test_evaluation_is_the_same_every_time(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Two evaluations give the same detections, of all images, and leave the results."""
    settings = config(data, "--eval_ignore_threshold=0.2")
    first, second = (evaluate(settings, checkpoint) for _ in range(2))
    assert first.figures.images == 7
    assert len(first.detections) > 0
    np.testing.assert_array_equal(first.detections, second.detections)
    assert set(first.detections[:, 0]) <= set(CocoDataset.load(data, "val2017").image_ids)
    predictions = write_results(first, tmp_path)
    assert predictions.name.startswith("predict_")
    assert len(json.loads(predictions.read_text())) == len(first.detections)
    figures = json.loads((tmp_path / evaluation.FIGURES).read_text())
    assert figures == first.figures.to_json()
    assert "Average Precision" in first.figures.table()


def test_shares_put_together_are_the_whole(data: Path, checkpoint: Path) -> None:
    """Whole batches dealt to two: each image on one side, and found the same as by one alone."""
    settings = config(data, "--eval_ignore_threshold=0.2")
    detector = Detector(settings, held_out(settings, None))
    assert detector.batches == 3
    whole = detector.detect(checkpoint)
    shares = [detector.detect(checkpoint, first, 2) for first in range(2)]
    assert not set(shares[0][:, 0]) & set(shares[1][:, 0])
    joined = np.concatenate(shares)
    np.testing.assert_array_equal(joined[np.argsort(joined[:, 0], kind="stable")], whole)
    assert len(detector.detect(checkpoint, 7, 8)) == 0


def test_a_detector_finds_what_its_last_checkpoint_finds(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Its graph is compiled once; other weights are loaded into it as into a new one."""
    settings = config(data, "--eval_ignore_threshold=0.2")
    rows = ms.load_checkpoint(str(checkpoint))
    other = tmp_path / "other.ckpt"
    ms.save_checkpoint(
        [{"name": name, "data": ms.Tensor(row.asnumpy() * 0.9)} for name, row in rows.items()],
        str(other),
    )
    detector = Detector(settings, held_out(settings, None))
    first, second, again = map(detector.detect, (checkpoint, other, checkpoint))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, evaluate(settings, other).detections)


def test_no_detections_are_a_result_too(data: Path, checkpoint: Path) -> None:
    """With a threshold nothing reaches, the figures are zero; the original fails there."""
    result = evaluate(config(data, "--eval_ignore_threshold=1.0"), checkpoint)
    assert result.detections.shape == (0, 7)
    assert result.figures["AP50"] == 0


def test_classes_keep_the_order_of_training(data: Path, tmp_path: Path) -> None:
    """The table beside the checkpoint decides which output is which class, by id and name."""
    rows = CocoDataset.load(data, "val2017").categories.to_json()
    turned = [{**row, "index": i} for i, row in enumerate(reversed(rows))]
    state = {row.name: 0 for row in fields(TrainingState)}
    write_json(tmp_path / STATE, {**state, "categories": turned})
    dataset = load_held_out(config(data), tmp_path)
    assert dataset.categories.to_json() == turned


def test_other_annotations_can_be_named(data: Path, tmp_path: Path) -> None:
    """`--annFile` is what is measured against; the original ignores it."""
    content = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    file = tmp_path / "some.json"
    file.write_text(json.dumps({**content, "images": content["images"][:2], "annotations": []}))
    assert len(load_held_out(config(data, f"--annFile={file}"), tmp_path)) == 2


def test_checkpoint_must_fit_the_network(data: Path, checkpoint: Path) -> None:
    """Weights of another width are refused with what differs."""
    with pytest.raises(ConfigError, match="does not fit"):
        evaluate(config(data, "--base_width=52"), checkpoint)


def test_command_prints_the_table(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    """The command needs a checkpoint (64), prints the known table and names its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSTER_JOB", raising=False)
    assert evaluation.main([f"--data_dir={data}", "--device_target=CPU"]) == 64
    assert "--pretrained" in capsys.readouterr().err
    result = evaluation.Evaluation(CocoFigures((0.5,) * 12, 7, 0), np.zeros((0, 7)), 1.0)
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: result)
    arguments = [f"--data_dir={data}", "--device_target=CPU", f"--pretrained={checkpoint}"]
    assert evaluation.main(arguments) == 0
    assert len(list(tmp_path.glob("outputs/*/predict_*.json"))) == 1
    assert json.loads(next(tmp_path.glob("outputs/*/evaluation.json")).read_text())["AP50"] == 0.5
