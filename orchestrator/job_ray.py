"""What a job has of Ray, be it a Ray of its own or one that many jobs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.allocate import Placement
from cluster.ray_client import Start
from orchestrator.link import Message

Pump = Callable[[float], None]


class NodeError(RuntimeError):
    """The node cannot be used: Ray or the supervisor does not start, or devices are taken."""


class NodeRay(Protocol):
    """Starts supervisors on this node and holds devices for one job.

    `there` is whether a Ray is there, or coming, that can be asked; `ended`, that none will be.
    """

    there: bool
    ended: bool

    def fileno(self) -> int:
        """A descriptor that is readable when `messages` has something."""

    def start(self, supervisor: Start, resources: Mapping[str, float], *, simulated: bool) -> None:
        """Have a supervisor started in a Ray that offers these resources; returns at once.

        `simulated` says that the devices among them are those of a rehearsal node.
        """

    def start_supervisor(self, supervisor: Start) -> None:
        """Ask for another supervisor, and for another Ray if this one is lost.

        Raises NodeError when there is nobody to ask.
        """

    def reserve(self, placement: Placement, pump: Pump) -> None:
        """Have Ray hold the very devices of `placement`, and no others, for the job.

        Costs nothing when it does already. Raises NodeError when it cannot. While Ray is lost
        the ranks go on without it: the next one holds the devices.
        """

    def messages(self, *, supervised: bool) -> list[Message]:
        """What has happened. Raises NodeError when the node remains without a supervisor."""

    def raylets(self) -> tuple[int, ...]:
        """The raylets of this Ray on this machine: what a drill kills."""

    def close(self) -> None:
        """Give back what is held for the job; nothing of its own Ray is left after it."""
