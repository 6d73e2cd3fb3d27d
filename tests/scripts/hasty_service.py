"""`plain_service` that is not patient about sizes of worlds, as `hasty` is."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are not installed

from orchestrator import world

world.PATIENCE = 1.0
world.SETTLED = 1.0
world.LOOK_EVERY = 0.5

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("plain_service.py")), run_name="__main__")
