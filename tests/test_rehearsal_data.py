"""The maker of rehearsal data sets: deterministic, idempotent, whole or absent."""

import hashlib
import json
from pathlib import Path

import pytest

from model import rehearsal_data
from model.coco import CocoDataset, DataError
from model.data import read_image
from model.rehearsal_data import STAMP, Recipe, main, make

RECIPE = Recipe(images=8, val_images=3, seed=5, size=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one data set to look at; tests leave it alone."""
    directory = tmp_path_factory.mktemp("rehearsal") / "data"
    assert make(directory, RECIPE)
    return directory


def contents(directory: Path) -> dict[str, str]:
    """Return the digest of every file by its relative name."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_what_is_made_is_a_data_set_the_reader_takes(made: Path) -> None:
    """Both splits load, with the numbers and sizes asked for and one to three objects each."""
    train = CocoDataset.load(made, "train2017")
    val = CocoDataset.load(made, "val2017", categories=train.categories)
    assert (len(train), len(val), len(train.categories)) == (8, 3, 4)
    assert not set(train.image_ids) & set(val.image_ids)
    for index, image in enumerate(train.images):
        assert read_image(image).shape == (64, 64, 3)
        boxes = train.boxes(index)
        assert 1 <= len(boxes) <= 3
        assert boxes[:, :4].min() >= 0 and boxes[:, :4].max() <= 64
        extents = boxes[:, 2:4] - boxes[:, :2]
        assert extents.min() > 0.15 * 64 and extents.max() < 0.8 * 64


def test_the_same_recipe_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Another directory gets exactly the same files, and another seed other pictures."""
    make(tmp_path / "again", RECIPE)
    assert contents(tmp_path / "again") == contents(made)
    make(tmp_path / "other", Recipe(images=8, val_images=3, seed=6, size=64))
    names = [name for name in contents(made) if name.endswith(".jpg")]
    other = contents(tmp_path / "other")
    assert names and all(other[name] != contents(made)[name] for name in names)


def test_pictures_do_not_depend_on_how_many_there_are(made: Path, tmp_path: Path) -> None:
    """A smaller data set has the first pictures of a larger one; splits share none."""
    make(tmp_path / "few", Recipe(images=2, val_images=1, seed=5, size=64))
    few, all_of_them = contents(tmp_path / "few"), contents(made)
    pictures = [name for name in few if name.endswith(".jpg")]
    assert len(pictures) == 3 and all(few[name] == all_of_them[name] for name in pictures)
    assert len({all_of_them[name] for name in all_of_them if name.endswith(".jpg")}) == 11


def test_made_again_nothing_is_written(made: Path) -> None:
    """The second call leaves every file as it was."""
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert not make(made, RECIPE)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_another_recipe_is_refused_until_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal says what differs and changes nothing; --force replaces the data set."""
    target = tmp_path / "data"
    common = [str(target), "--images", "2", "--size", "64"]
    assert main([*common, "--seed", "1"]) == 0
    before = contents(target)
    assert main([*common, "--seed", "2"]) == 65
    assert "seed 1, asked for 2" in capsys.readouterr().err and contents(target) == before
    assert main([*common, "--seed", "2", "--force"]) == 0
    assert contents(target) != before and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    """A damaged data set is refused, and made anew with force."""
    recipe = Recipe(images=1, val_images=1, seed=1, size=64)
    make(tmp_path / "data", recipe)
    picture = next((tmp_path / "data" / "train2017").iterdir())
    picture.write_bytes(b"")
    with pytest.raises(DataError, match="files have changed"):
        make(tmp_path / "data", recipe)
    assert make(tmp_path / "data", recipe, force=True) and picture.stat().st_size > 0


@pytest.mark.parametrize("force", [False, True])
def test_what_it_did_not_make_is_never_touched(tmp_path: Path, force: bool) -> None:
    """A directory of somebody else's files is refused, even with force."""
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="choose another directory"):
        make(tmp_path, RECIPE, force=force)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_an_interruption_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When making fails in the middle there is no directory; the next call makes it whole."""
    target = tmp_path / "data"
    write, calls = rehearsal_data._write, []

    def fail_later(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(rehearsal_data, "_write", fail_later)
        with pytest.raises(KeyboardInterrupt):
            make(target, RECIPE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".data.making").mkdir()
    assert make(target, RECIPE) and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_stamp_holds_the_recipe(made: Path) -> None:
    """The stamp says how the data set was made, difficulty included, with no date or path."""
    stamp = json.loads((made / STAMP).read_text())
    assert sorted(stamp) == ["digest", "recipe"]
    assert stamp["recipe"]["seed"] == 5 and "colour_hint" in stamp["recipe"]["difficulty"]


def test_impossible_arguments_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero images, a negative seed or a tiny size exit with 64 and name the option."""
    for option, value in (("--images", "0"), ("--seed", "-1"), ("--size", "8")):
        assert main(["nowhere", option, value]) == 64
        assert option in capsys.readouterr().err
