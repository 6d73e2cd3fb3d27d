"""Making a rehearsal node on disk: its file, its executables, and what the kernel would show."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from cluster.simulated.directory import NodeDirectory
from cluster.simulated.faults import parse, switch_on
from cluster.simulated.node import SimulatedNode
from cluster.simulated.node_file import load, save, write_whole

# Isolated and without site-packages: an answer then takes a few hundredths of a second.
_PROGRAM = (
    "import sys; sys.path.insert(0, {source!r}); "
    "from cluster.simulated.program import main; sys.exit(main(sys.argv[1], sys.argv[2:]))"
)
_SCRIPT = """#!/bin/sh
# A tool of a rehearsal node: nothing it prints is of real hardware. Answers from ../node.json.
exec {python} -I -S -c {program} "$0" "$@"
"""


def create(directory: NodeDirectory, node: SimulatedNode) -> None:
    """Write all of it, `node.json` last: a directory without it is no node. Raises OSError."""
    for tool in (directory.npu_smi, directory.hccn_tool):
        write_whole(tool, _executable(), mode=0o755)
    addresses = (f"address_{d.physical}={d.ip}\n" for d in node.devices if d.ip)
    write_whole(directory.hccn_conf, "".join(addresses))
    for device in node.seen:
        write_whole(directory.device_file(device.physical), "")
        write_whole(directory.numa_node(device.bus_id), f"{device.numa}\n")
    save(directory.file, node)


def break_node(root: Path, fault: str) -> None:
    """Switch one more fault on while the node is in use. Raises BadFault, BadNode, OSError."""
    directory = NodeDirectory(root)
    node = load(directory.file)
    faults = switch_on(node.faults, parse(fault, node.ids))
    save(directory.file, replace(node, faults=faults))


def _executable() -> str:
    source = str(Path(__file__).resolve().parent.parent.parent)
    program = shlex.quote(_PROGRAM.format(source=source))
    return _SCRIPT.format(python=shlex.quote(sys.executable), program=program)
