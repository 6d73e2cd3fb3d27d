"""Which devices a process may see: `ASCEND_RT_VISIBLE_DEVICES`, and ids in containers.

Three numbers are kept apart. The *physical* id is the N of /dev/davinciN: hccn_tool and rank
tables use it. The *logical* id is npu-smi's `Chip Logic ID`: the variable lists these. The
*place* in the variable, ascending, is a process's DEVICE_ID. Taken from MindSpore 2.10, which
sorts the list, and from reports; how CANN orders it was not verified.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from cluster.ascend.values import Measured, Unmeasured

VARIABLE = "ASCEND_RT_VISIBLE_DEVICES"
_NOTHING = frozenset({"", "NoDevFiles"})


def parse_visible(text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Logical ids of the variable, ascending, and its mistakes.

    CANN drops ids of a list that does not ascend, without a word; so that is a mistake.
    """
    if text.strip() in _NOTHING:
        return (), ()
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,6}", word)]
    ids = [int(word) for word in words if word not in wrong]
    problems = [f"{VARIABLE}: {word[:40]!r} is not the number of a device" for word in wrong[:50]]
    if ids != sorted(set(ids)):
        ascending = ",".join(map(str, sorted(set(ids))))
        problems.append(
            f"{VARIABLE}={text[:80]}: ids must ascend, each once, else devices vanish; "
            f"write {ascending}"
        )
    return tuple(sorted(set(ids))), tuple(problems)


def physical_ids(shown: Sequence[int], files: Collection[int]) -> list[Measured[int]]:
    """The physical id of each id that npu-smi shows, by the numbers of the /dev/davinciN.

    A container may show devices 4-7 as 0-3: as many files as ids, with other numbers, are
    those devices in ascending order. (Observed by users of 910 servers; not verified by us.)
    """
    if not files or set(shown) <= set(files):
        return list(shown)
    if len(set(shown)) == len(files):
        order = dict(zip(sorted(set(shown)), sorted(files), strict=True))
        return [order[one] for one in shown]
    why = Unmeasured(
        f"npu-smi shows {_listed(shown)}, /dev/davinci* has {_listed(files)}: which is which "
        "cannot be told"
    )
    return [why for _ in shown]


def _listed(ids: Collection[int]) -> str:
    return ",".join(map(str, sorted(ids))) or "none"
