"""Draw the course of a training: `python -m model.plots RUN_DIR_OR_METRICS [--out=PNG]`.

Loss and its parts, gradient norm, learning rate, throughput and evaluations over the global step,
from `metrics.jsonl`. The picture (default: `training.png` beside the metrics) appears whole.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.canvas import (
    ALARM,
    COLOURS,
    INK,
    PALE,
    canvas,
    count_steps,
    grouped,
    literal,
    use_logarithms,
)
from model.config import ConfigError
from model.metrics_history import PARTS, History, read_history
from model.options import run_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from orchestrator.rank import Rank

METRICS, PICTURE = "metrics.jsonl", "training.png"
FIGURES = ("AP", "AP50")
DECADES = 30.0
"""From this ratio on, of the largest value to one of the small ones, an axis is logarithmic."""

_LINES = {
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "images_per_second": "images/s, all ranks",
    "steps_per_second": "steps/s",
}
_MAY_SPAN_DECADES = ("gradient_norm", "learning_rate")
_FEW = 40
_ATTEMPTS_NUMBERED = 25
_PANEL_PIXELS = {"loss": 340}
_OTHER_PIXELS = 190


@dataclass(frozen=True)
class Panel:
    """One of the axes: its name, what stands at its y axis, and what draws it."""

    name: str
    label: str
    draw: Callable[[Axes, History], None]


def plot_training(metrics_file: Path, png: Path, name: str = "") -> None:
    """Draw `metrics_file` into `png`; `name` is that of the job or run, for the title.

    Raises DataError for metrics that are not there (66) or hold nothing (65); OSError.
    """
    history = read_history(metrics_file)
    with canvas(png, 110 + sum(_pixels(panel) for panel in panels(history))) as figure:
        draw_training(figure, history, name)


def draw_training(figure: Figure, history: History, name: str = "") -> None:
    """Draw the panels below each other, with one axis of steps."""
    shown = panels(history)
    rows = figure.subplots(
        len(shown), sharex=True, squeeze=False, height_ratios=[_pixels(panel) for panel in shown]
    )[:, 0]
    figure.suptitle(title(history, name), x=0.01, ha="left")
    for axes, panel in zip(rows, shown, strict=True):
        axes.set_ylabel(panel.label)
        panel.draw(axes, history)
        _mark_resumes(axes, history)
    _number_attempts(rows[0], history)
    count_steps(rows[-1])
    rows[-1].set_xlabel("global step" + _thinning(history))
    figure.align_ylabels(rows)


def _pixels(panel: Panel) -> int:
    return _PANEL_PIXELS.get(panel.name, _OTHER_PIXELS)


def panels(history: History) -> list[Panel]:
    """The panels for which there is something to draw, from the top."""
    found = [Panel("loss", "loss", _draw_loss)] if history.has("loss") else []
    images = history.has("images_per_second")
    for name, label in _LINES.items():
        if history.has(name) and not (images and name == "steps_per_second"):
            found.append(Panel(name, label, _line(name)))
    if history.evaluations:
        found.append(Panel("evaluation", "AP, AP50", _draw_evaluations))
    return found


def title(history: History, name: str) -> str:
    """Say what was trained, how far and in how many attempts."""
    subject = literal(name, 60) or "training"
    if not history.stretches:
        return f"{subject}: evaluations"
    first = min(stretch.first for stretch in history.stretches)
    last = max(stretch.last for stretch in history.stretches)
    resumed = len(history.stretches) - 1
    times = {0: "", 1: ", resumed once"}.get(resumed, f", resumed {resumed} times")
    return f"{subject}: steps {grouped(first)} to {grouped(last)}{times}"


def spans_decades(values: np.ndarray) -> bool:
    """Whether a logarithmic axis shows these values better; a few low ones do not decide."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    if not len(positive):
        return False
    return bool(positive.max() / np.quantile(positive, 0.15) >= DECADES)


def smooth(values: np.ndarray) -> np.ndarray:
    """The running mean of (n,) over a fortieth of them; NaN stays out of it."""
    reach = len(values) // 80
    window, here = np.ones(2 * reach + 1), slice(reach, reach + len(values))
    known = np.isfinite(values)
    count = np.convolve(known, window)[here]
    total = np.convolve(np.where(known, values, 0), window)[here]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw_loss(axes: Axes, history: History) -> None:
    loss, steps = history.mean["loss"], history.steps
    logarithmic = spans_decades(loss)
    _draw_band(axes, history, "loss")
    axes.plot(steps, loss, color=INK, linewidth=0.6, alpha=0.35)
    known = [part for part in PARTS if history.has(part)]
    for name, colour in zip(("loss", *known), (INK, *COLOURS), strict=False):
        values = history.mean[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            # What is even to the eye is smoothed: on a logarithmic axis, the logarithms.
            values = np.exp(smooth(np.log(values))) if logarithmic else smooth(values)
        whole = name == "loss"
        label = "sum of its parts" if whole else name
        _draw_line(axes, steps, values, color=colour, linewidth=1.8 if whole else 1.2, label=label)
    if logarithmic:
        use_logarithms(axes)
    if known:
        _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderpad=0, borderaxespad=0.2)


def _line(name: str) -> Callable[[Axes, History], None]:
    """What draws one series as a line with its band, from 0 on or logarithmically."""

    def draw(axes: Axes, history: History) -> None:
        values = history.mean[name]
        if name != "learning_rate":
            _draw_band(axes, history, name)
        _draw_line(axes, history.steps, values, color=INK, linewidth=1.1)
        if name in _MAY_SPAN_DECADES and spans_decades(values):
            use_logarithms(axes)
        else:
            axes.set_ylim(bottom=0)
        if name == "gradient_norm" and history.skipped:
            _mark_skipped(axes, history)

    return draw


def _draw_line(
    axes: Axes, steps: np.ndarray, values: np.ndarray, *, color: str,
    linewidth: float, label: str | None = None,
) -> None:  # fmt: skip
    marker = "o" if len(steps) <= _FEW else ""
    axes.plot(
        steps, values, color=color, linewidth=linewidth, label=label, marker=marker, markersize=3
    )


def _draw_band(axes: Axes, history: History, name: str) -> None:
    """From lowest to highest of each bin."""
    if history.width > 1:
        low, high = history.low[name], history.high[name]
        axes.fill_between(history.steps, low, high, color=PALE, alpha=0.3, linewidth=0)


def _mark_skipped(axes: Axes, history: History) -> None:
    steps = history.steps[history.high["skipped"] > 0]
    place = axes.get_xaxis_transform()
    axes.plot(steps, np.full(len(steps), 0.03), "|", color=ALARM, transform=place, markersize=8)
    text = f"{history.skipped} steps skipped: gradient not finite"
    axes.text(0.995, 0.95, text, color=ALARM, transform=axes.transAxes, ha="right", va="top")


def _draw_evaluations(axes: Axes, history: History) -> None:
    steps = list(history.evaluations)
    for name, colour in zip(FIGURES, COLOURS, strict=False):
        values = [history.evaluations[step].get(name, np.nan) for step in steps]
        axes.plot(steps, values, "o-", color=colour, label=_best(name, steps, values), markersize=4)
    axes.set_ylim(bottom=0)
    _legend_above(axes)


def _best(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """The legend of a figure: its name, and its best value."""
    if not np.isfinite(values).any():
        return f"{name}: unknown"
    best = int(np.nanargmax(values))
    return f"{name}, best {values[best]:.3f} at step {grouped(steps[best])}"


def _mark_resumes(axes: Axes, history: History) -> None:
    for stretch in history.stretches[1:]:
        axes.axvline(stretch.first, color=ALARM, linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.7)


def _number_attempts(axes: Axes, history: History) -> None:
    """Name the attempts at the lines where they begin, as long as there is room."""
    if len(history.stretches) > _ATTEMPTS_NUMBERED:
        return
    for stretch in history.stretches[1:]:
        axes.annotate(
            f"attempt {stretch.attempt}", (stretch.first, 1), xycoords=("data", "axes fraction"),
            xytext=(3, -3), textcoords="offset points", color=ALARM, fontsize=9, va="top",
            rotation=90,
        )  # fmt: skip


def _thinning(history: History) -> str:
    if history.width == 1:
        return ""
    return f"  (a point is the mean of {history.width} steps; the band: their lowest to highest)"


def run(words: Sequence[str], rank: Rank) -> None:
    """Draw, and say where."""
    source, out, name = read_words(words)
    metrics = source / METRICS if source.is_dir() else source
    png = out or metrics.with_name(PICTURE)
    plot_training(metrics, png, name or name_of(metrics.parent))
    print(png)


def read_words(words: Sequence[str]) -> tuple[Path, Path | None, str]:
    """Read the arguments: (run directory or metrics, picture, title); raises ConfigError."""
    own: dict[str, str] = {}
    places, problems = [], []
    for word in words:
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            places.append(word)
        elif option not in ("--out", "--name") or not equals or not value:
            problems.append(f"{word}: expected --out=PNG or --name=TITLE")
        elif option in own:
            problems.append(f"{option} is given twice")
        else:
            own[option] = value
    if len(places) != 1:
        problems.insert(0, f"{len(places)} files given: name one run directory or {METRICS}")
    if own.get("--out", PICTURE).endswith((".jsonl", "/")):
        problems.append(f"--out={own['--out']}: expected the name of a PNG")
    if problems:
        raise ConfigError(problems)
    return Path(places[0]), Path(own["--out"]) if "--out" in own else None, own.get("--name", "")


def name_of(folder: Path) -> str:
    """The name of the job that ran in a run directory, else that of the folder."""
    try:
        name = json.loads((folder / "spec.json").read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    return name if isinstance(name, str) and name else folder.resolve().name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 64 for arguments, 65 or 66 for metrics, 1 if it failed."""
    return run_command(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
