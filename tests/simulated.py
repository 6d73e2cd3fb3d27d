"""Rehearsal nodes for tests: what their tools would say, asked without a process."""

from __future__ import annotations

from pathlib import Path

from cluster.ascend.assemble import assemble
from cluster.ascend.main_table import MainTable
from cluster.ascend.place import Place
from cluster.ascend.report import NodeReport
from cluster.ascend.transcript import MAIN, Question, Transcript, further
from cluster.command import Outcome
from cluster.simulated import hccn_tool, npu_smi
from cluster.simulated.faults import parse, switch_on
from cluster.simulated.node import SimulatedNode, make
from cluster.simulated.node_file import from_document, to_document

PLACE = Place(npu_smi="npu-smi", hccn_tool="hccn_tool", simulated=Path("/node"))


def node(model: str = "910B3", cards: int = 8, *faults: str, **more: object) -> SimulatedNode:
    """A node with faults, as its file would give it back."""
    made = make(model, cards, **more)  # type: ignore[arg-type]
    on: tuple = ()
    for fault in faults:
        on = switch_on(on, parse(fault, made.ids))
    return from_document({**to_document(made), "faults": [str(one) for one in on]})


def ask(where: SimulatedNode, question: Question) -> Outcome:
    """The outcome of a question as the probe would see it."""
    tool = npu_smi.answer if question[0] == "npu-smi" else hccn_tool.answer
    answer = tool(where, question[1:])
    if answer.hangs:
        return Outcome("", f"{' '.join(question)}: no answer within 5 s", timed_out=True)
    failure = f"exit {answer.code}: {answer.text} {answer.errors}" if answer.code else ""
    return Outcome(answer.text, failure)


def report(where: SimulatedNode, environment: dict[str, str] | None = None) -> NodeReport:
    """What the probe makes of a node."""
    files = frozenset(device.physical for device in where.seen)
    outcomes = {MAIN: ask(where, MAIN)}
    table = Transcript(outcomes).table
    held = table if isinstance(table, MainTable) else MainTable()
    if not outcomes[MAIN].timed_out:
        outcomes |= {question: ask(where, question) for question in further(held, files)}
    transcript = Transcript(
        outcomes,
        files,
        "".join(f"address_{d.physical}={d.ip}\n" for d in where.devices),
        {d.bus_id: d.numa for d in where.devices},
    )
    return assemble(PLACE, transcript, environment or {})
