"""The picture of a training: what is drawn, and a command that leaves it whole or not at all."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from model import canvas
from model.metrics_history import History, read_history
from model.plots import draw_training, main, panels, plot_training, smooth, spans_decades, title

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("xy", "wh", "objectness", "classes")


def record(step: int, attempt: int = 1, **more: Any) -> dict[str, Any]:
    """A step as the trainer tells it, with every field."""
    loss = 500 * math.exp(-step / 20) + 5
    return {
        "attempt": attempt, "time": 1.0, "step": step, "epoch": 0, "loss": loss, "side": 96,
        "learning_rate": 0.001, "step_seconds": 0.5, "images_replaced": 0, "gradient_norm": 2.0,
        "parts": {head: dict.fromkeys(NAMES, loss / 12) for head in "lms"},
        "images_per_second": 64.0, "data_wait_seconds": 0.0, "skipped": False, **more,
    }  # fmt: skip


def evaluated(step: int, ap: float) -> dict[str, Any]:
    """The record of an evaluation."""
    return {"attempt": 1, "step": step, "evaluation": {"AP": ap, "AP50": 2 * ap}}


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    """Write metrics."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in records))
    return file


def resumed_run(folder: Path) -> Path:
    """Two attempts, one skipped step, two evaluations."""
    rows = [record(step) for step in range(1, 61)]
    rows += [record(step, attempt=2, skipped=step == 70) for step in range(51, 101)]
    rows += [evaluated(50, 0.1), evaluated(100, 0.2)]
    return write(folder / "metrics.jsonl", rows)


def drawn(history: History, name: str = "") -> Figure:
    """The figure, in memory."""
    figure = Figure()
    draw_training(figure, history, name)
    return figure


def size_of(png: Path) -> tuple[int, int]:
    """Width and height in pixels of a PNG, from its header."""
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def test_everything_known_has_its_panel(tmp_path: Path) -> None:
    """Loss with its parts, gradient norm, learning rate, images a second and evaluations."""
    history = read_history(resumed_run(tmp_path))
    axes = drawn(history, "my job").axes
    assert [row.get_ylabel() for row in axes] == [
        "loss", "gradient norm", "learning rate", "images/s, all ranks", "AP, AP50",
    ]  # fmt: skip
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["sum of its parts", *NAMES]
    best = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert best == ["AP, best 0.200 at step 100", "AP50, best 0.400 at step 100"]
    assert axes[-1].get_xlabel() == "global step" and axes[0].get_yscale() == "log"


def test_an_older_file_shows_what_it_has(tmp_path: Path) -> None:
    """Without parts, norm and images a second there are loss, learning rate and steps a second."""
    old = ("attempt", "step", "loss", "learning_rate", "step_seconds")
    rows = [{name: record(step)[name] for name in old} for step in (1, 2, 3)]
    history = read_history(write(tmp_path / "m", rows))
    assert [panel.name for panel in panels(history)] == [
        "loss", "learning_rate", "steps_per_second",
    ]  # fmt: skip
    assert drawn(history).axes[0].get_legend() is None


def test_a_resumed_run_is_marked_where_it_resumed(tmp_path: Path) -> None:
    """Every panel has a vertical line at the first step of the second attempt; the top names it."""
    figure = drawn(read_history(resumed_run(tmp_path)))
    for axes in figure.axes:
        vertical = [line for line in axes.lines if list(line.get_xdata()) == [51, 51]]
        assert len(vertical) == 1
    assert "attempt 2" in [text.get_text() for text in figure.axes[0].texts]
    assert any("1 steps skipped" in text.get_text() for text in figure.axes[1].texts)


def test_the_title_says_what_and_how_far(tmp_path: Path) -> None:
    """Name, steps and resumptions; what looks like a formula stays text."""
    history = read_history(resumed_run(tmp_path))
    assert title(history, "a $b$") == r"a \$b\$: steps 1 to 100, resumed once"
    only = read_history(write(tmp_path / "m", [evaluated(5, 0.5)]))
    assert title(only, "") == "training: evaluations"


@pytest.mark.parametrize("rows", [
    [record(1)], [record(1, loss=math.nan)], [record(1, loss=0.0), record(2, loss=-1.0)],
    [evaluated(1, math.nan)], [record(5, learning_rate=0.0, gradient_norm=math.inf)],
    [record(1, loss=1e-300), record(2, loss=1e300)], [record(2**52)],
])  # fmt: skip
def test_extreme_runs_are_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """One step, no number at all, zeros, infinities: a picture all the same, and no warning."""
    plot_training(write(tmp_path / "m", rows), tmp_path / "a.png")
    assert size_of(tmp_path / "a.png")[0] == 1200


@pytest.mark.parametrize(("values", "expected"), [
    ([1, 2, 3], False), ([1000] + [1] * 9, True), ([1] * 99 + [0.001], False),
    ([0.0, 0.0], False), ([], False), ([np.nan, 5], False), ([-5, 1, 2], False),
])  # fmt: skip
def test_decades_make_an_axis_logarithmic(values: list[float], expected: bool) -> None:
    """A long fall does, one low value, zeros and gaps do not."""
    assert spans_decades(np.array(values, np.float64)) is expected


def test_smoothing_keeps_a_level_and_passes_over_gaps() -> None:
    """A constant stays one up to both ends; NaN does not spread, and stays where all is unknown."""
    values = np.full(400, 7.0)
    values[100] = np.nan
    np.testing.assert_allclose(smooth(values), 7.0)
    assert np.isnan(smooth(np.full(400, np.nan))).all()
    assert smooth(np.array([1.0, 5.0])).tolist() == [1, 5]
    bumped = np.zeros(400)
    bumped[200] = 11
    assert smooth(bumped)[195:206] == pytest.approx(1) and smooth(bumped).sum() == pytest.approx(11)


# -- the command ---------------------------------------------------------------------------------


def test_a_run_directory_gets_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`training.png` appears beside the metrics, at a page's width, and nothing else."""
    resumed_run(tmp_path)
    assert main([str(tmp_path)]) == 0
    png = tmp_path / "training.png"
    assert capsys.readouterr().out == f"{png}\n"
    width, height = size_of(png)
    assert width == 1200 and 600 < height < 1500
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "training.png"]


def test_the_same_metrics_give_the_same_picture(tmp_path: Path) -> None:
    """Byte for byte, wherever it is written to."""
    metrics = resumed_run(tmp_path)
    pictures = [tmp_path / "one.png", tmp_path / "deep" / "two.png"]
    for png in pictures:
        assert main([str(metrics), f"--out={png}", "--name=same"]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_wrong_arguments_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake in one message, and exit code 64."""
    assert main(["--size=3", "--out=", "a", "b", "--name=x", "--name=y"]) == 64
    message = capsys.readouterr().err
    assert all(text in message for text in ("2 files", "--size=3", "--out=", "--name is given"))
    assert main([]) == 64
    assert main(["run", "--out=metrics.jsonl"]) == 64


def test_what_cannot_be_read_or_written_has_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """66 for no metrics, 65 for an empty file, 1 for a place that cannot be written."""
    assert main([str(tmp_path)]) == 66
    write(tmp_path / "metrics.jsonl", [])
    assert main([str(tmp_path)]) == 65
    metrics = resumed_run(tmp_path)
    assert main([str(metrics), f"--out={metrics}/a.png"]) == 1
    message = capsys.readouterr().err
    assert "metrics.jsonl" in message and "Traceback" not in message


def test_a_failed_write_leaves_the_former_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails, what was there stays whole, and no scrap remains."""
    metrics, png = resumed_run(tmp_path), tmp_path / "a.png"
    plot_training(metrics, png)
    before = png.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("model.whole_file.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        plot_training(metrics, png, "another title")
    assert png.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.png", "metrics.jsonl"]


def test_a_home_that_cannot_be_written_does_not_show(tmp_path: Path) -> None:
    """No display, no pyplot, no warning, nothing left in the temporary folder, ended hard."""
    metrics, scratch = resumed_run(tmp_path / "run"), tmp_path / "scratch"
    scratch.mkdir()
    program = (
        "import os, sys\n"
        "from model.plots import main\n"
        f"code = main([{str(metrics)!r}])\n"
        "os._exit(code or 3 * ('matplotlib.pyplot' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False,
        env={"HOME": "/proc/none", "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT), "PATH": "/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert size_of(metrics.parent / "training.png")[0] == 1200
    assert os.listdir(scratch) == []


def test_the_name_is_that_of_the_job(tmp_path: Path) -> None:
    """A run directory knows its job's name; another folder's own name serves."""
    from model.plots import name_of

    folder = tmp_path / "run-7"
    folder.mkdir()
    assert name_of(folder) == "run-7"
    (folder / "spec.json").write_text('{"name": "rehearsal"}')
    assert name_of(folder) == "rehearsal"
    (folder / "spec.json").write_text("[]")
    assert name_of(folder) == "run-7"


def test_a_users_own_settings_do_not_show(tmp_path: Path) -> None:
    """What another part of the program set for matplotlib neither shows nor is changed."""
    import matplotlib

    metrics = resumed_run(tmp_path)
    plot_training(metrics, tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        plot_training(metrics, tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_are_short_and_literal() -> None:
    """Control characters, formulas and long names cannot disturb a picture."""
    assert canvas.literal("a\nb$c$") == r"a?b\$c\$"
    assert canvas.literal("x" * 50, 10) == "x" * 9 + "…"
