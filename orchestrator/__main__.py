"""`muster`, which is also `python -m orchestrator`."""

from orchestrator import interrupts


def main() -> None:
    """Run the command line; a Ctrl-C while it is imported shows no traceback either."""
    interrupts.leave_at_once()
    from orchestrator.cli import main as command

    command(prog_name="muster")


if __name__ == "__main__":
    main()
