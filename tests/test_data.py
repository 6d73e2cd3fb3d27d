"""Training batches: the same whatever the workers, the order of access, the process."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from model.architecture import SMALL
from model.coco import CocoDataset, CocoImage, DataError
from model.data import Batch, ImageCache, TrainingData, read_image
from model.rehearsal_data import Recipe, make
from model.sampling import multi_scale_side
from model.substitutes import Replacement, ReplacementLog
from model.targets import make_targets
from model.transforms import augmented, draw_augmentation, sample_generator

DIGEST = """
import sys
from test_data import digest, training_data
print(digest(training_data(sys.argv[1]).batch(5)))
"""


RANK = """
import json, os, sys, threading
os.sched_setaffinity(0, {int(sys.argv[2])})
import mindspore as ms, numpy as np
from mindspore import Tensor, nn
from test_data import training_data
ms.set_context(mode=ms.GRAPH_MODE)
nn.Dense(8, 8)(Tensor(np.ones((4, 8), np.float32))).asnumpy()
data, seen = training_data(sys.argv[1]), {}
make = data.batch
def batch(step):
    seen[threading.get_ident()] = sorted(os.sched_getaffinity(0))
    return make(step)
data.batch = batch
for made in data.iterate(0, 10**9, workers=2):
    if made.global_step == 20:
        [cpus] = {tuple(cpus) for cpus in seen.values()}
        print(json.dumps({"cpus": cpus, "workers": len(seen)}), flush=True)
"""
ROOT = Path(__file__).parents[1]


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
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""}
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
        batches.close()
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
    batches.close()


def test_workers_have_the_cpus_of_the_thread_that_asks(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound to one CPU, as a rank may be, a consumer has workers on no other."""
    data, seen = training_data(directory), []
    make = data.batch
    monkeypatch.setattr(
        data, "batch", lambda step: seen.append(os.sched_getaffinity(0)) or make(step)
    )
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(whole)})
    try:
        assert len(list(data.iterate(0, 5, workers=2))) == 5
    finally:
        os.sched_setaffinity(0, whole)
    assert seen == [{min(whole)}] * 5


@pytest.mark.slow
def test_mindspore_and_a_kill_change_nothing_for_workers(directory: Path) -> None:
    """MindSpore leaves their CPU set alone; being threads, they are gone with their process."""
    one = min(os.sched_getaffinity(0))
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, str(directory), str(one)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert rank.stdout is not None
        assert json.loads(rank.stdout.readline()) == {"cpus": [one], "workers": 2}
        process = psutil.Process(rank.pid)
        assert process.num_threads() > 3 and process.children() == []
    finally:
        rank.kill()
        rank.communicate(timeout=60)
    assert rank.returncode == -signal.SIGKILL and not psutil.pid_exists(rank.pid)


def address(batch: Batch) -> int:
    """Return where the images of a batch lie in memory."""
    return batch.images.ctypes.data


def test_memory_is_used_again_when_nothing_refers_to_it(directory: Path) -> None:
    """A later batch lies where one was that is gone, and nowhere else than a held one's view."""
    data = training_data(directory)
    held = [data.batch(step) for step in (0, 1)]
    view, before = held[0].y_true_s[1, :1], digest(held[0])
    places = [address(batch) for batch in held]
    del held
    again = [data.batch(step) for step in (2, 3)]
    assert address(again[0]) == places[1] and address(again[1]) not in places
    del view
    assert address(data.batch(0)) == places[0] and digest(data.batch(0)) == before


def test_used_memory_leaves_no_trace(directory: Path) -> None:
    """Batches of changing sides in memory used before are those of fresh memory."""
    options = {"side_or_sides": (64, 96, 32), "label_smooth": 0.1}
    data = training_data(directory, **options)
    found, places = [], set()
    for step in range(12):
        batch = data.batch(step)
        found.append(digest(batch))
        places.add(batch.y_true_l.ctypes.data)
        del batch
    assert len(places) == 3
    assert found == [digest(training_data(directory, **options).batch(step)) for step in range(12)]


def test_a_batch_cannot_be_written_to(directory: Path) -> None:
    """What a consumer wrote would come back in another batch."""
    for array in training_data(directory).batch(0).inputs:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def damage_size(path: Path) -> None:
    """Replace an image by one of another size."""
    cv2.imwrite(str(path), np.zeros((10, 20, 3), np.uint8))


HARMS = [
    (lambda path: path.write_bytes(b"no image"), "8 bytes that are no image"),
    (lambda path: path.write_bytes(b""), "0 bytes"),
    (lambda path: path.write_bytes(path.read_bytes()[:-40]), "no image"),
    (damage_size, "20x10 pixels, its annotation says 64x64"),
    (Path.unlink, "No such file"),
]


def file_of(directory: Path, image_id: int) -> Path:
    """Return the file of a training image."""
    return directory / "train2017" / f"{image_id:012d}.jpg"


@pytest.mark.parametrize(("harm", "text"), HARMS)
def test_an_unusable_image_is_replaced_and_told(
    damaged: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Any], text: str
) -> None:
    """Its place is taken by another image, batch and log say so, the rest stays the same."""
    before = training_data(damaged).batch(2)
    data = training_data(damaged)
    victim = data.sample_ids(2)[0]
    harm(file_of(damaged, victim))
    with caplog.at_level("INFO", logger="muster.model"):
        batch = data.batch(2)
    (replaced,) = batch.replaced
    assert (replaced.image_id, replaced.substitute_id != victim) == (victim, True)
    assert text in replaced.reason and f"image {victim} left out of epoch 0" in caplog.text
    assert (data.replacements.samples, data.replacements.images) == (1, 1)
    assert batch.image_ids.tolist() == before.image_ids.tolist() and not before.replaced
    np.testing.assert_array_equal(batch.images[1], before.images[1])
    assert not np.array_equal(batch.images[0], before.images[0])


def test_a_substitute_has_its_own_boxes_and_the_lost_ones_augmentation(damaged: Path) -> None:
    """Its targets are those of its boxes, drawn by the generator of the image it stands for."""
    data = training_data(damaged)
    victim = data.sample_ids(2)[0]
    file_of(damaged, victim).unlink()
    batch = data.batch(2)
    (replaced,) = batch.replaced
    [place] = [i for i, image in enumerate(data.dataset.images)
               if image.id == replaced.substitute_id]  # fmt: skip
    drawn = draw_augmentation(
        sample_generator(3, 0, victim), data.dataset.boxes(place), (64, 64), 64, data.augmentation
    )
    expected = make_targets(drawn.boxes, 64, SMALL)
    for found, array in zip(batch.inputs[1:], expected.arrays(), strict=True):
        np.testing.assert_array_equal(found[0], array)
    pixels = augmented(read_image(data.dataset.images[place]), drawn, 64)
    np.testing.assert_array_equal(batch.images[0], pixels)


def test_replacements_are_the_same_on_every_path_to_a_step(damaged: Path) -> None:
    """With any workers, any cache, after a resume and as another rank: bit for bit the same."""
    for victim in training_data(damaged).sample_ids(1):
        file_of(damaged, victim).write_bytes(b"no image")
    whole = list(training_data(damaged).iterate(0, 10, workers=0))
    assert sum(len(batch.replaced) for batch in whole) >= 3
    for workers, cache in ((2, None), (1, ImageCache(0))):
        resumed = list(training_data(damaged, cache=cache).iterate(4, 10, workers))
        assert [digest(batch) for batch in resumed] == [digest(batch) for batch in whole[4:]]
        assert [batch.replaced for batch in resumed] == [batch.replaced for batch in whole[4:]]
    pair = [training_data(damaged, rank=r, world_size=2, batch_size=1) for r in (0, 1)]
    said = {(r.image_id, r.substitute_id) for step in range(5) for p in pair
            for r in p.batch(step).replaced}  # fmt: skip
    assert said == {(r.image_id, r.substitute_id) for b in whole[:5] for r in b.replaced}


def test_another_epoch_draws_another_substitute(damaged: Path) -> None:
    """One image does not stand in for a lost one for ever."""
    data = training_data(damaged)
    victim = data.sample_ids(0)[0]
    file_of(damaged, victim).unlink()
    chosen = [r.substitute_id for step in range(40) for r in data.batch(step).replaced]
    assert len(chosen) >= 6 and len(set(chosen)) >= 3 and victim not in chosen


@pytest.mark.parametrize("workers", [0, 2])
def test_where_no_image_can_be_used_the_step_fails(damaged: Path, workers: int) -> None:
    """Batches before it still come; then the consumer gets the error, and no thread is left."""
    data = training_data(damaged, cache=ImageCache(0))
    batches = data.iterate(0, 20, workers)
    next(batches)
    for path in (damaged / "train2017").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none can be used either") as caught:
        list(batches)
    assert caught.value.exit_code == 65 and prefetch_threads() == []


def test_a_failing_storage_is_no_bad_image(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error ends the step: read again after a restart, the image may well be there."""

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    data = training_data(damaged)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        data.batch(0)
    assert caught.value.errno == errno.EIO and data.replacements.samples == 0


def test_the_log_of_replacements_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty images are told in full; the rest, and repetitions, are counted."""
    log = ReplacementLog()
    for sample in range(3000):
        log.note(Replacement(sample % 1500, 7, "why"), epoch=0)
    assert (log.samples, log.images) == (3000, 1500)
    assert len(caplog.records) == 20 + 1 + 3


def test_rank_0_says_what_is_left_out(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The head of the log counts images and boxes, those left out too; one rank says it for all."""
    with caplog.at_level("INFO", logger="muster.model"):
        for rank in (0, 1):
            training_data(directory, rank=rank, world_size=2)
    (record,) = caplog.records
    assert "train2017: 11 images" in record.message and "left out: 0 images" in record.message


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


def encoded_with_orientation(orientation: int, height: int = 40, width: int = 60) -> bytes:
    """Return a JPEG, red on its left quarter and black elsewhere, with an EXIF orientation."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 4, 2] = 200
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation])
    tag += b"\0\0\0\0\0\0"
    return encoded[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + encoded[2:]


def test_the_annotated_size_decides_about_orientation_tags(tmp_path: Path) -> None:
    """Pixels, as RGB, are read as stored if that is the annotated size, else turned by the tag."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded_with_orientation(6))
    stored = read_image(CocoImage(1, str(path), 60, 40))
    assert stored.shape == (40, 60, 3) and stored[:, :10, 0].mean() > 190
    turned = read_image(CocoImage(1, str(path), 40, 60))
    assert turned.shape == (60, 40, 3) and turned[:10, :, 0].mean() > 190
    assert turned[..., 2].max() < 30
    path.write_bytes(encoded_with_orientation(6, height=60))
    square = read_image(CocoImage(1, str(path), 60, 60))
    assert square[:, :10, 0].mean() > 190
    path.write_bytes(encoded_with_orientation(1))
    with pytest.raises(DataError, match="60x40 pixels, its annotation says 40x60"):
        read_image(CocoImage(1, str(path), 40, 60))


@pytest.mark.parametrize(
    ("suffix", "shape", "dtype"),
    [(".png", (8, 9), "uint8"), (".jpg", (8, 9), "uint8"), (".png", (8, 9, 4), "uint8"),
     (".png", (8, 9), "uint16"), (".png", (8, 9, 3), "uint16"), (".png", (8, 9, 4), "uint16")],
)  # fmt: skip
def test_every_kind_of_pixel_becomes_8_bit_rgb(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str
) -> None:
    """Grey is repeated, alpha is dropped and not blended, of 16 bits the high byte stays."""
    high = np.iinfo(dtype).max + 1
    pixels = np.random.default_rng(4).integers(0, high, shape).astype(dtype)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), pixels)
    read = read_image(CocoImage(1, str(path), 9, 8))
    assert read.shape == (8, 9, 3) and read.dtype == np.uint8
    if pixels.ndim == 2:
        assert (read == read[..., :1]).all()
    if suffix == ".png":
        bgr = pixels[..., None].repeat(3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
        np.testing.assert_array_equal(read[..., ::-1], bgr >> 8 if dtype == "uint16" else bgr)


def test_an_image_of_gigapixels_is_refused_by_its_header(tmp_path: Path) -> None:
    """A small file that claims 60000x60000 pixels is never decoded."""
    content = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="60000x60000 pixels"):
        read_image(CocoImage(1, str(tmp_path / "a.png"), 4, 4))


def test_reading_for_evaluation_says_missing_or_wrong(tmp_path: Path) -> None:
    """Without a substitute to draw, an absent file is exit code 66 and a broken one 65."""
    (tmp_path / "b.jpg").write_bytes(b"broken")
    codes = []
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(DataError) as caught:
            read_image(CocoImage(1, str(tmp_path / name), 9, 9))
        codes.append(caught.value.exit_code)
    assert codes == [66, 65]
