"""Benchmarks of the trainer: both sides do the same work; nothing is timed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
from rich.console import Console

from tests.benchmarks import decode_nms, start_full, training_step
from tests.benchmarks.bench import Bench, BenchmarkError, Progress, Unavailable, place
from tests.benchmarks.sides import decode, modelzoo_pipeline, photographs, pipeline, run_side
from tests.benchmarks.sides.heads import STRIDES, synthetic_heads


@pytest.fixture
def progress() -> Progress:
    """Progress that nobody sees."""
    return Progress(Console(quiet=True))


def test_both_sides_of_decoding_find_the_same() -> None:
    """The peer's loops and ours agree on synthetic heads, whose boxes are mostly background."""
    images = decode.Images(distinct=2, batch=2)
    ours, peer = decode.ours(images, 0, 2), decode.peer(images, 0, 2)
    assert decode.difference(ours, peer) == 0
    assert set(ours[:, 0]) == {0, 1} and 50 < len(ours) / 2 < 1000
    assert decode.difference(ours, peer[1:]) == float("inf")
    for head, stride in zip(synthetic_heads(1, 0), STRIDES, strict=True):
        assert head.shape == (1, 416 // stride, 416 // stride, 3, 85) and head.dtype == "float32"
        assert (head[..., 4] < 0.001).mean() > 0.7


@pytest.mark.parametrize(("apart", "ratio"), [(0.0, 10.0), (0.1, 0.0), (None, 0.0)])
def test_detections_that_differ_have_no_ratio(
    monkeypatch: pytest.MonkeyPatch, progress: Progress, apart: float | None, ratio: float
) -> None:
    """Fast and wrong is ratio 0."""
    found = {"ours": [1.0], "peer": [10.0], "detections": 9, "difference": apart, "memory": 1.0}
    monkeypatch.setattr(decode_nms, "run_side", lambda *_, **__: found)
    with place(progress) as bench:
        measurement = decode_nms.measure(bench, frozenset(decode_nms.NAMES))["decode_nms"]
    assert measurement.ratio == ratio


def test_photographs_are_a_data_set_that_both_sides_read(tmp_path: Path) -> None:
    """JPEGs of the annotated sizes; a batch of either side has the same shapes."""
    photographs.make(tmp_path / "data", 4)
    data = pipeline.ours(tmp_path / "data", 96, 2)
    assert data.cache.limit_bytes == 0
    [ours] = data.iterate(0, 1)
    source = modelzoo_pipeline.Source(tmp_path / "data")
    rows = [source[index] for index in (0, 1)]
    pixels = [cv2.imdecode(row[0], 1) for row in rows]
    peer = modelzoo_pipeline.whole_batch(pixels, [row[1] for row in rows], 96)
    assert [array.shape for array in ours.inputs] == [peer[0].shape, *(a.shape for a in peer[2:])]
    assert all(array.dtype == "float32" for array in (peer[0], *peer[2:]))


def test_a_step_has_each_side_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    """After compiling, ours with AVX2 and the peer without take turns, whatever the caller set."""
    calls = []

    def side(
        bench: Bench, name: str, *arguments: object, timeout: float, **environment: str
    ) -> Any:
        isa, steps = environment["ONEDNN_MAX_CPU_ISA"], arguments[3]
        calls.append((name, *arguments[:2], isa, steps))
        return {"seconds": [1.0 if isa else 16.0] * steps, "cpu": [2.0] * steps, "memory": 2.5}

    monkeypatch.setattr(training_step, "run_side", side)
    with place(progress) as bench:
        found = training_step.measure(bench, frozenset({"step_full_320"}))["step_full_320"]
    ours, peer = ("network_step", 320, 2, "AVX2", 3), ("network_step", 320, 2, "", 1)
    assert calls == [("network_step", 320, 2, "AVX2", 0), ours, peer, ours, peer]
    assert found.peer is not None
    assert (found.ours.n, found.peer.n, found.ratio) == (6, 2, 16)
    assert found.entry({})["peak_memory_gb"] == {"ours": 2.5, "peer": 2.5}


def test_without_torch_its_benchmark_is_not_available(
    monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    """It says so before anything is measured."""
    monkeypatch.setattr(training_step.importlib.util, "find_spec", lambda name: None)
    with place(progress) as bench, pytest.raises(Unavailable, match="PyTorch is not installed"):
        training_step.measure_vs_torch(bench, frozenset(training_step.TORCH_NAMES))


def test_a_side_reports_on_its_last_line(progress: Progress, tmp_path: Path) -> None:
    """What a side found comes back as it was; one that fails is an error with its reason."""
    with place(progress) as bench:
        assert run_side(bench, "photographs", tmp_path / "data", 1, timeout=60) == 1
        with pytest.raises(BenchmarkError, match="FileExistsError"):
            run_side(bench, "photographs", tmp_path / "data", 1, timeout=60)


def test_a_start_is_measured_warm_and_cold_in_turn(
    monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    """Warm starts share the cache that the first one filled; every cold one has an empty cache."""
    caches, checkpoints = [], set()

    def side(bench: Bench, name: str, *arguments: object, **options: object) -> Any:
        warm = arguments[0] in caches
        caches.append(arguments[0])
        checkpoints.add(arguments[1])
        graph = 2.0 if warm else 17.0
        return {"seconds": {"imports": 1.0, "graph": graph}, "cpu": {"imports": 1.0, "graph": 1.0},
                "memory": 2.5}  # fmt: skip

    monkeypatch.setattr(start_full, "run_side", side)
    with place(progress) as bench:
        found = start_full.measure(bench, frozenset(start_full.NAMES))["start_full_warm"]
    assert len(checkpoints) == 1
    assert len(caches) == 1 + 2 * start_full.ROUNDS
    assert len(set(caches)) == 1 + start_full.ROUNDS
    assert (found.ours.median, found.ratio) == (3.0, 6.0)
