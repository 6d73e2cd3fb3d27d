"""A private Ray for one job: `python -m cluster.ray_node`, a child process of the controller.

The controller never imports Ray and cannot die with a raylet. Neither can this program: it
keeps (`cluster.ray_keeper`) an inner process, this module with `--driver`, which alone is
connected to Ray, and replaces it and all that it started when the raylet, the GCS or the
driver itself is lost. JSON lines come in on stdin and go out on stdout:

    {"temp_dir", "job", "namespace", "bundles": [{"CPU": 0.25}, …], "num_cpus",
     "start": {"argv", "env", "cwd", "log"}}          first line: bring Ray up, start argv
    {"do": "start", "start": {…}}                      start another supervisor
    {"do": "nodes"} | {"do": "stop"}                   end of input means stop

    {"event": "ready", "node", "address", "node_id", "supervisor": {…}, "seconds": {…}}
    {"event": "failed", "reason"} | {"event": "nodes", "nodes": […]}
    {"event": "ray_lost", "reason"}                    the next start brings up a new Ray
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

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_GROUP_TIMEOUT_S = 30.0
_TASK_TIMEOUT_S = 60.0


class Driver:
    """The one process that talks to Ray: a local cluster, the job's reservation, its tasks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._group: Any = None
        self._seconds: dict[str, float] = {}

    def up(self) -> dict[str, Any]:
        """Start Ray. Returns the `up` event with the pids whose death means Ray is lost."""
        begin = time.monotonic()
        import ray
        import ray._private.worker as worker

        _leave_out()
        imported = time.monotonic()
        ray.init(
            address="local",
            num_cpus=self._config["num_cpus"],
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

    def reserve(self) -> None:
        """Create the job's placement group once. Raises TimeoutError when it does not fit."""
        if self._group is not None:
            return
        from ray.util.placement_group import placement_group

        begin = time.monotonic()
        bundles = self._config["bundles"]
        group = placement_group(
            bundles,
            strategy="STRICT_PACK",
            name=f"muster-{self._config['job']}",
            lifetime="detached",
        )
        if not group.wait(_GROUP_TIMEOUT_S):
            _remove(group)
            raise TimeoutError(
                f"the {len(bundles)} bundles {bundles} of job {self._config['job']} were not "
                f"reserved within {_GROUP_TIMEOUT_S:g} s (num_cpus: {self._config['num_cpus']})"
            )
        self._group = group
        self._seconds["reserve"] = time.monotonic() - begin

    def start(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Start a supervisor on the reserved node. Returns the `ready` event."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.reserve()
        begin = time.monotonic()
        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
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

        if self._group is not None:
            _remove(self._group)
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

    absent = ImportError("left out by muster")
    for owner, name, stand_in in (
        (services, "start_api_server", lambda *_, **__: (None, None)),
        (node.Node, "start_monitor", lambda _: None),
        (node.Node, "start_log_monitor", lambda _: None),
        (utils, "get_dashboard_dependency_error", lambda: absent),
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
        _say(replies, _answer(driver, {"do": "start", "start": config["start"]}))
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


def _answer(driver: Driver, request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to one request; what fails in a start is an answer, not the end."""
    if request["do"] == "nodes":
        return {"event": "nodes", "nodes": driver.nodes()}
    try:
        return driver.start(request["start"])
    except Exception as error:
        # A Ray task error carries the worker's traceback; its cause says it in a line.
        cause = getattr(error, "cause", None) or error
        return {"event": "failed", "reason": f"{type(cause).__name__}: {cause}"}


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
