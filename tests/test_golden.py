"""Our functions against vectors recorded from the original trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden import CHECKS, compare, main
from tests.golden_vectors import GOLDEN, SUBSET, distance


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if not check.full])
def test_agrees_with_the_original(name: str) -> None:
    """Every item of this group is within the tolerance stated for it."""
    differences = list(compare(GOLDEN.directory, [name]))
    assert differences, "nothing was compared"
    assert [d for d in differences if not d.good] == []


@pytest.mark.parametrize("name", ["targets", "lr", "resize", "coco-figures", "detections"])
def test_subset_in_the_repository_is_usable(name: str) -> None:
    """A checkout without the full set of vectors still compares."""
    differences = list(compare(SUBSET, [name]))
    assert differences
    assert all(d.good for d in differences)


def test_a_difference_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 1 and names the item when a recorded value is another one."""
    for name in ("evaluation.npz", "evaluation_gt.json"):
        (tmp_path / name).write_bytes((SUBSET / name).read_bytes())
    with np.load(tmp_path / "evaluation.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["detections"][:, 6] *= 1.01
    np.savez(tmp_path / "evaluation.npz", **arrays)
    assert main([str(tmp_path), "--only", "detections"]) == 1
    assert "BAD" in capsys.readouterr().out


def altered(tmp_path: Path, name: str) -> Path:
    """A directory with the recorded training vectors, one of them changed by one part in 1000."""
    (tmp_path / "training.json").write_bytes((SUBSET / "training.json").read_bytes())
    with np.load(SUBSET / "training.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = arrays[name] + np.maximum(arrays[name] // 1000, 1).astype(arrays[name].dtype)
    np.savez(tmp_path / "training.npz", **arrays)
    return tmp_path


@pytest.mark.parametrize(
    ("check", "name"),
    [
        ("lr", "lr/exponential"),
        ("sampler", "sampler/10_3_1"),
        ("multi-scale", "multi_scale/rate10_size1000"),
        ("resize", "resize/2/out_every_4"),
    ],
)
def test_only_the_item_that_differs_is_bad(tmp_path: Path, check: str, name: str) -> None:
    """Vectors from elsewhere are compared all the same, and each item by itself."""
    differences = list(compare(altered(tmp_path, name), [check]))
    [bad] = [difference.item for difference in differences if not difference.good]
    assert bad.startswith(name.removesuffix("/out_every_4"))
    assert len(differences) > 1


def test_full_size_is_passed_over_where_it_was_not_recorded() -> None:
    """The repository's subset has the small network alone."""
    assert list(compare(SUBSET, ["full", "initialisation"])) == []


def test_an_empty_directory_is_no_success(tmp_path: Path) -> None:
    """Comparing nothing counts as a failure."""
    assert main([str(tmp_path)]) == 1


def test_distance_is_relative_to_the_recorded_maximum() -> None:
    """Differences are in parts of the largest recorded value, and shapes must agree."""
    assert distance([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert distance([0.5], [0.0]) == 0.5
    assert distance([1.0], [1.0, 2.0]) == float("inf")
