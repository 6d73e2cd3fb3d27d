"""An explanation as a person reads it: plain lines, the same for the same journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_YES, _NO = "✓", "–"

STEPS_BACK = {
    "detected_after": "seen",
    "stopped_after": "gang stopped",
    "allocated_after": "next attempt allocated",
    "joined_after": "ranks joined",
    "loaded_after": "state loaded",
    "compiled_after": "graph compiled",
    "first_step_after": "first new step",
}


def lines(told: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The account of a run (`explain.document`), with the chosen ones of its explanations.

    Whatever a rank wrote, a line is a line, and a terminal is told nothing.
    """
    return map(_printable, _lines(told, chosen))


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _lines(told: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{told['job']}: {told['state']}: {told['reason']}"
    goodput = "not known" if told["goodput"] is None else f"{told['goodput']:.0%}"
    count = len(told["explanations"])
    yield (
        f"attempts {told['attempts']}, incidents {count}, steps trained again "
        f"{told['steps_lost']}, goodput {goodput}"
    )
    for one in chosen:
        yield ""
        yield from _incident(one)
    used = [row for row in told["budgets"] if row["used"]]
    if used:
        yield ""
        yield "budgets now"
        yield from (f"  {_budget(row)}{_given_back(row)}" for row in used)


def table_lines(tables: Mapping[str, Any]) -> Iterator[str]:
    """Both tables with their sources (`explain.tables`)."""
    yield "What a failure is: the job's own rules (restart.rules) first, then these in order;"
    yield "the first that matches decides, and what matches none is `process`."
    for place, row in enumerate(tables["classification"], 1):
        free = "" if row["charged"] else ", not charged"
        yield f"{place:>3}  {row['class']:<11} {row['rule']}{free}"
        if row["pattern"]:
            yield f"                     text: {row['pattern']}"
        yield f"                     source: {row['source']}"
    yield ""
    yield "What follows: these in order; the first that applies decides."
    for place, row in enumerate(tables["policy"], 1):
        yield f"{place:>3}  {row['action']:<11} {row['row']}: {row['when']}"


def _incident(one: Mapping[str, Any]) -> Iterator[str]:
    who = "" if one["rank"] is None else f"rank {one['rank']} on {one['device']}: "
    yield f"incident {one['incident']}, attempt {one['attempt']}: {who}{one['cause']}"
    if one["fault_at"] is not None:
        at = datetime.fromtimestamp(one["fault_at"], UTC)
        yield f"  at {at:%Y-%m-%d %H:%M:%S} UTC by {one['fault_at_source']}{_step(one)}"
    yield from _listed("evidence", one["evidence"])
    for examined in one["examined"]:
        summary = examined.get("summary", {})
        yield from _listed(
            "examined before the end", [f"rank {r}: {t}" for r, t in summary.items()]
        )
    yield from _classification(one["classification"])
    yield from _counts(one)
    yield from _policy(one)
    yield from _afterwards(one)


def _step(one: Mapping[str, Any]) -> str:
    return "" if one["step"] is None else f", at step {one['step']}"


def _classification(found: Mapping[str, Any]) -> Iterator[str]:
    charged = "" if found["charged"] else ", not charged to any budget"
    yield f"  class {found['class']} by rule: {found['rule']}{charged}"
    if not found["asked"]:
        yield "    which rules were asked before is not known: no rule here has that name"
    unread = 0
    for row in found["asked"]:
        if row["rule"].startswith("log: ") and not row["matched"]:
            unread += 1
            continue
        if unread:
            yield f"    {_NO} {unread} patterns of logs (muster explain --tables)"
            unread = 0
        yield f"    {_YES if row['matched'] else _NO} {row['rule']} → {row['class']}"


def _counts(one: Mapping[str, Any]) -> Iterator[str]:
    counts = one["counts"]
    yield "  counts"
    yield f"    {_budget(counts)}"
    if counts["given_back"]:
        yield f"    {counts['given_back']} given back before, for healthy training"
    if counts["repeats"] is None:
        yield "    it came from outside, or from around the job: never taken for deterministic"
    else:
        yield f"    seen at this step: {counts['repeats']} ({one['signature']})"
    most = "" if counts["no_progress"] is None else f" of {counts['no_progress']}"
    yield f"    attempts in a row that gained no step: {counts['attempts_without_gain']}{most}"
    yield f"    failures in a row: {counts['failures_in_a_row']}"


def _budget(row: Mapping[str, Any]) -> str:
    if row["budget"] is None:
        return f"class {row['class']}: {row['used']} charged, its budget is not known"
    left = "" if row["budget"] == "unlimited" else f", {row['left']} left"
    return f"class {row['class']}: {row['used']} charged of {row['budget']}{left}"


def _given_back(row: Mapping[str, Any]) -> str:
    waits = row["given_back_in"]
    return "" if waits is None else f"; whole again after {waits:g} s more of training"


def _policy(one: Mapping[str, Any]) -> Iterator[str]:
    policy = one["policy"]
    if policy["row"] is None:
        yield "  which row of the policy decided was not recorded"
    else:
        yield f"  {policy['action']} by the policy's row: {policy['row']}"
        for row in policy["asked"]:
            yield f"    {_YES if row['matched'] else _NO} {row['row']}: {row['when']}"
    yield f"  decision: {one['decision'] or 'not yet'}"
    if one["may_shrink"]:
        yield "    with a smaller world, should devices for all ranks be lacking"


def _afterwards(one: Mapping[str, Any]) -> Iterator[str]:
    for barred in one["barred"]:
        yield f"  left alone: {barred['device']} until {barred['until']}"
    after = one["next"]
    if after is not None:
        where = f"step {after['step']}, {after['resumed_from']}: " if after["resumed_from"] else ""
        yield f"  attempt {after['attempt']} from {where}{after['why']}"
        if after["ranks"] and after["world_size"] and after["ranks"] < after["world_size"]:
            yield f"    a smaller world: {after['ranks']} processes for {after['world_size']} ranks"
        yield from _listed("", [f"step {q['step']}: {q['why']}" for q in after["quarantined"]])
        yield from _listed("waited", after["waited_for"])
        if after["fallback"]:
            shown = " ".join(f"--{key}={value}" for key, value in after["fallback"].items())
            yield f"    with the arguments of restart.fallback: {shown}"
    yield f"  then: {one['outcome']}{_lost(one)}"
    before = 0.0
    for name, title in STEPS_BACK.items():
        at = one["split"][name]
        if at is not None:
            yield f"    {title:<24}{at:>9.2f} s after the fault, took {max(0.0, at - before):.2f} s"
            before = at


def _lost(one: Mapping[str, Any]) -> str:
    return "" if one["steps_lost"] is None else f"; steps trained again: {one['steps_lost']}"


def _listed(title: str, texts: Sequence[str]) -> Iterator[str]:
    if texts and title:
        yield f"  {title}"
    yield from (f"    {text}" for text in texts)
