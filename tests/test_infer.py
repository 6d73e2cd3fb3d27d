"""Inference over a folder: the same detections as evaluation, and nothing lost to a bad file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.arguments import parse
from model.config import Config
from model.data_error import DataError
from model.detector import mindir_detector
from model.device_heads import DeviceHeads
from model.evaluate import evaluate
from model.infer import main
from model.pictures import annotated, files_in, in_batches, numbered, read, with_annotations
from tests.tiny_network import IMAGES, PARAMETERS, SIDE, Tiny, annotations, built

THRESHOLD = "--eval_ignore_threshold=0.2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """What the tests share."""
    return built(tmp_path_factory)


@pytest.fixture
def images(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the held-out images."""
    return Path(shutil.copytree(tiny.data / "val2017", tmp_path / "images"))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSTER_JOB", raising=False)


def detections_in(folder: Path) -> list[dict]:
    """The detections that a run left."""
    return json.loads(next(folder.glob("predict_*.json")).read_text())


def test_figures_are_those_of_evaluation(
    tiny: Tiny, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The MindIR finds what the checkpoint finds, and the same table comes out."""
    words = [f"--mindir={tiny.mindir}", f"--images={images}", f"--annFile={annotations(tiny.data)}"]
    out = tmp_path / "out"
    assert main([*words, THRESHOLD, f"--output={out}", "--draw=2"]) == 0
    told = capsys.readouterr().out
    settings = parse([f"--data_dir={tiny.data}", "--per_batch_size=1", THRESHOLD, *PARAMETERS])
    result = evaluate(settings, tiny.checkpoint)
    found = detections_in(out)
    rows = [[r["image_id"], r["category_id"], *r["bbox"], r["score"]] for r in found]
    np.testing.assert_array_equal(np.array(rows), result.detections)
    assert (out / "acc.log").read_text() == result.figures.table()
    assert result.figures.table() in told and "images/s" in told
    assert json.loads((out / "evaluation.json").read_text()) == result.figures.to_json()
    assert len(list((out / "drawn").iterdir())) == 2
    summary = json.loads((out / "inference.json").read_text())
    assert (summary["images"], summary["skipped"]) == (IMAGES, [])


def test_bad_files_cost_only_themselves(
    tiny: Tiny, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are counted and named; an annotated one counts as an image without detections."""
    bad = files_in(images)[1]
    bad.write_bytes(b"no image")
    (images / "stranger.png").write_bytes(b"")
    words = [f"--mindir={tiny.mindir}", f"--images={images}", THRESHOLD]
    assert main([*words, f"--annFile={annotations(tiny.data)}", f"--output={tmp_path / 'a'}"]) == 0
    told = capsys.readouterr().out
    assert "2 images passed over" in told
    assert f"{bad.name}: " in told and "stranger.png: the annotations do not name it" in told
    assert f"measured on {IMAGES} of {IMAGES} annotated images" in told
    assert main([*words, f"--output={tmp_path / 'b'}"]) == 0
    reasons = json.loads((tmp_path / "b" / "inference.json").read_text())["skipped"]
    assert [row["file"] for row in reasons] == [bad.name, "stranger.png"]
    assert not (tmp_path / "b" / "acc.log").exists()


def test_heads_of_a_device_give_the_same_detections(
    tiny: Tiny, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`<image>_0.bin`, `_1` and `_2` are read in place of a run; a missing one is named."""
    detector = mindir_detector(tiny.mindir, Config())
    files = tmp_path / "result_Files"
    files.mkdir()
    for picture in numbered(files_in(images)):
        for i, head in enumerate(detector.heads([picture], [read(picture)])):
            head.tofile(files / f"{picture.path.stem}_{i}.bin")
    words = [f"--images={images}", f"--annFile={annotations(tiny.data)}", THRESHOLD]
    assert main([*words, f"--mindir={tiny.mindir}", f"--output={tmp_path / 'run'}"]) == 0
    read_back = [*words, f"--result_path={files}", f"--testing_shape={SIDE}"]
    assert main([*read_back, f"--output={tmp_path / 'read'}"]) == 0
    assert detections_in(tmp_path / "read") == detections_in(tmp_path / "run")
    next(files.glob("*_2.bin")).unlink()
    assert main([*read_back, f"--output={tmp_path / 'less'}"]) == 0
    assert "1 images passed over" in capsys.readouterr().out
    assert main([*words, f"--result_path={files}", f"--output={tmp_path / 'no'}"]) == 66
    assert "set --testing_shape and --num_classes" in capsys.readouterr().err


def test_raw_heads_of_a_device_are_noticed(tiny: Tiny, images: Path, tmp_path: Path) -> None:
    """They have the size of decoded ones, but no probabilities in them."""
    table = annotated(annotations(tiny.data)).table
    source = DeviceHeads(tmp_path, SIDE, table)
    picture = numbered(files_in(images))[0]
    for i, shape in enumerate(source.shapes):
        np.full(shape, -3.0, np.float32).tofile(tmp_path / f"{picture.path.stem}_{i}.bin")
    with pytest.raises(Exception, match="keep_detect=true"):
        source.heads([picture], [])


def test_classes_must_be_those_of_the_annotations(
    tiny: Tiny, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By id and name: other classes are refused before anything runs on images."""
    content = json.loads(annotations(tiny.data).read_text())
    content["categories"][0]["name"] = "unicorn"
    (tmp_path / "other.json").write_text(json.dumps(content))
    words = [f"--mindir={tiny.mindir}", f"--images={images}"]
    assert main([*words, f"--annFile={tmp_path / 'other.json'}"]) == 65
    assert "unicorn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--mindir=x.mindir",), 64, "--images: give the folder"),
        (("--images=images",), 64, "--mindir: give the MindIR"),
        (("--images=images", "--mindir=x.mindir"), 66, "x.mindir: no such file"),
        (("--images=none", "--mindir=x.mindir"), 66, "give a folder of images"),
        (("--images=.", "--mindir=x.mindir"), 65, "no image in it"),
        (("--images=images", "--mindir=x.mindir", "--draw=-1"), 64, "--draw=-1: expected a whole"),
        (("--images=images", "--result_path=none"), 66, "the device's result_Files"),
        (("--images=images", "--mindir=x", "--mindri=y"), 64, "--mindri: no such parameter"),
    ],
)
def test_mistakes_are_one_message(
    images: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    """No traceback, the codes of evaluation, and no results."""
    assert main(arguments) == code
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_ids_are_the_numbers_of_the_names() -> None:
    """As COCO's are; where one lacks, or two are the same, they count from one."""
    for names, ids in (
        (("COCO_val_000012.jpg", "7.png"), [12, 7]),
        (("a.jpg", "7.png"), [1, 2]),
        (("a_7.jpg", "b_7.png"), [1, 2]),
    ):
        assert [picture.id for picture in numbered([Path(name) for name in names])] == ids


def test_annotations_may_name_a_folder(tiny: Tiny, images: Path, tmp_path: Path) -> None:
    """Only the name of the file counts: the images lie where `--images` says."""
    content = json.loads(annotations(tiny.data).read_text())
    for row in content["images"]:
        row["file_name"] = f"val2017/{row['file_name']}"
    file = tmp_path / "nested.json"
    file.write_text(json.dumps(content))
    files = files_in(images)
    pictures, others = with_annotations(files, annotated(file, images))
    assert [picture.path for picture in pictures] == files
    assert others == []
    assert all(isinstance(read(picture), np.ndarray) for picture in pictures)


def test_a_partial_batch_holds_only_its_images(images: Path) -> None:
    """Five images in batches of two: the last one is alone."""
    sizes = [len(batch) for batch, _ in in_batches(numbered(files_in(images)), 2, [])]
    assert sizes == [2, 2, 1]


def test_a_folder_without_images_is_no_folder(tmp_path: Path) -> None:
    """Said as a fault of the data."""
    with pytest.raises(DataError, match="no image in it"):
        files_in(tmp_path)
