"""Which GPUs a process may see: `CUDA_VISIBLE_DEVICES`, read as CUDA reads it.

By its documentation the list ends at the first word that names nothing. Numbers are taken in the
order of PCI bus ids; CUDA does so only if CUDA_DEVICE_ORDER says it, and that is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cluster.measured import Measured

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
_NOTHING = frozenset({"", "-1", "NoDevFiles"})


def visible(
    environment: Mapping[str, str], gpus: Mapping[int, Measured[str]], *, alike: bool
) -> tuple[frozenset[int] | None, tuple[str, ...]]:
    """The indices that the variable leaves, None where it is not set; and its mistakes.

    `gpus` are uuids by index, `alike` says whether all are of one model.
    """
    if VARIABLE not in environment:
        return None, ()
    text = environment[VARIABLE].strip()
    if text in _NOTHING:
        return frozenset(), ()
    chosen: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        named = _named(word, gpus)
        if len(named) != 1 or named[0] in chosen:
            return frozenset(chosen), (_mistake(word, named, chosen),)
        chosen += named
    numbers = any(word.strip().isdigit() for word in text.split(","))
    if numbers and not alike and environment.get(ORDER) != BY_BUS:
        why = f"{VARIABLE}={text[:80]} is read in the order of PCI bus ids; CUDA counts the fastest"
        return frozenset(chosen), (f"{why} GPU first unless {ORDER}={BY_BUS}",)
    return frozenset(chosen), ()


def _named(word: str, gpus: Mapping[int, Measured[str]]) -> list[int]:
    """The GPUs that a number or the beginning of a uuid names."""
    if re.fullmatch(r"[0-9]{1,4}", word):
        return [int(word)] if int(word) in gpus else []
    if not word.startswith("GPU-"):
        return []
    return [i for i, uuid in gpus.items() if isinstance(uuid, str) and uuid.startswith(word)]


def _mistake(word: str, named: list[int], chosen: list[int]) -> str:
    if word.startswith("MIG-"):
        why = "is a part of a GPU, and muster gives out whole ones"
    elif len(named) > 1:
        why = f"begins the uuids of GPUs {', '.join(map(str, named))}: write more of it"
    elif named and named[0] in chosen:
        why = "is there twice: write each once"
    else:
        why = "names no GPU here"
    return f"{VARIABLE}: {word[:60]!r} {why}; it and what follows are left out"
