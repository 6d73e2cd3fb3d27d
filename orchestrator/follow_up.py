"""The job that `then:` asks for: what runs once after a success. Pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.spec import Checkpoint, JobSpec, Launch, LaunchMode, Resources, StartMethod

SUFFIX = "-then"
_LONGEST_NAME = 63


def follow_up(spec: JobSpec, run_dir: Path) -> JobSpec | None:
    """The job that follows a success of `spec` in `run_dir`; None if it asks for none.

    One rank on a device of the same kind, in the same working directory and environment. It
    starts from the newest checkpoint of the run that it follows (`MUSTER_RESUME_FROM`).
    """
    then = spec.then
    if then is None:
        return None
    resources = Resources(
        device=spec.resources.device,
        ranks=1,
        ranks_per_node=1,
        cpus_per_rank=spec.resources.cpus_per_rank,
        node_labels=spec.resources.node_labels,
    )
    return replace(
        spec,
        name=spec.name[: _LONGEST_NAME - len(SUFFIX)] + SUFFIX,
        module=then.module,
        command=then.command,
        args=then.args,
        after=run_dir,
        resources=resources,
        launch=Launch(
            mode=LaunchMode.NONE,
            bind=spec.launch.bind,
            start=spec.launch.start if then.module else StartMethod.AUTO,
            preload=spec.launch.preload,
        ),
        checkpoint=Checkpoint(),
        restart=replace(spec.restart, min_ranks=1),
        then=None,
        given=frozenset(),
    )
