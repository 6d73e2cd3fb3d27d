"""What this node has for jobs: looked for when what is known is old, the same value while it stays.

Looking asks tools that may take seconds, so it is done by the thread that wants to know.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cluster.allocate import Placement
from cluster.ascend.place import NoSuchNode
from cluster.device import DeviceKind, Inventory, Node
from cluster.reservation import resources_of
from orchestrator.found import Found, find_nodes
from orchestrator.queueing import Cluster, Running
from orchestrator.queueing.left import Left

_QUEUE_AGE = 5.0
_DRIVE_AGE = 1.0


class Stock:
    """Devices of this node by kind."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._seen: dict[DeviceKind, tuple[float, Found]] = {}
        self._locks = {kind: threading.Lock() for kind in DeviceKind}
        self._cluster = Cluster(Inventory(()))

    def found(self, kind: DeviceKind, max_age: float) -> Found:
        """What is there. Raises NoSuchNode for a rehearsal node that is not."""
        with self._locks[kind]:
            seen = self._seen.get(kind)
            if seen is None or time.monotonic() - seen[0] > max_age:
                seen = (time.monotonic(), find_nodes(kind, self._environment))
                self._seen[kind] = seen
            return seen[1]

    def offered(self) -> tuple[dict[str, float], bool]:
        """All that a Ray on this node can offer, and whether its devices are a rehearsal node's.

        Kinds of devices that cannot be looked for now are left out: a job that gets some later
        widens what Ray offers.
        """
        founds = []
        for kind in DeviceKind:
            with contextlib.suppress(NoSuchNode):
                founds.append(self.found(kind, _QUEUE_AGE))
        devices = tuple(device for found in founds for device in found.devices)
        withheld = {key for found in founds for key in found.withheld}
        having = [found for found in founds if found.devices] or founds
        here = having[0].inventory.nodes[0]
        simulated = any(found.simulated for found in founds)
        node = replace(here, devices=devices)
        return resources_of(node, withheld, simulated=simulated), simulated

    def beside(self, kind: DeviceKind, others: Iterable[Running]) -> Found:
        """What is there and not held by other jobs: devices withheld, CPUs taken out."""
        found = self.found(kind, _DRIVE_AGE)
        running = list(others)
        held = {
            one.device.key: f"held by job {job.job}" for job in running for one in job.assignments
        }
        nodes = tuple(_beside(node, running) for node in found.inventory.nodes)
        return replace(found, inventory=Inventory(nodes), withheld={**found.withheld, **held})

    def cluster(self, kinds: Iterable[DeviceKind]) -> Cluster:
        """What the queue has to give, for jobs of these kinds."""
        nodes: dict[str, Node] = {}
        withheld: dict[str, str] = {}
        unknown: dict[DeviceKind, str] = {}
        for kind in sorted(kinds, key=lambda one: one.value):
            try:
                found = self.found(kind, _QUEUE_AGE)
            except NoSuchNode as error:
                unknown[kind] = str(error)
                continue
            if found.missing or found.silent:
                unknown[kind] = found.missing or found.silent
                continue
            withheld |= found.withheld
            for node in found.inventory.nodes:
                known = nodes.setdefault(node.name, replace(node, devices=()))
                nodes[node.name] = replace(known, devices=(*known.devices, *node.devices))
        cluster = Cluster(Inventory(tuple(nodes.values())), withheld, unknown)
        if cluster != self._cluster:
            self._cluster = cluster
        return self._cluster

    def cluster_without(
        self, placement: Placement, kind: DeviceKind, others: Iterable[DeviceKind]
    ) -> Cluster:
        """The same for `kind` too, if a job were not on its devices: its processes keep others off.

        What is wrong with a device stays so. Raises NoSuchNode.
        """
        cluster = self.cluster({kind, *others})
        own = {one.device.key for one in placement.assignments}
        own -= self.found(kind, _QUEUE_AGE).unwell.keys()
        withheld = {key: why for key, why in cluster.withheld.items() if key not in own}
        return replace(cluster, withheld=withheld)


def _beside(node: Node, running: Iterable[Running]) -> Node:
    """The node with the CPUs that jobs leave of it; where they leave none, all are shared."""
    left = Left(node, {})
    for job in running:
        if node.name in job.held:
            left = left.but(job.held[node.name])
    return replace(node, cpus=left.budget) if left.cpus else node
