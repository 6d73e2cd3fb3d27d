"""Our functions against vectors recorded from the original trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden import CHECKS, compare, main
from tests.golden_vectors import distance

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared" / "golden"
SUBSET = ROOT / "tests" / "golden_data"
DIRECTORY = RECORDED if (RECORDED / "network.npz").is_file() else SUBSET


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if not check.full])
def test_agrees_with_the_original(name: str) -> None:
    """Every item of this group is within the tolerance stated for it."""
    differences = list(compare(DIRECTORY, [name]))
    assert differences, "nothing was compared"
    assert [d for d in differences if not d.good] == []


@pytest.mark.parametrize("name", ["targets", "detections"])
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


def test_an_empty_directory_is_no_success(tmp_path: Path) -> None:
    """Comparing nothing counts as a failure."""
    assert main([str(tmp_path)]) == 1


def test_distance_is_relative_to_the_recorded_maximum() -> None:
    """Differences are in parts of the largest recorded value, and shapes must agree."""
    assert distance([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert distance([0.5], [0.0]) == 0.5
    assert distance([1.0], [1.0, 2.0]) == float("inf")
