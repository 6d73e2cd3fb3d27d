"""`muster` that is not patient about sizes of worlds: for tests, which have no minutes."""

from orchestrator import world
from orchestrator.cli import main

world.PATIENCE = 1.0
world.SETTLED = 1.0
world.LOOK_EVERY = 0.5

if __name__ == "__main__":
    main(prog_name="muster")
