"""What jobs hold of one node. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cluster.allocate import Assignment
from cluster.device import DeviceKind


@dataclass(frozen=True, eq=False)
class Held:
    """What `job` holds of a node, by its assignments there. Two are never equal.

    Ranks on accelerators that have to share CPUs with one another share them with other jobs as
    well, or accelerators would lie idle; but CPUs that are `kept` for a job are kept.
    """

    job: str
    here: tuple[Assignment, ...]
    bound: bool
    kept: bool

    @cached_property
    def kind(self) -> DeviceKind:
        """What its ranks here run on."""
        return self.here[0].device.kind

    @cached_property
    def devices(self) -> frozenset[int]:
        """Devices, or slots, by index."""
        return frozenset([one.device.index for one in self.here])

    @cached_property
    def cpus(self) -> frozenset[int]:
        """The CPUs that no other job may have; of ranks that are not bound, as many as they use."""
        if self.bound:
            cpus = frozenset().union(*[one.cpus for one in self.here])
        else:
            cpus = frozenset(self.here[0].cpus[: sum(one.threads for one in self.here)])
        shared = len(cpus) < len(self.here) and not self.kind.is_slot and not self.kept
        return frozenset() if shared else cpus


def held_by(
    job: str, assignments: Iterable[Assignment], *, bound: bool = True, kept: bool = False
) -> Mapping[str, Held]:
    """What a job holds, or what is kept for it, by node."""
    nodes: defaultdict[str, list[Assignment]] = defaultdict(list)
    for one in assignments:
        nodes[one.node].append(one)
    return {name: Held(job, tuple(here), bound, kept) for name, here in nodes.items()}
