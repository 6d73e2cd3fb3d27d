"""`muster` without a Ray (`plain_run`), for which a supervisor stands still after three seconds."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are not installed

from orchestrator import hearing

hearing.SILENCE = 3.0

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("plain_run.py")), run_name="__main__")
