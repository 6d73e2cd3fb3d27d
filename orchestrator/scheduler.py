"""The rendezvous scheduler of MindSpore's dynamic cluster: `python -m orchestrator.scheduler`.

MindSpore's own launcher runs the user's script a second time for this role; a process of
ours costs neither the data set nor a surprise. It blocks until the cluster is done.
Environment: MS_ROLE=MS_SCHED, MS_WORKER_NUM, MS_SCHED_HOST, MS_SCHED_PORT (MindSpore
documentation, "Dynamic Cluster Startup").
"""

from __future__ import annotations

import os


def main() -> None:
    """Serve one cluster; raises RuntimeError (exit 1) when it breaks or cannot be formed."""
    import mindspore
    from mindspore.communication import init

    address = f"{os.environ['MS_SCHED_HOST']}:{os.environ['MS_SCHED_PORT']}"
    print(f"scheduler for {os.environ['MS_WORKER_NUM']} ranks on {address}", flush=True)
    mindspore.set_device("CPU")
    init("mccl")


if __name__ == "__main__":
    main()
