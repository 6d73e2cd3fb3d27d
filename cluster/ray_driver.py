"""What the one process does that is connected to Ray: start or join one, hold devices, start.

The only module that imports Ray. One thread a job may call it (`cluster.lanes`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.detach import detach
from cluster.reservation import by_count, lacking, part_of_node

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_GROUP_TIMEOUT_S = 30.0
_FREE_TIMEOUT_S = 2.0
_TASK_TIMEOUT_S = 60.0
_WORKERS = 2
_REACH_TIMEOUT_S = 5.0
_FORMER_AFTER_S = 60.0
_POLL_S = 0.01
_GROUP_POLL_S = 1.0
_NODE_LABEL = "ray.io/node-id"
_PREFIX = "muster-"

Bundles = list[dict[str, float]]


@dataclass
class _Holding:
    """What a job wants to hold, and what it holds."""

    wanted: Bundles = field(default_factory=list)
    held: Bundles = field(default_factory=list)
    group: Any = None


class NotHeld(RuntimeError):
    """The bundles cannot be had; the message says why."""


class Driver:
    """A local cluster or a place in one of others; the jobs' reservations; their supervisors."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.joined = bool(config["address"])
        self._holdings: dict[str, _Holding] = {}
        self._node_id = ""
        self._workers = threading.BoundedSemaphore(_WORKERS)
        self._offered: Mapping[str, float] = {}

    def up(self) -> dict[str, Any]:
        """Start or join Ray. Returns the `up` event with the pids whose death means a loss.

        Raises RuntimeError, ConnectionError, or what else Ray raises.
        """
        begin = time.monotonic()
        import ray

        imported = time.monotonic()
        pids = self._join() if self.joined else self._start_local()
        context = ray.get_runtime_context()
        self._node_id = context.get_node_id()
        seconds = {"import": imported - begin, "ray": time.monotonic() - imported}
        here = next(node for node in self.nodes() if node["node_id"] == self._node_id)
        self._offered = here["resources"]
        return {
            "event": "up",
            "address": context.gcs_address,
            "resources": self._offered if self.joined else self._config["resources"],
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "pids": pids,
        }

    def _start_local(self) -> dict[str, list[int]]:
        import ray
        import ray._private.worker as worker

        _leave_out()
        # Every count is given, so that Ray looks for no devices by itself.
        resources = {"CPU": 1, "GPU": 0, "NPU": 0, **self._config["resources"]}
        ray.init(
            address="local",
            num_cpus=int(resources.pop("CPU")),
            num_gpus=int(resources.pop("GPU")),
            resources=resources,
            namespace=self._config["namespace"],
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=self._config["temp_dir"],
        )
        node = worker.global_worker.node
        assert node is not None
        return {
            kind: [info.process.pid for info in node.all_processes.get(kind, ())]
            for kind in ("gcs_server", "raylet")
        }

    def _join(self) -> dict[str, list[int]]:
        import ray

        address = self._config["address"]
        _reach(address)
        here = f"this machine is no node of the Ray cluster at {address}"
        if not _raylets(""):
            raise RuntimeError(f"{here}: no raylet runs here; `ray start --address=…` makes it one")
        ray.init(
            address=address,
            namespace=self._config["namespace"],
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        raylets = _raylets(ray.get_runtime_context().get_node_id())
        if not raylets:
            raise RuntimeError(f"{here}: Ray gave us a raylet that does not run here")
        late = threading.Timer(_FORMER_AFTER_S, self._forget_former)
        late.daemon = True
        late.start()
        return {"raylet": raylets}

    def _forget_former(self) -> None:
        """Give back what an earlier driver of ours still holds for jobs that are over.

        By now whoever adopts jobs that go on has asked for what they hold.
        """
        import ray

        for group in ray.util.placement_group_table().values():
            over = group["name"].removeprefix(_PREFIX) not in self._holdings
            if over and group["state"] != "REMOVED":
                # Only those of our namespace can be had by name.
                with contextlib.suppress(ValueError):
                    _remove(ray.util.get_placement_group(group["name"]))

    def expect(self, request: Mapping[str, Any]) -> None:
        """Know of a request before its turn comes: it may end the wait of an earlier one."""
        if request["do"] == "reserve":
            self._holding(request["job"]).wanted = request["bundles"]

    def _holding(self, job: str) -> _Holding:
        return self._holdings.setdefault(job, _Holding())

    def reserve(self, job: str, bundles: Bundles, *, anew: bool = False) -> float:
        """Hold these bundles for the job instead of any others. Returns the seconds it took.

        Raises NotHeld when they do not fit, cannot be had of a Ray that was joined, or others
        were asked for meanwhile; then nothing is held. `anew` says that they were held before:
        then the next start tries again.
        """
        begin = time.monotonic()
        holding = self._holding(job)
        try:
            if bundles != holding.held:
                self._release(job, holding)
                if bundles:
                    self._hold(job, holding, bundles)
        except BaseException:
            if not anew and holding.wanted is bundles:
                holding.wanted = []
            raise
        return round(time.monotonic() - begin, 3)

    def _release(self, job: str, holding: _Holding) -> None:
        group, holding.group, holding.held = holding.group, None, []
        if group is None and self.joined:
            group = _group_of(job)
        if group is not None:
            _remove(group)

    def _hold(self, job: str, holding: _Holding, bundles: Bundles) -> None:
        asked, here = self._asked(bundles)
        if asked:
            self._await_free(job, asked)
            holding.group = self._granted(job, holding, asked, here)
        holding.held = bundles

    def _granted(
        self, job: str, holding: _Holding, asked: Bundles, here: list[dict[str, str]] | None
    ) -> Any:
        """A placement group that is there."""
        from ray.util.placement_group import placement_group

        wanted = holding.wanted
        group = placement_group(
            asked,
            strategy="STRICT_PACK",
            name=_group_name(job),
            lifetime="detached",
            bundle_label_selector=here,
        )
        deadline = time.monotonic() + _GROUP_TIMEOUT_S
        try:
            while not group.wait(_GROUP_POLL_S):
                if holding.wanted is not wanted:
                    raise NotHeld("other devices were asked for meanwhile")
                if time.monotonic() > deadline:
                    lack = lacking(asked, self._available()) or "yet all of it is free"
                    raise NotHeld(_not_held(job, asked, _GROUP_TIMEOUT_S, lack))
        except BaseException:
            _remove(group)
            raise
        return group

    def _asked(self, bundles: Bundles) -> tuple[Bundles, list[dict[str, str]] | None]:
        """What Ray is asked for, and where: other Rays know no devices by our names."""
        if not self.joined:
            return bundles, None
        if problem := part_of_node(bundles, self._offered):
            raise NotHeld(problem)
        counted = by_count(bundles)
        return counted, [{_NODE_LABEL: self._node_id}] * len(counted)

    def _await_free(self, job: str, bundles: Bundles) -> None:
        """Wait a moment until Ray knows that what we gave back is free, which takes 0.1 s.

        A group that does not fit at once is tried again after a whole second. Raises
        NotHeld.
        """
        deadline = time.monotonic() + _FREE_TIMEOUT_S
        while lack := lacking(bundles, self._available()):
            if time.monotonic() > deadline:
                raise NotHeld(_not_held(job, bundles, _FREE_TIMEOUT_S, lack))
            time.sleep(_POLL_S)

    def _available(self) -> Mapping[str, float]:
        import ray._private.state as state

        available: dict[str, dict[str, float]] = state.available_resources_per_node()
        return available.get(self._node_id, {})

    def start(self, job: str, start: Mapping[str, Any]) -> dict[str, Any]:
        """Start a supervisor on this node. Returns the `ready` event.

        What the job is to hold is reserved first.
        """
        seconds = {}
        holding = self._holding(job)
        if holding.wanted != holding.held:
            seconds["reserve"] = self.reserve(job, holding.wanted, anew=True)
        begin = time.monotonic()
        # A raylet of others may run as another user, and renices what it starts.
        supervisor = detach(start) if self.joined else self._in_a_worker(start)
        seconds["supervisor"] = round(time.monotonic() - begin, 3)
        node = next(node for node in self.nodes() if node["node_id"] == self._node_id)
        return {
            "event": "ready",
            "node": node["name"],
            "address": node["address"],
            "node_id": self._node_id,
            "supervisor": supervisor,
            "seconds": seconds,
        }

    def _in_a_worker(self, start: Mapping[str, Any]) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node_id=self._node_id, soft=False)
        # Not retried: a second try could start a second supervisor.
        task = ray.remote(detach).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        # Ray starts a worker for each task that waits; few of them serve many jobs sooner.
        with self._workers:
            return ray.get(task.remote(dict(start)), timeout=_TASK_TIMEOUT_S)

    def nodes(self) -> list[dict[str, Any]]:
        """The cluster's members as Ray knows them."""
        import ray

        return [
            {
                "node_id": node["NodeID"],
                "name": node["NodeManagerHostname"],
                "address": node["NodeManagerAddress"],
                "alive": node["Alive"],
                "resources": node["Resources"],
            }
            for node in ray.nodes()
        ]

    def down(self) -> None:
        """End Ray, and with it what it holds; one of others holds on, for ranks that go on."""
        import ray

        ray.shutdown()


def _reach(address: str) -> None:
    """Raise ConnectionError where nothing listens; Ray itself would wait for minutes."""
    if address == "auto":
        return
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConnectionError(f"{address!r} is no address of a Ray cluster: HOST:PORT, or auto")
    try:
        socket.create_connection((host, port), _REACH_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {error.strerror or error}") from None


def _group_name(job: str) -> str:
    return f"{_PREFIX}{job}"


def _group_of(job: str) -> Any:
    """What an earlier driver of ours holds for the job, if anything."""
    import ray

    with contextlib.suppress(ValueError):
        return ray.util.get_placement_group(_group_name(job))
    return None


def _remove(group: Any) -> None:
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)


def _not_held(job: str, bundles: Sequence[object], seconds: float, lack: str) -> str:
    return (
        f"the {len(bundles)} bundles of job {job} were not reserved within {seconds:g} s, for "
        f"other work in this Ray holds devices: {lack}"
    )


def _raylets(node_id: str) -> list[int]:
    """The raylets of this machine whose command line has `node_id`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program, *arguments = (entry / "cmdline").read_bytes().decode().split("\0")
            if os.path.basename(program) == "raylet" and any(node_id in a for a in arguments):
                found.append(int(entry.name))
    return found


def _leave_out() -> None:
    """Do not start what a Ray of ours has no use for.

    Dashboard server, autoscaler monitor and log monitor cannot be switched off in 2.60, and
    `ray.init` waits for the first. Without its optional packages Ray runs a small agent:
    we let it think so. Names that another version lacks are left alone: Ray then starts
    slower, in full.
    """
    import ray._private.node as node
    import ray._private.services as services
    import ray._private.utils as utils
    from ray._private import accelerators

    absent = ImportError("left out by muster")
    for owner, name, stand_in in (
        (services, "start_api_server", lambda *_, **__: (None, None)),
        (node.Node, "start_monitor", lambda _: None),
        (node.Node, "start_log_monitor", lambda _: None),
        (utils, "get_dashboard_dependency_error", lambda: absent),
        # It would import the driver's library to learn a name that nobody asks for.
        (
            accelerators.get_accelerator_manager_for_resource("NPU"),
            "get_current_node_accelerator_type",
            staticmethod(lambda: None),
        ),
    ):
        if hasattr(owner, name):
            setattr(owner, name, stand_in)
