"""A matplotlib figure for a file: one look, without display, pyplot or anything left behind."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
WIDTH = 1200
"""Pixels: what a page shows without scaling."""

INK, PALE, ALARM = "#1f2d3d", "#8a97a6", "#c0392b"
COLOURS = ("#1f77b4", "#d1741f", "#2a8f5a", "#8e5ea2", "#b5543c", "#4f9da6", "#a3862a", "#7a6f9b")
"""Legible on white and told apart by people who are colour-blind, as far as eight can be."""

# Names of classes may be in any script: the first of these fonts that is installed fills the gaps.
_FALLBACKS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "SimHei", "Noto Sans")
_LOOK: dict[str, Any] = {
    "figure.dpi": DPI, "savefig.dpi": DPI, "font.size": 11, "text.color": INK,
    "axes.edgecolor": PALE, "axes.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.titlesize": 12, "axes.titlelocation": "left", "figure.titlesize": 14,
    "axes.axisbelow": True, "grid.color": "#e3e7ec", "grid.linewidth": 0.7,
    "xtick.color": INK, "ytick.color": INK, "xtick.labelsize": 10, "ytick.labelsize": 10,
    "legend.frameon": False, "legend.fontsize": 10, "lines.linewidth": 1.4,
    "path.simplify": True, "agg.path.chunksize": 10_000,
}  # fmt: skip


@contextlib.contextmanager
def canvas(path: Path, height: int, width: int = WIDTH) -> Iterator[Figure]:
    """Give an empty figure of `width` x `height` pixels; write it to `path`, a PNG, at the end.

    The file appears whole or not at all. A user's own matplotlib settings do not show in it.
    Raises OSError.
    """
    matplotlib = _matplotlib()
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    known = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FALLBACKS if name in known)]
    plain = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    with matplotlib.rc_context({**plain, **_LOOK, "font.family": fonts}):
        figure = Figure(figsize=(width / DPI, height / DPI), layout="constrained")
        yield figure
        content = io.BytesIO()
        with warnings.catch_warnings():
            # A character that no font has is drawn as a box; there is nobody to warn.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(content, format="png", metadata={"Software": None})
    write_whole(path, content.getvalue())


def literal(text: str, most: int = 40) -> str:
    """Return `text` as a label of at most `most` characters in which nothing is a formula."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("$", r"\$")


def grouped(number: float) -> str:
    """Write a whole number in groups of three digits: 250 000."""
    return f"{number:,.0f}".replace(",", " ")


def count_steps(axes: Axes) -> None:
    """Make the x axis one of steps: whole numbers, in groups."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: grouped(step)))
    axes.margins(x=0.01)


def use_logarithms(axes: Axes, decades: float = 4) -> None:
    """Make the y axis logarithmic, of at most so many decades; its numbers in plain digits."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log", nonpositive="clip")
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=max(low, high / 10**decades))
    axes.yaxis.set_major_formatter("{x:g}")
    narrow = high / low < 200
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if narrow else "auto"))
    axes.yaxis.set_minor_formatter("{x:g}" if narrow else "")


def _matplotlib() -> Any:
    """Import matplotlib; where its folders cannot be written, with folders for the import alone.

    It keeps a list of fonts there, and would warn, and leave a folder behind in a rank that ends
    without Python's own exit.
    """
    if "MPLCONFIGDIR" in os.environ or all(map(_writable, _folders())):
        import matplotlib.font_manager

        return matplotlib
    with tempfile.TemporaryDirectory(prefix="muster-matplotlib-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            import matplotlib.font_manager
        finally:
            del os.environ["MPLCONFIGDIR"]
    return matplotlib


def _folders() -> list[Path]:
    """Where matplotlib looks for settings and keeps its list of fonts."""
    bases = (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache"))
    return [
        Path(os.environ.get(name) or os.path.expanduser(default)) / "matplotlib"
        for name, default in bases
    ]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
