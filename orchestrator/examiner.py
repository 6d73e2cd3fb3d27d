"""Evidence before the kill: has a gang looked at while it still lives, and keeps what was seen.

The supervisor looks and the ranks write their stacks; here that becomes files of the attempt, a
line for each rank, and a name where `stacks` finds one. Never longer than two seconds.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.attempt import UnderWay
from orchestrator.gang import Gang
from orchestrator.health import NOT_DETERMINED, RankView, Sign, Suspect
from orchestrator.job_ray import Pump
from orchestrator.layout import AttemptDirectory, RunDirectory, write_bytes, write_json
from orchestrator.node import LocalNode
from orchestrator.recorder import Recorder
from orchestrator.stacks import Found, Frame, Sight, Verdict, parse, place_of, verdict

_PATIENCE = 1.5
_DEADLINE = 2.0
_TICK = 0.1
_LONGEST_FILE = 8 << 20
_LONGEST_SOURCE = 1 << 20
_LONGEST_LINE = 100


class Examiner:
    """Examines gangs of one run; `hear` takes what has arrived within so many seconds."""

    def __init__(
        self, node: LocalNode, recorder: Recorder, directory: RunDirectory, hear: Pump
    ) -> None:
        self._node = node
        self._recorder = recorder
        self._directory = directory
        self._hear = hear

    def examine(self, way: UnderWay, suspect: Suspect) -> Suspect:
        """The suspect, with what a close look adds: for a hang, where every rank is.

        Other failures do not wait: what the kernel tells of ranks that live arrives with the
        end of the gang.
        """
        attempt = self._recorder.ledger.attempt
        way.seen_at = time.monotonic()
        if not self._node.supervised:
            return suspect
        way.gang.examined = None
        if suspect.sign is not Sign.HANG:
            self._node.examine(attempt, 0.0)
            return suspect
        self._node.examine(attempt, _PATIENCE)
        deadline = time.monotonic() + _DEADLINE
        while way.gang.examined is None and self._node.supervised:
            if time.monotonic() > deadline:
                self._recorder.record("note", "the ranks could not be examined within 2 s")
                return suspect
            self._hear(_TICK)
        return self._conclude(way.gang, suspect, self._directory.attempt(attempt))

    def _conclude(self, gang: Gang, suspect: Suspect, files: AttemptDirectory) -> Suspect:
        ranks = {one["rank"]: one for one in gang.redactor.value(gang.examined or [])}
        found = {rank: _found(one, files, gang) for rank, one in ranks.items()}
        written = [name for rank in ranks for name in _keep(gang, files, ranks[rank])]
        summary = {rank: line_of(ranks[rank], found[rank], gang.view(rank)) for rank in ranks}
        # Who is done may be on its way out: nobody waits for it.
        views = {view.rank: view for view in gang.views}
        judged = verdict({r: one for r, one in found.items() if not views[r].succeeded})
        self._recorder.record(
            "examined",
            judged.text,
            files=written,
            summary={str(rank): text for rank, text in summary.items()},
            ranks=list(judged.ranks),
        )
        return sharpened(suspect, judged)


def sharpened(suspect: Suspect, judged: Verdict) -> Suspect:
    """A hang's suspect with what the stacks say; a rank that is known already stays."""
    if not judged.text:
        return suspect
    if suspect.rank is not None or not judged.ranks:
        return replace(suspect, cause=f"{suspect.cause}; {_about(suspect.rank, judged)}")
    what = suspect.cause.removesuffix(NOT_DETERMINED)
    return replace(suspect, rank=judged.ranks[0], cause=f"{what}; {judged.text}")


def _about(rank: int | None, judged: Verdict) -> str:
    if len(judged.ranks) == 1 and judged.ranks[0] != rank:
        return f"rank {judged.ranks[0]}: {judged.text}"
    return judged.text


def line_of(seen: Mapping[str, Any], found: Found, view: RankView | None) -> str:
    """One line about a rank: where it is, what its process does, and when it last got on."""
    parts = [str(found)]
    if seen.get("no_stacks"):
        parts[0] = f"no stacks: {seen['no_stacks']}"
    if "state" not in seen:
        return f"{parts[0]}; its process is gone"
    waits = f" in {seen['wchan']}" if seen["wchan"] else ""
    parts.append(f"state {seen['state']}{waits}")
    if seen.get("cpu_used") is not None:
        parts.append(f"{seen['cpu_used']:.2f} s of CPU in {seen['watched_seconds']:.1f} s")
    if view is not None and view.beat is not None:
        ago = time.monotonic() - view.beat.beat_at
        step = f"step {view.beat.step}" if view.beat.step >= 0 else "no step"
        parts.append(f"{step} in phase {view.beat.phase}, {ago:.1f} s ago")
    return "; ".join(parts)


def notable(gang: Gang) -> list[str]:
    """After a quick look: ranks that did not fail and whose processes were stopped or stuck."""
    words = {"T": "stopped", "t": "stopped", "D": "in uninterruptible sleep"}
    return [
        f"rank {one['rank']}: its process was {words[one['state']]} when the gang was ended"
        + (f" ({one['wchan']})" if one["wchan"] else "")
        for one in gang.examined or ()
        if one.get("state") in words
    ]


def _found(seen: Mapping[str, Any], files: AttemptDirectory, gang: Gang) -> Found:
    begin, end = seen["stacks"]
    dump = gang.redactor.text(_part(files.stacks(seen["rank"]), begin, end))
    view = gang.view(seen["rank"])
    phase = view.beat.phase if view and view.beat else None
    sight = Sight(seen["rank"], seen.get("state", ""), seen.get("wchan", ""), parse(dump), phase)
    found = place_of(sight)
    source = gang.redactor.text(_source_line(found.frame)) if found.frame else ""
    return replace(found, source=source)


def _part(path: Path, begin: int, end: int) -> str:
    if end <= begin:
        return ""
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            return file.read(min(end - begin, _LONGEST_FILE)).decode(errors="replace")
    except OSError:
        return ""


def _keep(gang: Gang, files: AttemptDirectory, seen: Mapping[str, Any]) -> list[str]:
    """Write what was seen of a rank, and see that no secret stands in its stacks."""
    view, rank = gang.view(seen["rank"]), seen["rank"]
    progress = gang.redactor.value(asdict(view.beat)) if view and view.beat else None
    kept = []
    # Evidence only: a full disk must not keep a hung gang alive.
    with contextlib.suppress(OSError):
        write_json(files.examined(rank), {**seen, "progress": progress}, durable=False)
        kept.append(str(files.examined(rank)))
        whole = _part(files.stacks(rank), 0, _LONGEST_FILE)
        if whole:
            kept.append(str(files.stacks(rank)))
        if (clean := gang.redactor.text(whole)) != whole:
            write_bytes(files.stacks(rank), clean.encode(), durable=False)
    return kept


def _source_line(frame: Frame) -> str:
    try:
        about = os.stat(frame.file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LONGEST_SOURCE or not frame.line:
            return ""
        with open(frame.file, errors="replace") as file:
            lines = file.read(_LONGEST_SOURCE).splitlines()
    except (OSError, ValueError):
        return ""
    return lines[frame.line - 1].strip()[:_LONGEST_LINE] if frame.line <= len(lines) else ""
