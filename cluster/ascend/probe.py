"""Asking a node's tools, each with a time limit, and reading what the kernel shows of devices.

The main table comes first. If npu-smi does not even answer that, nothing else is asked: the
driver hangs. The other questions are asked side by side.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cluster.ascend.assemble import assemble
from cluster.ascend.main_table import MainTable
from cluster.ascend.place import Place
from cluster.ascend.report import NodeReport
from cluster.ascend.transcript import MAIN, Question, Transcript, further
from cluster.ascend.values import Unmeasured
from cluster.command import Outcome, run
from cluster.kernel_text import content, numa_node_of

QUESTION_SECONDS = 5.0
BUDGET_SECONDS = 20.0
_AT_ONCE = 8
_MAX_QUESTIONS = 512
_DEVICE_FILE = re.compile(r"davinci([0-9]{1,6})")


def probe(
    place: Place,
    environment: Mapping[str, str],
    *,
    question: float = QUESTION_SECONDS,
    budget: float = BUDGET_SECONDS,
) -> NodeReport:
    """Report on the Ascend devices of a place, within about `budget` seconds.

    Raises nothing for what a tool says or fails to say: that is in the report.
    """
    return assemble(place, gather(place, question=question, budget=budget), environment)


def gather(place: Place, *, question: float, budget: float) -> Transcript:
    """Ask everything, each question for at most `question` seconds."""
    deadline = time.monotonic() + budget
    ask = partial(_ask, place, deadline, question)
    files = _device_files(place.root)
    outcomes = {MAIN: ask(MAIN)}
    seen = Transcript(outcomes=outcomes, files=files)
    table = MainTable() if isinstance(seen.table, Unmeasured) else seen.table
    if not outcomes[MAIN].timed_out:
        outcomes |= _side_by_side(ask, further(table, files)[:_MAX_QUESTIONS])
    return Transcript(
        outcomes=outcomes,
        files=files,
        configuration=content(place.root / "etc/hccn.conf"),
        numa={chip.bus_id: numa_node_of(place.root, chip.bus_id) for chip in table.chips},
    )


def ask(
    place: Place, questions: Iterable[Question], *, question: float, budget: float
) -> Mapping[Question, Outcome]:
    """Further questions, side by side, within about `budget` seconds."""
    deadline = time.monotonic() + budget
    return _side_by_side(partial(_ask, place, deadline, question), questions)


def _ask(place: Place, deadline: float, limit: float, question: Question) -> Outcome:
    tool = place.npu_smi if question[0] == "npu-smi" else place.hccn_tool
    if tool is None:
        return Outcome("", f"{question[0]}: not found")
    return run([tool, *question[1:]], timeout=min(limit, deadline - time.monotonic()))


def _side_by_side(
    ask: partial[Outcome], questions: Iterable[Question]
) -> Mapping[Question, Outcome]:
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        asked = {question: pool.submit(ask, question) for question in questions}
        return {question: future.result() for question, future in asked.items()}
    finally:
        # At Ctrl-C too: what has not begun is not begun any more.
        pool.shutdown(cancel_futures=True)


def _device_files(root: Path) -> frozenset[int]:
    try:
        names = [entry.name for entry in (root / "dev").iterdir()]
    except OSError:
        return frozenset()
    return frozenset(int(match[1]) for match in map(_DEVICE_FILE.fullmatch, names) if match)
