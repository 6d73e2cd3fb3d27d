"""The report on a data set: each kind of bad data, made for real, is named with its treatment."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.coco import CocoDataset, CocoImage
from model.data_check import check, file_findings
from model.data_findings import KINDS, Finding, Report
from model.data_report import document, lines, main
from model.image_file import read_header
from model.progress_line import ProgressLine
from model.sampling import require_global_batch

WIDTH, HEIGHT = 40, 30
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


class Maker:
    """A data set in the making: four sound images in training, two held out."""

    def __init__(self, root: Path) -> None:
        """Draw the images; :meth:`write` writes the annotations."""
        self.root = root
        self.content: dict[str, dict[str, list[Any]]] = {}
        for split, count in (("train2017", 4), ("val2017", 2)):
            (root / split).mkdir(parents=True)
            self.content[split] = {"images": [], "annotations": [], "categories": [*CATEGORIES]}
            for number in range(1, count + 1):
                self.add(number, np.full((HEIGHT, WIDTH, 3), 90, np.uint8), split=split)
                self.box(number, 5, 5, 20, 15, split=split)

    def add(
        self, number: int, pixels: np.ndarray | bytes | None, suffix: str = ".jpg",
        size: tuple[int, int] = (WIDTH, HEIGHT), split: str = "train2017",
    ) -> None:  # fmt: skip
        """List an image of annotated (width, height) and write its file, if there is to be one."""
        name = f"{number}{suffix}"
        row = {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        self.content[split]["images"].append(row)
        if isinstance(pixels, np.ndarray):
            pixels = cv2.imencode(suffix, pixels)[1].tobytes()
        if pixels is not None:
            (self.root / split / name).write_bytes(pixels)

    def box(
        self, number: int, *bbox: float, category: int = 7, crowd: int = 0, split: str = "train2017"
    ) -> None:
        """Annotate an image."""
        row = {"image_id": number, "category_id": category, "bbox": bbox, "iscrowd": crowd}
        self.content[split]["annotations"].append(row)

    def write(self) -> Path:
        """Write the annotations and return the directory."""
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, content in self.content.items():
            file = self.root / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content))
        return self.root


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Begin a sound data set."""
    return Maker(tmp_path / "set")


def found_in(report: Report) -> dict[tuple[str, str], list[Finding]]:
    """Return the findings by kind and split."""
    return {(group[0].kind, group[0].split): group for _, group in report.groups()}


def jpeg(width: int = WIDTH, height: int = HEIGHT, orientation: int = 1) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    encoded = cv2.imencode(".jpg", np.full((height, width, 3), 50, np.uint8))[1].tobytes()
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0])
    tag += b"\0\0\0\0\0\0"
    return encoded[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + encoded[2:]


def pixels(*shape: int, kind: str = "uint8") -> np.ndarray:
    """Return random pixels, so that a picture does not compress to nothing."""
    high = np.iinfo(kind).max
    return np.random.default_rng(1).integers(0, high, (HEIGHT, WIDTH, *shape)).astype(kind)


def test_a_sound_data_set_has_no_findings(maker: Maker) -> None:
    """Exit code 0, and the images are counted."""
    report = check(maker.write(), global_batch=4, full=True)
    assert (report.exit_code, report.counts) == (0, {})
    assert report.images == {"train2017": 4, "val2017": 2}


PICTURES: list[tuple[str, Callable[[Maker], Any], str]] = [
    ("image_undecodable", lambda m: m.add(9, b"nothing like an image"), "that are no image"),
    ("image_undecodable", lambda m: m.add(9, b""), "0 bytes"),
    ("image_undecodable", lambda m: m.add(9, jpeg()[:-90]), "that are no image"),
    ("image_undecodable", lambda m: m.add(9, jpeg()[:300]), "300 bytes"),
    ("image_size", lambda m: m.add(9, jpeg(60, 20)), "60x20 pixels, its annotation says 40x30"),
    ("image_size", lambda m: m.add(9, jpeg(30, 40)), "30x40 pixels"),
    ("grey", lambda m: m.add(9, pixels()), "1 of 3 channels"),
    ("grey", lambda m: m.add(9, pixels(), ".bmp"), "1 of 3 channels"),
    ("alpha", lambda m: m.add(9, pixels(4), ".png"), "4 channels"),
    ("alpha", lambda m: m.add(9, pixels(4), ".webp"), "4 channels"),
    ("deep", lambda m: m.add(9, pixels(3, kind="uint16"), ".png"), "16 bits a channel"),
    ("deep", lambda m: m.add(9, pixels(3, kind="uint16"), ".tiff"), "16 bits a channel"),
    ("orientation_ignored", lambda m: m.add(9, jpeg(orientation=6)), "orientation 6, 40x30"),
    ("orientation_applied", lambda m: m.add(9, jpeg(30, 40, 8)), "orientation 8, 30x40 pixels"),
]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("kind", "add", "text"), PICTURES)
def test_odd_pictures_are_tolerated_and_named(
    maker: Maker, kind: str, add: Callable[[Maker], Any], text: str, full: bool
) -> None:
    """Each is named with id, file and treatment, by its header as by decoding all of it."""
    add(maker)
    maker.box(9, 5, 5, 20, 15)
    report = check(maker.write(), full=full)
    assert report.exit_code == 0 and list(report.counts.values()) == [1]
    (finding,) = found_in(report)[kind, "train2017"]
    assert finding.image_id == 9 and text in finding.found
    assert Path(finding.file).name.startswith("9.") and finding.treatment and finding.advice


def test_only_decoding_finds_damage_inside_a_picture(maker: Maker) -> None:
    """A PNG with a flipped byte has a sound header and a sound end."""
    content = bytearray(cv2.imencode(".png", pixels(3))[1].tobytes())
    content[len(content) // 2] ^= 255
    maker.add(9, bytes(content), ".png")
    maker.box(9, 5, 5, 20, 15)
    root = maker.write()
    assert check(root).counts == {}
    assert check(root, full=True).counts == {("image_undecodable", "train2017"): 1}


def test_a_picture_of_thirty_megapixels_is_named_with_its_memory(maker: Maker) -> None:
    """By its header alone; more than 67 megapixels are refused without opening the file."""
    size = (6000, 5000)
    maker.add(9, np.zeros((5000, 6000), np.uint8), size=size)
    maker.box(9, 5, 5, 20, 15)
    report = check(maker.write())
    assert report.exit_code == 0
    (large,) = found_in(report)["large_image", "train2017"]
    assert "6000x5000 pixels: 90 MB" in large.found
    maker.add(10, b"never opened", size=(60_000, 50_000))
    report = check(maker.write(), full=True)
    assert report.exit_code == 65
    assert found_in(report)["image_too_large", "train2017"][0].image_id == 10
    assert ("image_undecodable", "train2017") not in report.counts


def test_odd_boxes_are_tolerated_and_named(maker: Maker) -> None:
    """No area, beyond the edge, no box, nothing but crowds: what training does is said."""
    maker.box(1, 3, 4, 0, 9)
    maker.box(2, 30, 20, 20, 5)
    for number in (5, 6, 7):
        maker.add(number, jpeg())
    maker.box(6, 1, 1, 30, 20, crowd=1)
    maker.box(7, 3, 3, 1, 1)
    report = check(maker.write())
    assert report.exit_code == 0
    found = {kind: group for (kind, _), group in found_in(report).items()}
    assert "1 of 2 boxes, the first from [3.0, 4.0]" in found["box_without_area"][0].found
    assert "[50.0, 25.0] in 40x30" in found["box_sticks_out"][0].found
    assert [f.image_id for f in found["image_without_boxes"]] == [5, 7]
    assert "left out" in found["image_without_boxes"][0].treatment
    assert [f.image_id for f in found["crowds_only"]] == [6]
    assert "without objects" in found["crowds_only"][0].treatment
    data = CocoDataset.load(maker.root, "train2017")
    assert data.image_ids == (1, 2, 3, 4, 6) and data.negatives == 1


REFUSALS: list[tuple[str, Callable[[Maker], Any], int]] = [
    ("box_outside", lambda m: m.box(2, 90, 5, 9, 9), 65),
    ("annotation_record", lambda m: m.box(2, 5, 5, -9, 9), 65),
    ("unlisted_category", lambda m: m.box(2, 5, 5, 9, 9, category=99), 65),
    ("image_record", lambda m: m.add(2, None, size=(0, 5)), 65),
    ("image_missing", lambda m: m.add(2000, None), 66),
]


@pytest.mark.parametrize(("kind", "add", "code"), REFUSALS)
def test_what_training_refuses_has_its_exit_code(
    maker: Maker, kind: str, add: Callable[[Maker], Any], code: int
) -> None:
    """The report refuses what the trainer's own reader refuses, with the same code."""
    add(maker)
    root = maker.write()
    report = check(root)
    with pytest.raises(Exception, match="1 problem") as caught:
        CocoDataset.load(root, "train2017")
    assert report.exit_code == caught.value.exit_code == code  # type: ignore[attr-defined]
    (finding,) = found_in(report)[kind, "train2017"]
    assert finding.treatment.startswith("training does not start")
    assert finding.image_id in (2, 2000)


def test_everything_wrong_stands_in_one_report(maker: Maker) -> None:
    """Findings of all kinds come at once, missing ones first, then refused, then tolerated."""
    for _, add, _ in (*PICTURES[:1], *REFUSALS):
        add(maker)
    maker.box(9, 5, 5, 20, 15)
    report = check(maker.write(), global_batch=512)
    kinds = [group[0].kind for _, group in report.groups()]
    assert report.exit_code == 66 and kinds[0] == "image_missing"
    refused = {name for name, _, _ in REFUSALS[:-1]} | {"too_few_images"}
    assert kinds[1 : 1 + len(refused)] == [name for name in KINDS if name in refused]
    assert "image_undecodable" in kinds[1 + len(refused) :]


def test_too_few_images_for_a_step_are_named(maker: Maker) -> None:
    """Images without a box do not count, just as in training."""
    maker.add(5, jpeg())
    root = maker.write()
    assert check(root, global_batch=4).exit_code == 0
    report = check(root, global_batch=5)
    (finding,) = found_in(report)["too_few_images", "train2017"]
    assert report.exit_code == 65 and "4 images to train on" in finding.found
    with pytest.raises(Exception, match="4 training images"):
        require_global_batch(len(CocoDataset.load(root, "train2017")), 5, 1, "")


def test_splits_that_disagree_on_categories_are_named(maker: Maker) -> None:
    """Another name for an id is told; another order is not, since classes are matched by id."""
    maker.content["val2017"]["categories"].reverse()
    assert check(maker.write()).counts == {}
    maker.content["val2017"]["categories"] = [{"id": 7, "name": "cow"}]
    report = check(maker.write())
    (finding,) = found_in(report)["categories_disagree", "val2017"]
    assert report.exit_code == 65 and "'cow' there and 'cat' here" in finding.found


def test_a_held_out_image_is_never_replaced(maker: Maker) -> None:
    """One that cannot be read is evaluated as an image without detections."""
    (maker.root / "val2017" / "1.jpg").write_bytes(b"broken")
    report = check(maker.write())
    (finding,) = found_in(report)["image_undecodable", "val2017"]
    assert report.exit_code == 0 and "without detections" in finding.treatment


def test_a_missing_directory_is_66_and_a_missing_held_out_split_tolerated(maker: Maker) -> None:
    """Nothing there, half of a split there, no held-out split at all."""
    assert check(maker.root / "nowhere").exit_code == 66
    root = maker.write()
    (root / "annotations" / "instances_val2017.json").unlink()
    report = check(root)
    assert report.exit_code == 66 and list(report.counts) == [("layout", "val2017")]
    for path in (root / "val2017").iterdir():
        path.unlink()
    (root / "val2017").rmdir()
    report = check(root)
    assert report.exit_code == 0 and list(report.counts) == [("no_validation", "val2017")]


def test_a_broken_annotation_file_leaves_the_other_split_checked(maker: Maker) -> None:
    """Half a JSON document in training; the held-out split is read all the same."""
    root = maker.write()
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text()[:50])
    report = check(root)
    assert report.exit_code == 65 and list(report.counts) == [("annotation_file", "train2017")]
    assert report.images == {"val2017": 2}


def test_the_report_is_the_same_with_any_number_of_threads(maker: Maker) -> None:
    """Findings come in the order of the annotations."""
    for number in range(300, 5, -1):
        maker.add(number, jpeg(orientation=1 + number % 3))
        maker.box(number, 5, 5, 20, 15)
    root = maker.write()
    calls: list[tuple[int, int]] = []
    reports = [check(root, threads=n, progress=lambda *seen: calls.append(seen)) for n in (1, 3)]
    assert document(reports[0]) == document(reports[1])
    assert sum(reports[0].counts.values()) > 150
    assert calls[-1] == (301, 301) and all(done <= total for done, total in calls)


def test_output_is_bounded_and_counted() -> None:
    """Of thousands of findings a hundred are kept, five shown in plain text, all counted."""
    report = Report("set", {"train2017": 9000})
    for number in range(9000):
        report.add(Finding("grey", "train2017", "x\n\x1b[2J\udcff" * 90, number, "file"))
    text = list(lines(report))
    assert len(text) < 15 and "... and 8995 more" in "\n".join(text)
    assert all(line.isprintable() and len(line) < 400 for line in text)
    (group,) = document(report)["findings"]
    assert group["count"] == 9000 and len(group["examples"]) == 100


def test_every_kind_says_what_to_do() -> None:
    """No kind without advice, a treatment for either split, and a known exit code."""
    for name, kind in KINDS.items():
        for split in ("train2017", "val2017"):
            finding = Finding(name, split, "")
            assert finding.treatment and finding.advice and kind.advice
            assert finding.exit_code in (0, 65, 66)


def test_progress_is_silent_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under two seconds nothing is said; then a line at most every ten seconds in a file."""
    now = [100.0]
    monkeypatch.setattr("model.progress_line.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = ProgressLine(stream)
    for second in range(100, 114):
        now[0] = float(second)
        progress(second, 200)
    progress.close()
    assert stream.getvalue() == "102 of 200 images read\n112 of 200 images read\n"


def test_the_command_prints_and_exits(maker: Maker, capfd: pytest.CaptureFixture[str]) -> None:
    """Text or one JSON document on stdout, nothing of the decoders on stderr."""
    maker.add(9, cv2.imencode(".png", pixels(3))[1].tobytes()[:-30], ".png")
    maker.box(9, 5, 5, 20, 15)
    root = str(maker.write())
    assert main(["check", root, "--full"]) == 0
    printed = capfd.readouterr()
    assert "image_undecodable, train2017: 1, tolerated" in printed.out and printed.err == ""
    assert main(["check", root, "--batch", "9", "--json"]) == 65
    printed = capfd.readouterr()
    assert json.loads(printed.out)["exit_code"] == 65 and printed.err == ""
    with pytest.raises(SystemExit) as caught:
        main(["check", root, "--batch", "0"])
    assert caught.value.code == 2 and "above 0" in capfd.readouterr().err


def test_the_module_is_the_command(maker: Maker) -> None:
    """`python -m model.data check DIR` is how it is called, and needs no MindSpore."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "model.data", "check", str(maker.write())],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "train2017: 4 images" in done.stdout
    assert "mindspore" not in done.stderr


def test_a_file_that_may_not_be_read_is_missing(tmp_path: Path) -> None:
    """A directory in the place of an image, or nothing, is told as missing."""
    for name in ("folder", "nothing"):
        if name == "folder":
            (tmp_path / name).mkdir()
        (finding,) = file_findings("train2017", CocoImage(1, str(tmp_path / name), 9, 9))
        assert finding.kind == "image_missing" and finding.exit_code == 66


def test_headers_survive_anything(tmp_path: Path) -> None:
    """Every cut and many a flipped byte of a header gives a header or none, never an error."""
    for content in (jpeg(orientation=6), cv2.imencode(".png", pixels(4))[1].tobytes()):
        whole = read_header(content)
        assert whole is not None and whole.size == (WIDTH, HEIGHT)
        for cut in range(0, 200):
            read_header(content[:cut])
            flipped = bytearray(content)
            flipped[cut] ^= 255
            read_header(bytes(flipped))
