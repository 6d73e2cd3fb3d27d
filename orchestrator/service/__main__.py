"""`python -m orchestrator.service`: the controller with its API."""

import sys

from orchestrator.service.serve import main

if __name__ == "__main__":
    sys.exit(main())
