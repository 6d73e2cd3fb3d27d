"""A script that is careless with its secrets, for tests: it prints them and dies of them."""

import base64
import os
import time
from urllib.parse import quote

from orchestrator.rank import Rank


def main() -> None:
    """Print, then do as told."""
    rank = Rank.from_env()
    token, key = os.environ.pop("S3_TOKEN"), os.environ.pop("KEY")
    print(token, repr(token), quote(token), base64.b64encode(token.encode()).decode())
    print(key, flush=True)
    time.sleep(1.0)  # to be looked at
    rank.report("leak", f"the token was {token}")
    encoded = base64.b64encode(f"user:{token}".encode()).decode()
    raise ConnectionError(f"https://{quote(token)}@host refused {token!r} {encoded}: {key}")


if __name__ == "__main__":
    main()
