"""The CPUs of a node and whose they are: `cpu_facts` as a picture for people. Pure.

node-a: 2 sockets, 8 NUMA nodes, 192 cores
  socket 0 · NUMA 0 · NPU 4,5 │ cores 0-23    i44444444444 555555555555
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from string import ascii_uppercase

from cluster.cpu import format_cpu_list
from orchestrator.cpu_facts import Facts

_FREE, _RESERVED, _MANY = "·", "i", "#"
_NARROWEST = 16
"""Columns that a row of cores keeps, however narrow the terminal."""
_LONGEST = 16
"""Columns of a list of cores; room for two runs of three digits."""


def picture(name: str, told: Facts, width: int) -> list[str]:
    """The node as lines of at most `width` columns where that is enough for a few cores.

    A sign a core, its threads folded onto it: the rank's number, a letter where several ranks
    share it, `·` for a free one, `i` for one that is left for interrupts.
    """
    cores = [core for node in told["numa"] for core in node["cores"]]
    letters = _letters(cores)
    reserved = frozenset(told["reserved"])

    def sign(core: Facts) -> str:
        ranks = tuple(core["ranks"])
        if ranks:
            return str(ranks[0]) if len(ranks) == 1 else letters[ranks]
        return _RESERVED if reserved.issuperset(core["cpus"]) else _FREE

    digits = max((len(sign(core)) for core in cores), default=1)
    lines = [f"{name}: {_summary(told, len(cores))}"]
    heads = [_head(node) for node in told["numa"]]
    pad = max(map(len, heads), default=0)
    for node, head in zip(told["numa"], heads, strict=True):
        lines += _row(f"  {head:<{pad}}  ", [sign(core) for core in node["cores"]], digits, width)
    signs = {sign(core) for core in cores}
    for text in _legend(told, letters, signs):
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    return lines


def _summary(told: Facts, cores: int) -> str:
    sockets, nodes = told["sockets"], len(told["numa"])
    parts = [_count(sockets, "socket") if sockets else "sockets unknown"]
    parts += [_count(nodes, "NUMA node"), _count(cores, "core")]
    if told["quota"] is not None:
        parts.append(f"a quota of {told['quota']:g} cores")
    return f"{', '.join(parts)}; bind: {told['bind']}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _head(node: Facts) -> str:
    socket = "?" if node["socket"] is None else node["socket"]
    parts = [f"socket {socket}", f"NUMA {node['node']}"]
    if node["memory"] is False:
        parts[-1] += " (no memory)"
    for kind, names in groupby(node["devices"], key=lambda name: name.partition(" ")[0]):
        parts.append(f"{kind} {format_cpu_list(int(name.partition(' ')[2]) for name in names)}")
    layers = max((len(core["cpus"]) for core in node["cores"]), default=0)
    threads = (
        _brief([core["cpus"][layer] for core in node["cores"] if len(core["cpus"]) > layer])
        for layer in range(layers)
    )
    return f"{' · '.join(parts)} │ cores {'+'.join(threads)}"


def _brief(cpus: Sequence[int]) -> str:
    """A list of CPUs; one with many holes as how many of which there are."""
    text = format_cpu_list(cpus)
    return text if len(text) <= _LONGEST else f"{len(cpus)} of {min(cpus)}-{max(cpus)}"


def _row(head: str, signs: Sequence[str], digits: int, width: int) -> list[str]:
    """Signs with a blank where they change, or after each where numbers have several digits."""
    room = max(_NARROWEST, width - len(head))
    if digits == 1:
        lines = textwrap.wrap(" ".join("".join(group) for _, group in groupby(signs)), room)
    else:
        words = [f"{sign:>{digits}}" for sign in signs]
        many = max(1, (room + 1) // (digits + 1))
        lines = [" ".join(words[at : at + many]) for at in range(0, len(words), many)]
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def _letters(cores: Iterable[Facts]) -> dict[tuple[int, ...], str]:
    """A letter for each set of ranks that share a core."""
    shared = dict.fromkeys(tuple(c["ranks"]) for c in cores if len(c["ranks"]) > 1)
    return {
        ranks: ascii_uppercase[place] if place < len(ascii_uppercase) else _MANY
        for place, ranks in enumerate(shared)
    }


def _legend(told: Facts, letters: dict[tuple[int, ...], str], signs: set[str]) -> list[str]:
    parts = ["a number: the rank"] if any(sign.isdigit() for sign in signs) else []
    parts += [
        f"{letter}: ranks {format_cpu_list(ranks)}"
        for ranks, letter in letters.items()
        if letter != _MANY
    ]
    for sign, meaning in (
        (_MANY, "several ranks"),
        (_RESERVED, "left for interrupts"),
        (_FREE, "free"),
    ):
        if sign in signs:
            parts.append(f"{sign}: {meaning}")
    memory = [
        f"{'rank' if len(group['ranks']) == 1 else 'ranks'} {format_cpu_list(group['ranks'])} "
        f"from NUMA {format_cpu_list(group['numa'])}"
        for group in told["memory"]
    ]
    return ["; ".join(parts), *([f"memory: {'; '.join(memory)}"] if memory else [])]
