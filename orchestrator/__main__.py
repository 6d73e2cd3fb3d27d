"""`python -m orchestrator` is `muster`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main(prog_name="muster")
