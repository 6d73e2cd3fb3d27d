"""`--need_profiler`: MindSpore's profile of the first steps, after which training ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from model.backend import Backend
from model.journal import LOGGER

STEPS = 11
"""Steps that are profiled, as in the original."""


@contextlib.contextmanager
def profiler(folder: Path, backend: Backend, *, wanted: bool) -> Iterator[Callable[[], None]]:
    """Profile into `folder` while the context lasts, if that is `wanted`.

    Yields what is to be called after every step. MindSpore writes tables of operators and
    `trace_view.json` for a trace viewer (docs: mindspore.profiler.profile).
    """
    if not wanted:
        yield lambda: None
        return
    from mindspore.profiler import ProfilerActivity, profile, tensorboard_trace_handler

    devices = {"cpu": [], "gpu": [ProfilerActivity.GPU], "ascend": [ProfilerActivity.NPU]}
    folder.mkdir(parents=True, exist_ok=True)
    LOGGER.info("profiling %d steps into %s; training ends after them", STEPS, folder)
    with profile(
        activities=[ProfilerActivity.CPU, *devices[backend]],
        on_trace_ready=tensorboard_trace_handler(str(folder)),
    ) as running:
        yield running.step
