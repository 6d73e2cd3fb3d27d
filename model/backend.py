"""Which device a rank computes on, and how it is set up. MindSpore is imported here, late."""

from __future__ import annotations

import os
import platform
from typing import Literal

from model.config import Config, ConfigError
from orchestrator.rank import Rank

Backend = Literal["ascend", "gpu", "cpu"]
_TARGETS: dict[Backend, str] = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}


def choose(config: Config, rank: Rank) -> Backend:
    """The backend: muster's where it says one (cpu under simulated devices), else the user's."""
    name = rank.backend or config.device_target.lower()
    if name not in _TARGETS:
        raise ConfigError([f"MUSTER_BACKEND={name}: expected {', '.join(_TARGETS)}"])
    return name


def check_world(config: Config, rank: Rank) -> None:
    """Refuse arguments that contradict the environment. Raises ConfigError."""
    problems = []
    if not config.is_distributed and rank.world_size > 1:
        problems.append(f"is_distributed=0, but there are {rank.world_size} ranks")
    if config.group_size not in (1, rank.world_size):
        problems.append(f"group_size={config.group_size}, but there are {rank.world_size} ranks")
    if config.rank not in (0, rank.rank):
        problems.append(f"rank={config.rank}, but this is rank {rank.rank}")
    if problems:
        raise ConfigError(problems)


def prepare(backend: Backend, device: int) -> None:
    """Set MindSpore to compile graphs for `backend`; `device` counts among the visible ones."""
    if backend == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        # With AVX-512, oneDNN runs MindSpore's 3x3 convolutions by a reference kernel that is
        # tens of times slower. Read before the first operator.
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    if backend != "cpu":
        ms.set_device(_TARGETS[backend], device)
    elif ms.get_context("device_target") != "CPU":
        # Not said twice: MindSpore refuses it once an operator has run.
        ms.set_device("CPU")


def join(rank: Rank) -> None:
    """Form the gang: returns when all ranks are there."""
    import mindspore as ms
    from mindspore.communication import get_group_size, get_rank, init

    init()
    found = (get_rank(), get_group_size())
    if found != (rank.rank, rank.size):
        raise RuntimeError(f"MindSpore says rank {found}, the environment {rank.rank, rank.size}")
    ms.set_auto_parallel_context(
        parallel_mode="data_parallel", gradients_mean=True, device_num=rank.size
    )


def threads() -> str:
    """Threads of a rank's kernels, as far as the environment tells; results depend on it."""
    return os.environ.get("OMP_NUM_THREADS", "")
