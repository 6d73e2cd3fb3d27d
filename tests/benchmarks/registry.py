"""Every benchmark by name. Names are an interface: figures in the documents quote them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.benchmarks import (
    cli_help,
    decode_nms,
    exact_resume,
    heartbeat,
    heartbeats,
    input_pipeline,
    placements,
    rank_tables,
    ray_train,
    recovery,
    schedules,
    snapshots,
    start_full,
    step_bind,
    submits,
    training_step,
)
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Measurement


@dataclass(frozen=True)
class Group:
    """Benchmarks that come from the same runs. `measure` is told which of them are wanted."""

    names: tuple[str, ...]
    measure: Callable[[Bench, frozenset[str]], dict[str, Measurement]]


GROUPS: tuple[Group, ...] = (
    Group(cli_help.NAMES, cli_help.measure),
    Group(heartbeat.NAMES, heartbeat.measure),
    Group(placements.NAMES, placements.measure),
    Group(schedules.NAMES, schedules.measure),
    Group(rank_tables.NAMES, rank_tables.measure),
    Group(input_pipeline.NAMES, input_pipeline.measure),
    Group(decode_nms.NAMES, decode_nms.measure),
    Group(snapshots.NAMES, snapshots.measure),
    Group(recovery.NAMES, recovery.measure),
    Group(ray_train.NAMES, ray_train.measure),
    Group(heartbeats.NAMES, heartbeats.measure),
    Group(exact_resume.NAMES, exact_resume.measure),
    Group(submits.NAMES, submits.measure),
    Group(start_full.NAMES, start_full.measure),
    Group(step_bind.NAMES, step_bind.measure),
    Group(training_step.TORCH_NAMES, training_step.measure_vs_torch),
    Group(training_step.NAMES, training_step.measure),
)
"""The cheapest first."""

PLANNED: tuple[str, ...] = ()
"""Names that are taken; these benchmarks do not exist yet."""


class UnknownName(ValueError):
    """There is no benchmark of that name; the message lists those that there are."""


def names() -> tuple[str, ...]:
    """All that can be run."""
    return tuple(name for group in GROUPS for name in group.names)


def chosen(only: Iterable[str]) -> list[tuple[Group, frozenset[str]]]:
    """The groups to run and what is wanted of each; all for an empty choice."""
    wanted = frozenset(only) or frozenset(names())
    for name in sorted(wanted - frozenset(names())):
        what = "is not built yet" if name in PLANNED else "is no benchmark"
        raise UnknownName(f"{name} {what}; there are {', '.join(names())}")
    pairs = ((group, wanted.intersection(group.names)) for group in GROUPS)
    return [(group, part) for group, part in pairs if part]
