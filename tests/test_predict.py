"""Prediction on single images: boxes in pictures, and a table or a document of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.drawing import colour_of, draw, drawn_name, write_image
from model.pictures import files_in
from model.predict import MOST_IMAGES, main
from tests.tiny_network import PARAMETERS, SIDE, Tiny, annotations, built

THRESHOLD = "--threshold=0.28"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """What the tests share."""
    return built(tmp_path_factory)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSTER_JOB", raising=False)


def test_checkpoint_and_mindir_predict_the_same(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same objects, best first, each at least as likely as the threshold; both are drawn."""
    files = [str(file) for file in files_in(tiny.data / "val2017")[:2]]
    found = []
    for number, words in enumerate((
        [f"--mindir={tiny.mindir}"],
        [f"--pretrained={tiny.checkpoint}", f"--annFile={annotations(tiny.data)}", *PARAMETERS],
    )):  # fmt: skip
        out = f"--output={tmp_path / str(number)}"
        assert main([*files, *words, out, THRESHOLD, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["images"])
        assert len(list((tmp_path / str(number)).iterdir())) == 2
    first, second = ([image["detections"] for image in images] for images in found)
    assert first == second
    assert first[0]
    for objects in first:
        scores = [row["score"] for row in objects]
        assert scores == sorted(scores, reverse=True)
        assert min(scores, default=1.0) >= 0.28
    drawn = cv2.imread(found[0][0]["drawing"])
    assert drawn.shape == (SIDE, SIDE, 3)


def test_table_and_a_bad_image(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People get a line for each object; a file that is no image is named beside it."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    good = str(files_in(tiny.data / "val2017")[0])
    words = [f"--mindir={tiny.mindir}", THRESHOLD]
    assert main([good, "bad.jpg", *words]) == 0
    told = capsys.readouterr()
    assert "objects, drawn in predictions/" in told.out
    assert "bad.jpg: 8 bytes that are no image" in told.err
    assert main(["bad.jpg", *words]) == 66


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mindir=x.mindir",), "give the images"),
        (("a.jpg",), "give either --pretrained"),
        (("a.jpg", "--mindir=x.mindir", "--pretrained=y.ckpt"), "give either --pretrained"),
        (("a.jpg", "--mindir=x.mindir", "--threshold=2"), "expected a number from 0 to 1"),
        (("a.jpg", "--mindir=x.mindir", "--threshold=nan"), "expected a number from 0 to 1"),
        (("a.jpg",) * (MOST_IMAGES + 1), "use model.infer"),
        (("a.jpg", "--mindir=x.mindir", "--device_target=GPU"), "--device_target=gpu"),
    ],
)
def test_mistakes_are_one_message(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 64, no traceback."""
    assert main(arguments) == 64
    assert message in capsys.readouterr().err


def test_drawing_leaves_the_image_alone() -> None:
    """Boxes at and beyond the border, names beyond ASCII: a copy is drawn into, never the image."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    rows = np.array([[1, 5, 0, 0, 60, 40, 0.9], [1, 6, 50, 30, 60, 40, 0.5]], np.float64)
    drawn = draw(pixels, rows, {5: "größe"})
    assert not pixels.any()
    assert drawn.shape == pixels.shape
    assert tuple(drawn[39, 30]) == colour_of(5)
    assert not draw(pixels, rows[:0], {}).any()
    assert colour_of(5) != colour_of(6)


def test_an_image_is_written_whole_or_not(tmp_path: Path) -> None:
    """Two sources of one name have two drawings; an unknown format leaves nothing."""
    taken: set[Path] = set()
    names = [drawn_name(tmp_path, Path(f"{folder}/x.png"), taken).name for folder in "ab"]
    assert names == ["x_detected.jpg", "x_detected-2.jpg"]
    write_image(tmp_path / names[0], np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(OSError, match=r"no \.xyz"):
        write_image(tmp_path / "x.xyz", np.zeros((4, 4, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [names[0]]
