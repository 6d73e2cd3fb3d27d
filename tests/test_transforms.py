"""Resizing, normalising, recolouring and placing; `test_golden` compares recorded ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model import transforms
from model.resample import resize
from model.transforms import (
    AugmentationSettings,
    Placement,
    augmented,
    draw_augmentation,
    sample_generator,
)
from tests.golden_training import check_resize
from tests.golden_vectors import GOLDEN

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}

quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a random image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def augment(
    image: np.ndarray, boxes: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return one training sample: its input and its boxes."""
    size = (image.shape[1], image.shape[0])
    drawn = draw_augmentation(rng, boxes, size, side, AugmentationSettings())
    return augmented(image, drawn, side), drawn.boxes


def test_evaluation_resizes_and_normalises_to_the_bit() -> None:
    """Enlarging, shrinking, mixed and equal sizes give exactly the recorded inputs."""
    differences = list(check_resize(GOLDEN))
    assert len(differences) >= 4
    assert [d for d in differences if d.value > 1e-6] == []


def test_an_input_is_made_in_place_if_there_is_one() -> None:
    """The same values go into the array that is given."""
    image, place = noise(40, 50), np.full((3, 40, 50), np.nan, np.float32)
    assert transforms.normalise(image, place) is place
    np.testing.assert_array_equal(place, transforms.normalise(image))
    mirrored = transforms.normalise(image[:, ::-1])
    np.testing.assert_array_equal(mirrored, place[:, :, ::-1])


@quick
@given(*[st.integers(1, 60)] * 4, st.sampled_from(sorted(PILLOW)), seeds)
def test_resizing_is_pillows_to_the_bit(
    h: int, w: int, height: int, width: int, method: str, seed: int
) -> None:
    """Every method equals Pillow's, columns first, at any size."""
    image = noise(h, w, seed)
    # One axis a time: newer Pillows choose the order of the axes, older ones begin with columns.
    expected = Image.fromarray(image).resize((width, h), PILLOW[method])
    expected = np.array(expected.resize((width, height), PILLOW[method]))
    np.testing.assert_array_equal(resize(image, width, height, method), expected)


@quick
@given(*[st.integers(4, 250)] * 4, st.sampled_from(["bilinear", "bicubic", "lanczos"]), st.data())
def test_a_window_is_a_part_of_the_whole(
    h: int, w: int, height: int, width: int, method: str, data: st.DataObject
) -> None:
    """No pixel is more than two levels off, even in noise: a place out by a pixel is far more."""
    window = left, top, right, bottom = draw_window(data, height, width)
    image = noise(h, w)
    whole = resize(image, width, height, method)[top:bottom, left:right].astype(int)
    assert np.abs(resize(image, width, height, method, window) - whole).max() <= 2


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("width", "height"), [(703, 811), (211, 193)])
def test_few_pixels_of_a_window_are_off(method: str, width: int, height: int) -> None:
    """Of a thousand values less than two, and by one level, whether it grows or shrinks."""
    image, window = noise(333, 401), (77, 31, 200, 180)
    whole = resize(image, width, height, method)[31:180, 77:200].astype(int)
    apart = np.abs(resize(image, width, height, method, window) - whole)
    assert apart.max() <= 1 and np.count_nonzero(apart) < 0.002 * apart.size


@quick
@given(*[st.integers(4, 250)] * 4, st.data())
def test_a_window_of_nearest_pixels_is_a_part_of_the_whole(
    h: int, w: int, height: int, width: int, data: st.DataObject
) -> None:
    """It takes the same pixels as the whole; at the border of two perhaps the other one."""
    window = left, top, right, bottom = draw_window(data, height, width)
    rows, columns = np.indices((h, w), np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    whole = resize(image, width, height, "nearest")[top:bottom, left:right].astype(int)
    apart = np.abs(resize(image, width, height, "nearest", window) - whole)[..., :2]
    centres = np.indices((height, width)).transpose(1, 2, 0) + 0.5
    centres = (centres * (h / height, w / width))[top:bottom, left:right]
    at_border = np.abs(centres - np.round(centres)) < 1e-3
    assert apart.max() <= 1 and not apart[~at_border].any()


def draw_window(data: st.DataObject, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw left, top, right, bottom of a window of a result."""
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    return left, top, right, bottom


def test_grey_and_extremes_normalise_to_known_values() -> None:
    """Levels 0 and 255 become -mean/deviation and (1-mean)/deviation of their channel."""
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    expected = [[-m / d, (1 - m) / d]
                for m, d in zip(transforms.MEAN, transforms.DEVIATION, strict=True)]  # fmt: skip
    np.testing.assert_allclose(transforms.normalise(image)[:, 0], expected, rtol=1e-6)


@quick
@given(seeds, st.integers(0, 999), st.integers(-5, 2**63), st.sampled_from([32, 64, 96]))
def test_a_sample_is_a_function_of_seed_epoch_and_image(
    seed: int, epoch: int, image_id: int, side: int
) -> None:
    """The same three numbers give the same sample; boxes stay inside and larger than a pixel."""
    image, boxes = noise(40, 50), np.array([[5.0, 5, 30, 30, 1], [20, 1, 49, 39, 0]])
    first, second = (
        augment(image, boxes, side, sample_generator(seed, epoch, image_id)) for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    pixels, kept = first
    assert pixels.shape == (3, side, side) and pixels.dtype == np.float32
    assert 1 <= len(kept) <= 2 and kept[:, :4].min() >= 0 and kept[:, :4].max() <= side
    assert (kept[:, 2:4] - kept[:, :2] > 1).all() and set(kept[:, 4]) <= {0.0, 1.0}


def test_global_random_state_plays_no_part() -> None:
    """Seeding NumPy's global generator changes nothing, and drawing leaves it alone."""
    image, boxes = noise(40, 50), np.array([[5.0, 5, 30, 30, 1]])
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        results.append(augment(image, boxes, 64, sample_generator(7, 1, 3)))
        following = np.random.random()
        np.random.seed(seed)
        assert np.random.random() == following
    np.testing.assert_array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("change", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_epoch_and_image_each_matter(change: tuple[int, int, int]) -> None:
    """Changing any of the three gives another stream."""
    numbers = (3, 4, 5)
    other = tuple(a + b for a, b in zip(numbers, change, strict=True))
    assert sample_generator(*numbers).random() != sample_generator(*other).random()


@pytest.mark.parametrize("boxes", [np.zeros((0, 5)), np.array([[3.0, 3, 3.01, 3.01, 0]])])
def test_an_image_without_a_usable_box_is_a_negative(boxes: np.ndarray) -> None:
    """Where the original raises in the middle of a run, the sample comes without boxes."""
    pixels, kept = augment(noise(40, 50), boxes, 64, sample_generator(0, 0, 0))
    assert pixels.shape == (3, 64, 64) and kept.shape == (0, 5)


def test_at_most_max_boxes_are_kept() -> None:
    """More objects than the targets can hold are cut, at random."""
    boxes = np.array([[2.0, 2, 38, 38, c] for c in range(80)])
    kept = augment(noise(40, 40), boxes, 64, sample_generator(0, 0, 0))[1]
    assert len(kept) == 50 and kept[:, 4].tolist() != sorted(kept[:, 4])


def test_boxes_follow_the_picture_through_placing_and_flipping() -> None:
    """A white rectangle lies where its moved box says, also when flipped or cut off."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[10:30, 20:40] = 255
    for place in (Placement(8, 4, 40, 40, flip=False), Placement(8, 4, 40, 40, flip=True),
                  Placement(-30, -20, 160, 80, flip=False)):  # fmt: skip
        box = transforms.place_boxes(np.array([[20, 10, 40, 30, 0]]), (80, 40), place, 64)[0]
        painted = painted_on_grey(image, place, 64)
        rows, columns = np.nonzero(painted[..., 0] == 255)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found == box[:4].tolist()


def test_the_border_is_grey() -> None:
    """What the image does not cover is 128 before the colours change."""
    painted = painted_on_grey(noise(10, 10), Placement(16, 16, 8, 8, flip=False), 32)
    assert (painted[:16] == 128).all() and (painted[:, 24:] == 128).all()
    assert (painted[16:24, 16:24] != 128).any()


@quick
@given(seeds, st.booleans())
def test_the_border_is_recoloured_with_the_image(seed: int, flip: bool) -> None:
    """Recolouring the part that is seen and one grey pixel is recolouring the whole input."""
    rng = np.random.default_rng(seed)
    place = Placement(int(rng.integers(-30, 40)), 3, 40, 70, flip=flip)
    image, colours = noise(50, 50, seed), transforms.draw_colours(rng, AugmentationSettings())
    drawn = transforms.Augmentation(place, "bicubic", colours, np.zeros((0, 5)))
    expected = transforms.recolour(painted_on_grey(image, place, 64, "bicubic"), colours)
    np.testing.assert_array_equal(augmented(image, drawn, 64), transforms.normalise(expected))


def painted_on_grey(
    image: np.ndarray, place: Placement, side: int, method: str = "nearest"
) -> np.ndarray:
    """Return the input before its colours change."""
    part = transforms.visible_part(image, place, side, method)
    return transforms.framed(part, place, side, (transforms.GREY,) * 3)
