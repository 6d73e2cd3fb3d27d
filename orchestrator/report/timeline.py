"""The time line of a run: attempts, phases of the way back, failures, checkpoints, waits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.explain import SPLIT
from orchestrator.report.markup import Html, el, join

_LEFT, _WIDTH, _ROW, _TOP = 96, 860, 30, 8
_LANES = ("attempts", "way back", "failures", "checkpoints", "waiting")
_MOST = 2000
"""Pieces drawn at most: a page must open on a phone."""

_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True)
class Piece:
    """Something in a lane from `start` to `end` (Unix seconds); equal: an instant."""

    lane: str
    start: float
    end: float
    kind: str
    title: str


def pieces(events: Sequence[Mapping[str, Any]], incidents: Sequence[Mapping[str, Any]],
           until: float) -> list[Piece]:  # fmt: skip
    """What there is to draw. `until` is where what has not ended ends."""
    # Where not all can be drawn, what the page is read for comes before what goes well.
    found = [piece for one in incidents for piece in _way_back(one)]
    found += [*_attempts(events, until), *_waits(events, until), *_checkpoints(events)]
    return [piece for piece in found if math.isfinite(piece.start) and math.isfinite(piece.end)]


def timeline(events: Sequence[Mapping[str, Any]], incidents: Sequence[Mapping[str, Any]],
             until: float) -> Html:  # fmt: skip
    """The drawing; a sentence where nothing was begun."""
    drawn = pieces(events, incidents, until)
    if not drawn:
        return el("p", "Nothing was started yet.")
    begin = min(piece.start for piece in drawn)
    span = max(max(piece.end for piece in drawn) - begin, 1e-3)
    height = _TOP + _ROW * len(_LANES) + 26
    left_out = len(drawn) - _MOST
    note = el("p", f"{left_out} pieces more are not drawn.") if left_out > 0 else Html("")
    svg = el(
        "svg",
        join(_axis(span, height)),
        join(_lane_names()),
        join(_shape(piece, begin, span) for piece in drawn[:_MOST]),
        viewBox=f"0 0 {_LEFT + _WIDTH + 20} {height}",
        role="img",
        aria_label="time line of the run",
    )
    return join([el("div", svg, class_="wide"), note, _legend()])


def _attempts(events: Sequence[Mapping[str, Any]], until: float) -> Iterator[Piece]:
    begun: tuple[float, int] | None = None
    for event in events:
        if event["kind"] == "attempt":
            begun = (event["time"], event["attempt"])
        ends = event["kind"] == "attempt_ended" or event["state"] in ("SUCCEEDED", "FAILED")
        if begun is not None and ends:
            yield _attempt(*begun, event["time"])
            begun = None
    if begun is not None:
        yield _attempt(*begun, max(until, begun[0]))


def _attempt(start: float, number: int, end: float) -> Piece:
    return Piece("attempts", start, end, "attempt", f"attempt {number}: {end - start:.1f} s")


def _waits(events: Sequence[Mapping[str, Any]], until: float) -> Iterator[Piece]:
    """Times in which the job held nothing, or looked for devices."""
    since: tuple[float, str] | None = None
    for event in events:
        waits = event["kind"] == "waiting" or event["state"] in ("QUEUED", "HELD")
        if since is None and waits:
            since = (event["time"], event["reason"])
        elif since is not None and not waits and event["state"] is not None:
            yield Piece("waiting", since[0], event["time"], "wait", since[1])
            since = None
    if since is not None:
        yield Piece("waiting", since[0], max(until, since[0]), "wait", since[1])


def _checkpoints(events: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    for event in events:
        if event["kind"] in ("checkpoint", "quarantined", "promoted"):
            good = event["kind"] != "quarantined" and event["data"].get("verified", True)
            kind = "saved" if good else "broken"
            yield Piece("checkpoints", event["time"], event["time"], kind, event["reason"])


def _way_back(one: Mapping[str, Any]) -> Iterator[Piece]:
    """The fault as an instant, and each part of the way back."""
    at = one["fault_at"]
    if at is None:
        return
    yield Piece("failures", at, at, "fault", f"incident {one['incident']}: {one['cause']}")
    before = 0.0
    for name in SPLIT:
        after = one["split"].get(name)
        if after is not None and after >= before:
            title = f"{name.removesuffix('_after').replace('_', ' ')}: {after - before:.2f} s"
            yield Piece("way back", at + before, at + after, f"p{SPLIT.index(name)}", title)
            before = after


def _shape(piece: Piece, begin: float, span: float) -> Html:
    x = _LEFT + _WIDTH * (piece.start - begin) / span
    y = _TOP + _ROW * _LANES.index(piece.lane)
    title = el("title", piece.title)
    if piece.start == piece.end:
        return el("circle", title, cx=f"{x:.2f}", cy=y + 11, r=5, class_=piece.kind)
    width = max(1.5, _WIDTH * (piece.end - piece.start) / span)
    return el(
        "rect", title, x=f"{x:.2f}", y=y, width=f"{width:.2f}", height=22, rx=2, class_=piece.kind
    )


def _lane_names() -> Iterator[Html]:
    for place, name in enumerate(_LANES):
        yield el("text", name, x=0, y=_TOP + _ROW * place + 16, class_="lane")


def _axis(span: float, height: int) -> Iterator[Html]:
    step = next((tick for tick in _TICKS if span / tick <= 10), 86400 * math.ceil(span / 864000))
    count = int(span / step)
    for place in range(count + 1):
        x = _LEFT + _WIDTH * place * step / span
        yield el("line", x1=f"{x:.2f}", x2=f"{x:.2f}", y1=0, y2=height - 18, class_="grid")
        yield el("text", _length(place * step), x=f"{x:.2f}", y=height - 4, class_="tick")


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g} s"
    if seconds < 7200:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:.4g} h"


def _legend() -> Html:
    parts = [("attempt", "attempt"), ("fault", "failure"), ("saved", "checkpoint"),
             ("broken", "broken checkpoint"), ("wait", "waiting")]  # fmt: skip
    parts += [
        (f"p{place}", name.removesuffix("_after").replace("_", " "))
        for place, name in enumerate(SPLIT)
    ]
    keys = (
        el("span", el("i", class_=f"key {kind}"), " ", name, class_="entry") for kind, name in parts
    )
    return el("p", join(keys, " "), class_="legend")
