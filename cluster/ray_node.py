"""A private Ray for one job: `python -m cluster.ray_node`, a child process of the controller.

The controller never imports Ray and cannot die with a raylet. Neither can this program: it
keeps (`cluster.ray_keeper`) an inner process, this module with `--driver`, which alone is
connected to Ray, and replaces it and all that it started when the raylet, the GCS or the
driver itself is lost. JSON lines come in on stdin and go out on stdout:

    {"temp_dir", "job", "namespace", "resources": {"CPU": 8, "muster_ascend_3": 1, …},
     "start": {"argv", "env", "cwd", "log"}}          first line: bring Ray up, start argv
    {"do": "start", "start": {…}}                      start another supervisor
    {"do": "reserve", "bundles": [{"CPU": 0.25}, …]}   hold these, and nothing else, for the job;
                                                       with "resources": in a new Ray with those
    {"do": "nodes"} | {"do": "stop"}                   end of input means stop

    {"event": "ready", "node", "address", "node_id", "supervisor": {…}, "seconds": {…}}
    {"event": "failed", "reason"} | {"event": "nodes", "nodes": […]}
    {"event": "reserved", "seconds"}
    {"event": "unreserved", "reason"}                  nothing is held; the next start tries it
    {"event": "ray_lost", "reason"}                    the next start brings up a new Ray, which
                                                       first reserves what was last asked for
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from cluster import ray_keeper
from cluster.detach import detach
from cluster.leftovers import remove_tree, sweep
from cluster.reservation import lacking

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_GROUP_TIMEOUT_S = 30.0
_FREE_TIMEOUT_S = 1.0
_TASK_TIMEOUT_S = 60.0
_POLL_S = 0.01


class Driver:
    """The one process that talks to Ray: a local cluster, the job's reservation, its tasks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._group: Any = None
        self._wanted: list[dict[str, float]] = config["bundles"]
        self._held: list[dict[str, float]] = []
        self._seconds: dict[str, float] = {}

    def up(self) -> dict[str, Any]:
        """Start Ray. Returns the `up` event with the pids whose death means Ray is lost."""
        begin = time.monotonic()
        import ray
        import ray._private.worker as worker

        _leave_out()
        imported = time.monotonic()
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
        self._seconds = {"import": imported - begin, "ray": time.monotonic() - imported}
        node = worker.global_worker.node
        assert node is not None
        pids = {
            kind: [info.process.pid for info in node.all_processes.get(kind, ())]
            for kind in ("gcs_server", "raylet")
        }
        return {"event": "up", "pids": pids}

    def reserve(self, bundles: list[dict[str, float]]) -> float:
        """Hold these bundles for the job instead of any others. Returns the seconds it took.

        Raises TimeoutError when they do not fit; then nothing is held, and the next start tries
        again.
        """
        begin = time.monotonic()
        self._wanted = bundles
        if bundles != self._held:
            self._release()
            if bundles:
                self._await_free(bundles)
                self._hold(bundles)
        return round(time.monotonic() - begin, 3)

    def _release(self) -> None:
        group, self._group, self._held = self._group, None, []
        if group is not None:
            _remove(group)

    def _await_free(self, bundles: list[dict[str, float]]) -> None:
        """Wait a moment until Ray knows that what we gave back is free, which takes 0.1 s.

        A group that does not fit at once is tried again after a whole second.
        """
        import ray

        deadline = time.monotonic() + _FREE_TIMEOUT_S
        while lacking(bundles, ray.available_resources()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _hold(self, bundles: list[dict[str, float]]) -> None:
        import ray
        from ray.util.placement_group import placement_group

        job = self._config["job"]
        group = placement_group(
            bundles, strategy="STRICT_PACK", name=f"muster-{job}", lifetime="detached"
        )
        if not group.wait(_GROUP_TIMEOUT_S):
            lack = lacking(bundles, ray.available_resources()) or "yet what is asked for is free"
            _remove(group)
            raise TimeoutError(
                f"the {len(bundles)} bundles of job {job} were not reserved within "
                f"{_GROUP_TIMEOUT_S:g} s, for other work in this Ray holds devices: {lack}"
            )
        self._group, self._held = group, bundles

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Start a supervisor on the node of this Ray. Returns the `ready` event.

        What the job held in an earlier Ray is reserved first.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._wanted != self._held:
            self._seconds["reserve"] = self.reserve(self._wanted)
        begin = time.monotonic()
        here = ray.get_runtime_context().get_node_id()
        place = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
        # Not retried: a second try could start a second supervisor.
        task = ray.remote(_on_node).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        node_id, supervisor = ray.get(task.remote(dict(start)), timeout=_TASK_TIMEOUT_S)
        self._seconds["supervisor"] = time.monotonic() - begin
        node = next(node for node in self.nodes() if node["node_id"] == node_id)
        return {
            "event": "ready",
            "node": node["name"],
            "address": node["address"],
            "node_id": node_id,
            "supervisor": supervisor,
            "seconds": self._take_seconds(),
        }

    def _take_seconds(self) -> dict[str, float]:
        taken, self._seconds = self._seconds, {}
        return {name: round(value, 3) for name, value in taken.items()}

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
        """Give the reservation back and end Ray."""
        import ray

        self._release()
        ray.shutdown()


def _on_node(start: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The remote task: runs in a Ray worker of the reserved node."""
    import ray

    return ray.get_runtime_context().get_node_id(), detach(start)


def _remove(group: Any) -> None:
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)


def _leave_out() -> None:
    """Do not start what a private Ray of one job has no use for.

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


def _private_stdout() -> TextIO:
    """Our replies' own descriptor; whatever prints to stdout from now on goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return replies


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _drive() -> None:
    """Serve the keeper: bring Ray up, answer until the end of input, take Ray down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = os.getppid()
    replies = _private_stdout()
    requests = _requests()
    config = next(requests)
    driver = Driver(config)
    try:
        _say(replies, driver.up())
        _say(replies, _begin(driver, config))
        for request in requests:
            _say(replies, _answer(driver, request))
        driver.down()
    except Exception as error:
        _say(replies, {"event": "failed", "reason": f"Ray: {type(error).__name__}: {error}"})
        raise
    finally:
        if os.getppid() != keeper:
            sweep(os.getsid(0), spare=os.getpid())
            remove_tree(config["temp_dir"])


def _begin(driver: Driver, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a new Ray is for: a supervisor, or a reservation alone."""
    return _answer(driver, {"do": "start" if config["start"] else "reserve", **config})


def _answer(driver: Driver, request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to one request; what fails in it is an answer, not the end."""
    try:
        match request["do"]:
            case "nodes":
                return {"event": "nodes", "nodes": driver.nodes()}
            case "reserve":
                return {"event": "reserved", "seconds": driver.reserve(request["bundles"])}
            case _:
                return driver.start(request["start"])
    except Exception as error:
        # A Ray task error carries the worker's traceback; its cause says it in a line.
        cause = getattr(error, "cause", None) or error
        event = ray_keeper.refusal(request["do"])
        return {"event": event, "reason": f"{type(cause).__name__}: {cause}"}


def _say(replies: TextIO, event: Mapping[str, Any]) -> None:
    try:
        replies.write(json.dumps(event) + "\n")
    except BrokenPipeError:
        return


def main() -> None:
    """Run the keeper, or with `--driver` the inner process."""
    if sys.argv[1:] == ["--driver"]:
        _drive()
    else:
        ray_keeper.Keeper([sys.executable, "-m", "cluster.ray_node", "--driver"]).serve()


if __name__ == "__main__":
    main()
