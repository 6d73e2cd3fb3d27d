"""`python -m orchestrator.service` without a Ray: supervisors are started plainly."""

import sys
from typing import Any

from orchestrator.service.head import Head
from orchestrator.service.serve import main
from tests.plain_ray import PlainRay


class PlainHead(Head):
    """A head that needs no Ray."""

    def __init__(self, store: Any, runs: Any, environment: Any, _: Any, *more: Any) -> None:
        super().__init__(store, runs, environment, PlainRay(), *more)


if __name__ == "__main__":
    sys.exit(main(head_class=PlainHead))
