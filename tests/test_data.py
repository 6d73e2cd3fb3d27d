"""Training batches: the same whatever the workers, the order of access, the process."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.architecture import SMALL
from model.coco import CocoDataset, DataError
from model.data import Batch, ImageCache, TrainingData, read_image
from model.rehearsal_data import Recipe, make
from model.sampling import multi_scale_side

DIGEST = """
import sys
from test_data import digest, training_data
print(digest(training_data(sys.argv[1]).batch(5)))
"""


def training_data(directory: str | Path, **options: Any) -> TrainingData:
    """Return small batches of the data set in ``directory``."""
    dataset = CocoDataset.load(directory, "train2017")
    given = {"batch_size": 2, "side_or_sides": 64, "architecture": SMALL, "seed": 3, **options}
    return TrainingData(dataset, **given)


def digest(batch: Batch) -> str:
    """Return a digest of all that is in a batch."""
    total = hashlib.sha256()
    for array in (*batch.inputs, batch.image_ids, np.array([batch.side, batch.global_step])):
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data set of eleven images."""
    path = tmp_path_factory.mktemp("data") / "set"
    make(path, Recipe(images=11, val_images=2, seed=1, size=64))
    return path


@pytest.fixture
def damaged(directory: Path, tmp_path: Path) -> Path:
    """Copy the data set for a test that harms it."""
    return Path(shutil.copytree(directory, tmp_path / "set"))


def test_a_batch_has_the_shapes_the_network_takes(directory: Path) -> None:
    """Images, targets and boxes are float32 in the order of the training network's inputs."""
    batch = training_data(directory).batch(0)
    shapes = [array.shape for array in batch.inputs]
    assert shapes == [(2, 3, 64, 64), (2, 2, 2, 3, 9), (2, 4, 4, 3, 9), (2, 8, 8, 3, 9),
                      (2, 50, 4), (2, 50, 4), (2, 50, 4)]  # fmt: skip
    assert all(array.dtype == np.float32 for array in batch.inputs)
    assert all(array.flags.c_contiguous for array in batch.inputs)
    objects = sum(float(array[..., 4].sum()) for array in batch.inputs[1:4])
    assert objects >= 2 and batch.image_ids.dtype == np.int64


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_any_number_of_workers_gives_the_same_batches(directory: Path, workers: int) -> None:
    """Prefetched batches come in order and equal those made one by one, backwards."""
    expected = [digest(training_data(directory).batch(step)) for step in (12, 11, 10, 9, 8)]
    batches = list(training_data(directory).iterate(8, 13, workers))
    assert [batch.global_step for batch in batches] == [8, 9, 10, 11, 12]
    assert [digest(batch) for batch in batches] == expected[::-1]


def test_another_process_makes_the_same_batch(directory: Path) -> None:
    """A fresh interpreter makes bit for bit the same batch."""
    root = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": ""}
    output = subprocess.run(
        [sys.executable, "-c", DIGEST, str(directory)], env=environment, capture_output=True,
        text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert output.strip() == digest(training_data(directory).batch(5))


def test_neither_cache_nor_global_random_state_matter(directory: Path) -> None:
    """No cache, a tiny one and a full one give the same; so does any global seed."""
    expected = digest(training_data(directory).batch(7))
    for limit in (0, 20_000, 1 << 30):
        np.random.seed(limit)
        data = training_data(directory, cache=ImageCache(limit))
        for step in (3, 7, 7):
            batch = data.batch(step)
        assert digest(batch) == expected


def test_the_ids_of_a_step_are_known_without_making_it(directory: Path) -> None:
    """sample_ids names the images of the batch; an epoch shows each image at most once."""
    data = training_data(directory)
    ids = [data.sample_ids(step) for step in range(data.steps_per_epoch)]
    assert data.steps_per_epoch == 5 and len({i for step in ids for i in step}) == 10
    assert data.batch(3).image_ids.tolist() == list(ids[3])
    assert data.sample_ids(3) != data.sample_ids(3 + data.steps_per_epoch)
    assert [data.epoch_of(step) for step in (0, 4, 5)] == [0, 0, 1]


def test_ranks_share_an_epoch_and_do_not_share_random_numbers(directory: Path) -> None:
    """Two ranks see different images; the same image on another rank is augmented the same."""
    alone = training_data(directory)
    pair = [training_data(directory, rank=rank, world_size=2) for rank in (0, 1)]
    seen = [set(p.sample_ids(0) + p.sample_ids(1)) for p in pair]
    assert not seen[0] & seen[1]
    images = {}
    for step in range(5):
        batch = alone.batch(step)
        images.update(zip(batch.image_ids.tolist(), batch.images, strict=True))
    batch = pair[1].batch(0)
    for image_id, pixels in zip(batch.image_ids.tolist(), batch.images, strict=True):
        if image_id in images:
            np.testing.assert_array_equal(pixels, images[image_id])


def test_seed_and_epoch_change_the_augmentation(directory: Path) -> None:
    """Another seed gives another batch."""
    first, other = (training_data(directory, seed=seed).batch(0) for seed in (1, 2))
    assert digest(first) != digest(other)


def test_multi_scale_sides_follow_the_step(directory: Path) -> None:
    """Side and shapes change with the step as the sampling says, alike on all ranks."""
    sides = (64, 96, 32)
    ranks = [
        training_data(directory, side_or_sides=sides, resize_rate=2, rank=r, world_size=2, seed=0)
        for r in (0, 1)
    ]
    assert ranks[0].steps_per_epoch == 3
    for step in range(8):
        side = multi_scale_side(step // 3, step % 3, 11, sides, 2)
        batches = [data.batch(step) for data in ranks]
        assert [b.side for b in batches] == [side, side]
        assert batches[0].images.shape == (2, 3, side, side)


def test_label_smoothing_reaches_the_targets(directory: Path) -> None:
    """With smoothing the true class is 0.9 and the others share 0.1."""
    batch = training_data(directory, label_smooth=0.1).batch(0)
    cells = np.concatenate([a[a[..., 4] == 1][:, 5:] for a in batch.inputs[1:4]])
    np.testing.assert_allclose(np.sort(cells)[:, [0, -1]], [[0.1 / 3, 0.9]] * len(cells), rtol=1e-5)


def test_a_data_set_below_one_global_batch_is_refused(directory: Path) -> None:
    """Before the first step, with exit code 65 and the numbers."""
    with pytest.raises(DataError, match=r"11 training images.*takes 12") as caught:
        training_data(directory, batch_size=3, world_size=4)
    assert caught.value.exit_code == 65


def test_a_network_of_other_classes_is_refused(directory: Path) -> None:
    """Four categories do not train a network of five classes."""
    with pytest.raises(DataError, match="4 categories, but the network has 5"):
        training_data(directory, architecture=replace(SMALL, num_classes=5))


@pytest.mark.parametrize(
    "options",
    [{"side_or_sides": 65}, {"side_or_sides": (64, 0)}, {"side_or_sides": ()},
     {"batch_size": 0}, {"resize_rate": 0}, {"rank": 2, "world_size": 2}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(directory: Path, options: dict[str, Any]) -> None:
    """Sides that 32 does not divide, no side, no batch, a rank outside the world."""
    with pytest.raises(ValueError):
        training_data(directory, **options)


def prefetch_threads() -> list[str]:
    """Return the names of living prefetch threads."""
    return [t.name for t in threading.enumerate() if t.name.startswith("training-data")]


@pytest.mark.parametrize("stop_early", [True, False])
def test_no_thread_outlives_the_iterator(directory: Path, stop_early: bool) -> None:
    """After the end, or after close in the middle, the workers are gone."""
    batches = training_data(directory).iterate(0, 6, workers=3)
    next(batches)
    assert prefetch_threads()
    if stop_early:
        batches.close()  # type: ignore[attr-defined]
    else:
        list(batches)
    assert prefetch_threads() == []


def test_workers_stay_only_a_little_ahead(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the consumer, at most workers + 1 further batches are begun."""
    data = training_data(directory)
    begun: list[int] = []
    monkeypatch.setattr(data, "batch", lambda step: begun.append(step) or step)
    batches = data.iterate(0, 100, workers=2)
    for step in range(5):
        assert next(batches) == step
        assert max(begun) <= step + 3
    batches.close()  # type: ignore[attr-defined]


def damage_size(path: Path) -> None:
    """Replace an image by one of another size."""
    cv2.imwrite(str(path), np.zeros((10, 20, 3), np.uint8))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("harm", "error", "text"),
    [
        (lambda path: path.write_bytes(b"no image"), DataError, "8 bytes that are no image"),
        (lambda path: path.write_bytes(b""), DataError, "0 bytes"),
        (damage_size, DataError, "20x10 pixels, its annotation says 64x64"),
        (Path.unlink, FileNotFoundError, "jpg"),
    ],
)
def test_an_unreadable_image_fails_its_own_step(
    damaged: Path, workers: int, harm: Callable[[Path], Any], error: type[Exception], text: str
) -> None:
    """Batches before it still come; then the consumer gets the error, and no thread is left."""
    data = training_data(damaged)
    victim = data.sample_ids(2)[0]
    harm(damaged / "train2017" / f"{victim:012d}.jpg")
    batches = data.iterate(0, 4, workers)
    assert [next(batches).global_step for _ in range(2)] == [0, 1]
    with pytest.raises(error, match=text):
        next(batches)
    assert prefetch_threads() == []


def test_a_negative_image_is_trained_on(damaged: Path) -> None:
    """An image with nothing but crowds gives a sample without objects."""
    file = damaged / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["iscrowd"] = 1
    file.write_text(json.dumps(content))
    batch = training_data(damaged).batch(0)
    assert all(not array.any() for array in batch.inputs[1:])


def test_the_cache_stays_below_its_limit_and_forgets_the_oldest(directory: Path) -> None:
    """Held pixels never exceed the limit; an image in use is decoded once."""
    images = CocoDataset.load(directory, "train2017").images
    one = 64 * 64 * 3
    cache = ImageCache(2 * one)
    first = cache.get(images[0])
    assert cache.get(images[1]) is cache.get(images[1]) and cache.get(images[0]) is first
    cache.get(images[2])
    assert cache.held_bytes == 2 * one and cache.get(images[0]) is first
    np.testing.assert_array_equal(cache.get(images[1]), read_image(images[1]))


def test_orientation_tags_do_not_turn_pixels(tmp_path: Path, directory: Path) -> None:
    """Pixels are read as stored, which is what COCO's boxes refer to, and as RGB."""
    image = CocoDataset.load(directory, "train2017").images[0]
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[..., 2] = 200
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = encoded[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + encoded[2:]
    (tmp_path / "a.jpg").write_bytes(turned)
    read = read_image(replace(image, path=str(tmp_path / "a.jpg"), width=60, height=40))
    assert read.shape == (40, 60, 3) and read[..., 0].mean() > 190 and read[..., 2].mean() < 10
