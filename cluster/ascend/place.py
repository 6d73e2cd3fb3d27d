"""Where the tools of this machine are, or of the rehearsal node that stands in for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.simulated.directory import VARIABLE, NodeDirectory

_NPU_SMI = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")
_HCCN_TOOL = ("/usr/local/Ascend/driver/tools/hccn_tool",)


class NoSuchNode(ValueError):
    """The variable of a rehearsal node names a directory that holds none."""


@dataclass(frozen=True)
class Place:
    """Executables (None: not found), the directory that stands for /, and what was looked for."""

    npu_smi: str | None
    hccn_tool: str | None
    root: Path = Path("/")
    simulated: Path | None = None
    looked_for: tuple[str, ...] = ()


def find(environment: Mapping[str, str]) -> Place:
    """The rehearsal node of MUSTER_SIMULATED_NODE, else the tools on PATH or where they belong.

    Tools on PATH that belong to a rehearsal node are known as such by where they lie. Raises
    NoSuchNode for a variable that leads nowhere: real devices must not be taken by mistake.
    """
    named = environment.get(VARIABLE)
    if named:
        return _simulated(_named(named))
    npu_smi = _which("npu-smi", _NPU_SMI, environment)
    if npu_smi is not None:
        directory = NodeDirectory(Path(npu_smi).resolve().parent.parent)
        if directory.is_node() and directory.npu_smi == Path(npu_smi).resolve():
            return _simulated(directory)
    return Place(
        npu_smi=npu_smi,
        hccn_tool=_which("hccn_tool", _HCCN_TOOL, environment),
        looked_for=(
            f"{VARIABLE}: not set",
            f"npu-smi: {npu_smi or 'neither on PATH nor ' + ' nor '.join(_NPU_SMI)}",
        ),
    )


def _named(text: str) -> NodeDirectory:
    """The rehearsal node that the variable names. Raises NoSuchNode."""
    try:
        directory = NodeDirectory(Path(text).expanduser().resolve())
        there = directory.is_node()
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NoSuchNode(f"{VARIABLE}={text[:200]}: {why}; name another or unset it") from None
    if not there:
        raise NoSuchNode(
            f"{VARIABLE}={text}: no rehearsal node there ({directory.file.name} is missing); "
            f"`muster devices simulate --model 910B3 --dir {text}` makes one, or unset it"
        )
    return directory


def _simulated(directory: NodeDirectory) -> Place:
    return Place(
        npu_smi=str(directory.npu_smi),
        hccn_tool=str(directory.hccn_tool),
        root=directory.root,
        simulated=directory.root,
        looked_for=(f"rehearsal node: {directory.root}",),
    )


def _which(name: str, known: tuple[str, ...], environment: Mapping[str, str]) -> str | None:
    found = shutil.which(name, path=environment.get("PATH", ""))
    return found or next(filter(None, map(shutil.which, known)), None)
