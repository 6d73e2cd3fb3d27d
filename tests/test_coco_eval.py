"""COCO figures from detections, and the files they are written to."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.coco_eval import (
    TITLE,
    CocoFigures,
    evaluate_detections,
    write_figures,
    write_predictions,
)
from model.data_error import DataError
from tests.golden_vectors import GOLDEN

NO_CROWD = ("iscrowd", 0)
MOMENT = time.strptime("2021-12-04 14:29:51", "%Y-%m-%d %H:%M:%S")
ARRAYS = GOLDEN.arrays("evaluation.npz")
TRUTH, DETECTIONS, STATS = GOLDEN.truth, ARRAYS["detections"], ARRAYS["stats_12"]


def perfect(truth: dict[str, Any]) -> np.ndarray:
    """Return the detections that are the ground truth itself."""
    return np.array([
        [row["image_id"], row["category_id"], *row["bbox"], 0.9] for row in truth["annotations"]
    ])  # fmt: skip


def test_the_recorded_detections_give_the_recorded_figures() -> None:
    """The original's detections give its twelve figures, in any order of equal meaning."""
    figures = evaluate_detections(TRUTH, DETECTIONS)
    np.testing.assert_allclose(figures.values, STATS, atol=1e-6)
    assert figures.images == len(TRUTH["images"]) and figures.detections == len(DETECTIONS)


def test_an_annotation_file_and_narrow_floats_do_as_well(tmp_path: Path) -> None:
    """A path and float32 rows give nearly the same."""
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(TRUTH))
    figures = evaluate_detections(file, DETECTIONS.astype(np.float32))
    np.testing.assert_allclose(figures.values, STATS, atol=1e-3)


def test_perfect_detections_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The ground truth found again is worth 1, and pycocotools' prints stay inside."""
    figures = evaluate_detections(TRUTH, perfect(TRUTH))
    assert figures["AP"] == pytest.approx(1) and figures["AP50"] == pytest.approx(1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 7))])
def test_no_detections_at_all_is_a_result(nothing: Any) -> None:
    """Nothing found is worth 0, and no error."""
    figures = evaluate_detections(TRUTH, nothing)
    assert figures["AP"] == 0 and figures["AR_100"] == 0 and figures.detections == 0


def test_only_the_evaluated_images_count() -> None:
    """Objects of images that were not evaluated are not missed, detections there not counted."""
    chosen = TRUTH["images"][0]["id"]
    detections = perfect(TRUTH)
    few = detections[detections[:, 0] == chosen]
    assert evaluate_detections(TRUTH, few)["AP"] < 0.9
    restricted = evaluate_detections(TRUTH, detections, [chosen])
    assert restricted["AP"] == pytest.approx(1)
    assert (restricted.images, restricted.detections) == (1, len(few))


def test_annotations_without_crowd_flag_or_area_and_numbered_from_zero_do() -> None:
    """Missing iscrowd and area are filled in; an annotation with id 0 can be matched."""
    rows = [
        {key: value for key, value in row.items() if key != "area" and (key, value) != NO_CROWD}
        | {"id": number}
        for number, row in enumerate(TRUTH["annotations"])
    ]
    figures = evaluate_detections({**TRUTH, "annotations": rows}, DETECTIONS)
    assert figures["AP"] == pytest.approx(STATS[0], abs=1e-6)


def test_strange_ids_and_numbers_are_refused_together() -> None:
    """An unknown image, an unknown category and a NaN are one error with all three."""
    rows = DETECTIONS[:3].copy()
    rows[0, 0], rows[1, 1], rows[2, 6] = 12345, 999, np.nan
    with pytest.raises(DataError) as caught:
        evaluate_detections(TRUTH, rows)
    assert caught.value.total == 3 and "12345" in str(caught.value) and "999" in str(caught.value)


def test_unreadable_annotations_have_the_code_of_their_kind(tmp_path: Path) -> None:
    """A missing file is 66, one cut short or not in COCO form 65."""
    with pytest.raises(DataError) as missing:
        evaluate_detections(tmp_path / "none.json", [])
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(DataError) as cut:
        evaluate_detections(tmp_path / "cut.json", [])
    with pytest.raises(DataError) as other:
        evaluate_detections({"images": []}, [])
    assert [e.value.exit_code for e in (missing, cut, other)] == [66, 65, 65]


def test_the_table_is_the_one_users_know() -> None:
    """The text has the title and lines of the original's README, to the space."""
    values = (0.323, 0.543, 0.335, 0.149, 0.346, 0.476, 0.271, 0.414, 0.439, 0.245, 0.469, 0.592)
    lines = CocoFigures(values, 5000, 1).table().splitlines()
    ap, ar = "Average Precision  (AP)", "Average Recall     (AR)"
    assert lines[0] == TITLE == "=============coco eval result========="
    assert lines[1] == f"{ap} @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.323"
    assert lines[2] == ""
    assert lines[3] == f"{ap} @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.543"
    assert lines[13] == f"{ar} @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.271"
    assert lines[23] == f"{ar} @[ IoU=0.50:0.95 | area= large | maxDets=100 ] = 0.592"


def test_predictions_are_coco_results_under_the_original_name(tmp_path: Path) -> None:
    """The file is predict_<time>.json, plain JSON numbers, and nothing else is left behind."""
    path = write_predictions(tmp_path / "outputs", DETECTIONS[:2].astype(np.float32), MOMENT)
    assert path.name == "predict_2021_12_04_14_29_51.json"
    rows = json.loads(path.read_text())
    assert sorted(rows[0]) == ["bbox", "category_id", "image_id", "score"]
    assert rows[0]["image_id"] == int(DETECTIONS[0, 0]) and len(rows[0]["bbox"]) == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails before the rename, the former file is whole and no scrap remains."""
    path = tmp_path / "figures.json"
    figures = evaluate_detections(TRUTH, [])
    write_figures(path, figures)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("model.coco_eval.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_figures(path, evaluate_detections(TRUTH, perfect(TRUTH)))
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [path.name]


def test_the_figures_are_written_as_json(tmp_path: Path) -> None:
    """The JSON holds the twelve figures by name and the counts."""
    figures = evaluate_detections(TRUTH, DETECTIONS)
    write_figures(tmp_path / "figures.json", figures)
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content == figures.to_json() and len(content) == 14
