"""On what kind of file system a directory lies, and whether a store may be there.

SQLite's locks and the shared memory of its WAL need one kernel: over a network they lie
(sqlite.org/wal.html, "all processes must be on the same host"). Source of the call: statfs(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

REMOTE = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9p",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x564C: "NetWare",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x20030528: "OrangeFS",
    0xAAD7AAEA: "PanFS",
    0xBEEFDEAD: "StorNext",
    0x61636673: "ACFS",
    0x013111A8: "IBRIX",
    0x786F4256: "VirtualBox shared folders",
    0xBACBACBC: "VMware shared folders",
    0x7C7C6673: "Parallels shared folders",
}
"""f_type to name. Sources: the kernel's include/uapi/linux/magic.h (NFS, SMB, CIFS, FUSE, 9p, Ceph,
AFS, Coda, NetWare, OCFS2); the others from the table of GNU coreutils' `stat`, where they count as
remote, OrangeFS from the kernel's fs/orangefs. FUSE is sshfs and its like as well as a local disk:
the number does not tell. File systems on shared disks (OCFS2, GFS2) lock across machines, but
share no memory.
"""

VOLATILE = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
"""Gone with the machine, or with the session whose directory it is. Source: linux/magic.h."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_STATFS_BYTES = 512  # more than any libc's struct; f_type is its first word


def type_of(path: Path) -> int:
    """`f_type` of the file system that `path` is on. Raises OSError."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.statfs(os.fsencode(path), answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    # A signed word on some machines, so that SMB's numbers come out negative.
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF


def objection(directory: Path) -> str | None:
    """Why no store may lie there, with the way out; None where it may. Raises OSError."""
    remote = REMOTE.get(type_of(directory))
    if remote is None:
        return None
    return (
        f"{directory} is on a file system of another machine or of many ({remote}): SQLite's "
        "locks do not hold there, and the store would be damaged. Set MUSTER_HOME to a directory "
        "on a disk of this machine; run directories may stay where they are"
    )


def warning(directory: Path) -> str | None:
    """What a person should know of a store there; None where all is well. Raises OSError."""
    volatile = VOLATILE.get(type_of(directory))
    if volatile is None:
        return None
    return (
        f"{directory} is in memory ({volatile}): all jobs are forgotten when the machine, or the "
        "session that it belongs to, ends. Set MUSTER_HOME to a directory on a disk to keep them"
    )
