"""`python -m agent.probe URL STATUS SECONDS`: ask a URL once and say whether it answers as wanted.

Owns one request (HTTP/1.1, RFC 9110). Runs as a program of its own, which ends with 0 or 1.
"""

import http.client
import sys
from urllib.parse import urlsplit

BODY_BYTES_MAX = 64 * 1024


def main(words: list[str]) -> int:
    """Ask, say what came in one line, and return the exit code."""
    url, status, seconds = words
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=float(seconds)
        )
        connection.request("GET", path, headers={"User-Agent": "fieldfare-agent"})
        answer = connection.getresponse()
        answer.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.stdout.write(f"{url} does not answer: {error}\n")
        return 1
    sys.stdout.write(f"{url} answers {answer.status}\n")
    return 0 if answer.status == int(status) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
