"""The program behind the executables of a rehearsal node: reads the node, answers, ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.simulated import hccn_tool, npu_smi
from cluster.simulated.answer import Answer
from cluster.simulated.directory import NodeDirectory
from cluster.simulated.node import BadNode, SimulatedNode
from cluster.simulated.node_file import load

_TOOLS: dict[str, Callable[[SimulatedNode, Sequence[str]], Answer]] = {
    "npu-smi": npu_smi.answer,
    "hccn_tool": hccn_tool.answer,
}
_BROKEN = 70
_LONGEST_HANG = 3600.0


def main(executable: str, arguments: Sequence[str]) -> int:
    """Answer as the tool that `executable` is named after, from the node beside it."""
    path = Path(executable).resolve()
    try:
        node = load(NodeDirectory(path.parent.parent).file)
    except BadNode as error:
        print(f"{path.name} (simulated): {error}", file=sys.stderr)
        return _BROKEN
    answer = _TOOLS[path.name](node, arguments)
    if answer.hangs:
        time.sleep(_LONGEST_HANG)
    sys.stdout.write(answer.text)
    sys.stderr.write(answer.errors)
    return answer.code
