"""Run the server of an atlas beside a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path

from mammo_sae.atlas.live import Live
from mammo_sae.atlas.serve import server


@contextmanager
def serving(atlas: Path, live: Live | None = None) -> Iterator[ThreadingHTTPServer]:
    """Yield a server of an atlas at a free port."""
    with server(atlas, 0, live) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(opened: ThreadingHTTPServer, path: str, host: str | None = None) -> tuple[int, bytes]:
    """Return the status and the content of an address, asked for under the name of a host."""
    connection = HTTPConnection("127.0.0.1", opened.server_port, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read()
