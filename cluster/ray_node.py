"""A Ray on this node for any number of jobs: `python -m cluster.ray_node`, the controller's child.

The controller never imports Ray and cannot die with a raylet. Neither can this program: it
keeps (`cluster.ray_keeper`) an inner process, this module with `--driver`, which alone is
connected to Ray (`cluster.ray_driver`), and replaces it and all that it started when the
raylet, the GCS or the driver itself is lost. JSON lines come in on stdin and go out on stdout:

    {"temp_dir", "namespace", "resources": {"CPU": 8, "muster_ascend_3": 1, …}}
                                                       first line: bring Ray up.
                                                       "address": join a Ray of others instead,
                                                       of which nothing is started or stopped.
                                                       "reservations": {job: [bundle, …]}
    {"do": "start", "job", "start": {"argv", "env", "cwd", "log"}}
                                                       start a supervisor; in a new Ray if need be
    {"do": "reserve", "job", "bundles": [{"CPU": 0.25}, …]}
                                                       hold these, and nothing else, for the job;
                                                       with "resources": in a new Ray with those
    {"do": "up"}                                       bring Ray up again
    {"do": "nodes"} | {"do": "stop"}                   end of input means stop

    {"event": "up", "address", "resources", "seconds"}
    {"event": "ready", "job", "node", "address", "node_id", "supervisor": {…}, "seconds": {…}}
    {"event": "failed", "job", "reason"}               "job" is empty where Ray did not come up
    {"event": "reserved", "job", "seconds"} | {"event": "nodes", "nodes": […]}
    {"event": "unreserved", "job", "reason"}           nothing is held
    {"event": "ray_lost", "reason"}                    a new Ray first reserves what was held for
                                                       all jobs, or asked for since; each is
                                                       answered again; a start tries it again

Answers for one job come in the order of its requests, each with the "serial" that its request
had; one that nobody asked for has none. Jobs do not wait for each other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NoReturn, TextIO

from cluster import ray_keeper
from cluster.lanes import Lanes
from cluster.ray_driver import Driver, NotHeld

_LAST_WORDS_S = 2.0


class _Replies:
    """Our replies' own descriptor; whatever prints to stdout from now on goes to stderr."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, event: Mapping[str, Any]) -> None:
        try:
            with self._lock:
                self._file.write(json.dumps(event) + "\n")
        except BrokenPipeError:
            return


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _drive() -> NoReturn:
    """Serve the keeper: bring Ray up, answer until it says stop, take Ray down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = os.getppid()
    replies = _Replies()
    requests = _requests()
    config = next(requests)
    driver = Driver(config)
    orphan = failed = False
    try:
        replies.say(driver.up())
        orphan = not _listen(driver, requests, replies)
        if not orphan:
            driver.down()
    except Exception as error:
        replies.say({"event": "failed", "reason": f"Ray: {type(error).__name__}: {error}"})
        traceback.print_exc()
        failed = True
    if (orphan or os.getppid() != keeper) and not config["address"]:
        # Nobody else takes Ray away, and no Ray may be in the process that does: it would end.
        os.execv(sys.executable, [sys.executable, "-m", "cluster.leftovers", config["temp_dir"]])
    # Not the long way out: threads may still wait for a Ray that is gone.
    os._exit(failed)


def _listen(driver: Driver, requests: Iterator[dict[str, Any]], replies: _Replies) -> bool:
    """Serve requests until the end; whether there was word of it."""
    lanes = Lanes()
    for request in requests:
        if request["do"] == "stop":
            # A Ray of others must have back what was given back before we leave it.
            lanes.drain(_LAST_WORDS_S if driver.joined else 0.0)
            return True
        driver.expect(request)
        lanes.put(request.get("job", ""), partial(_serve, driver, request, replies))
    return False


def _serve(driver: Driver, request: Mapping[str, Any], replies: _Replies) -> None:
    known = {name: request[name] for name in ("do", "job") if name in request}
    replies.say({**_answer(driver, request), **known})


def _answer(driver: Driver, request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to one request; what fails in it is an answer, not the end."""
    try:
        match request["do"]:
            case "nodes":
                return {"event": "nodes", "nodes": driver.nodes()}
            case "reserve":
                anew = request.get("anew", False)
                seconds = driver.reserve(request["job"], request["bundles"], anew=anew)
                return {"event": "reserved", "seconds": seconds}
            case _:
                return driver.start(request["job"], request["start"])
    except Exception as error:
        # A Ray task error carries the worker's traceback; its cause says it in a line.
        cause = getattr(error, "cause", None) or error
        event = ray_keeper.refusal(request["do"])
        plain = str(cause) if isinstance(cause, NotHeld) else f"{type(cause).__name__}: {cause}"
        return {"event": event, "reason": plain}


def main() -> None:
    """Run the keeper, or with `--driver` the inner process."""
    if sys.argv[1:] == ["--driver"]:
        _drive()
    else:
        ray_keeper.Keeper([sys.executable, "-m", "cluster.ray_node", "--driver"]).serve()


if __name__ == "__main__":
    main()
