"""Whether each device's network port reaches the address that was configured for finding out.

Devices of one server mostly lie in different subnets without a route, so they are not asked to
reach each other: the target is the netdetect address, else the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.ascend import hccn
from cluster.ascend.hccn import Ping
from cluster.ascend.place import Place
from cluster.ascend.probe import BUDGET_SECONDS, QUESTION_SECONDS, ask
from cluster.ascend.transcript import Question, ping, port
from cluster.command import Outcome
from cluster.measured import Measured, Unmeasured

_PARSERS = {"netdetect": hccn.parse_netdetect, "gateway": hccn.parse_gateway}


def pings(
    place: Place,
    devices: Iterable[int],
    *,
    question: float = QUESTION_SECONDS,
    budget: float = BUDGET_SECONDS,
) -> dict[int, Measured[Ping]]:
    """Three echoes from each physical device; takes up to twice `budget` seconds."""
    wanted = list(devices)
    first = [port(item, device) for device in wanted for item in _PARSERS]
    told = ask(place, first, question=question, budget=budget)
    targets = {device: target(told, device) for device in wanted}
    second = [ping(device, at) for device, at in targets.items() if isinstance(at, str)]
    outcomes = ask(place, second, question=question, budget=budget)
    return {
        device: at if isinstance(at, Unmeasured) else _read(outcomes[ping(device, at)], at)
        for device, at in targets.items()
    }


def target(told: Mapping[Question, Outcome], device: int) -> Measured[str]:
    """The address to ask, or why there is none."""
    why = []
    for item, parse in _PARSERS.items():
        outcome = told[port(item, device)]
        found = Unmeasured(outcome.failure) if outcome.failure else parse(outcome.text)
        if isinstance(found, str):
            return found
        why.append(f"{item}: {found.why}")
    return Unmeasured("no address to ping: " + "; ".join(why))


def _read(outcome: Outcome, address: str) -> Measured[Ping]:
    if outcome.failure and not outcome.text:
        return Unmeasured(outcome.failure)
    # How the tool ends when nobody answers was not verified: what it printed counts.
    return hccn.parse_ping(outcome.text, address)
