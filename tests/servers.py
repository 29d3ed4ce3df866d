"""Whether a Prefect server is there."""

import urllib.request


def answers(url: str) -> bool:
    """Whether the API at `url` says that it is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
