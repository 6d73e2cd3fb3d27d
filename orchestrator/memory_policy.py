"""Which NUMA nodes a process takes its memory from. Standard library only (ranks use it).

What `numactl --membind` does, without `numactl`: set_mempolicy(2) with MPOL_BIND. Children and a
program that is executed inherit it; memory that a forked process shares stays where it is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

_MPOL_BIND = 2
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}.get(os.uname().machine)
_WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)

# Loaded once: a child between fork and exec must not import anything.
_LIBC = ctypes.CDLL(None, use_errno=True)


def bind_memory(nodes: Collection[int]) -> None:
    """Take memory from these NUMA nodes only, from the one nearest to the thread first.

    Raises OSError where the kernel refuses (EINVAL: no such node, or `cpuset.mems` allows none of
    them; EPERM: a container's seccomp filter) or has no number for the call that is known here.
    """
    if _SET_MEMPOLICY is None:
        raise OSError(f"set_mempolicy is not known for {os.uname().machine}")
    words = (ctypes.c_ulong * (max(nodes) // _WORD_BITS + 1))()
    for node in nodes:
        words[node // _WORD_BITS] |= 1 << node % _WORD_BITS
    # The kernel leaves out the last of the bits that it is told of.
    bits = ctypes.c_ulong(len(words) * _WORD_BITS + 1)
    if _LIBC.syscall(ctypes.c_long(_SET_MEMPOLICY), ctypes.c_long(_MPOL_BIND), words, bits) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"set_mempolicy: {os.strerror(number)}")
