"""Serve the folder of an atlas to a browser on the same machine.

A browser can open the pages from the folder. A server is for a machine that is reached through a
tunnel (`ssh -L`). It answers only to this machine, and only with files of the atlas.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mammo_sae.errors import InputError
from mammo_sae.stores.publish import FILES

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")


class Pages(SimpleHTTPRequestHandler):
    """Answers with files of one folder, if a page of this machine asks."""

    def send_head(self):  # type: ignore[no-untyped-def]
        """Refuse a request under another host name, which a page of another site can make."""
        if (self.headers.get("Host") or "").rpartition(":")[0] not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "ask for 127.0.0.1")
            return None
        return super().send_head()

    def list_directory(self, path: object) -> None:
        """Show no list of files."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for a request."""


def atlas_in(folder: Path) -> Path:
    """Return the folder of the atlas of a run, given the run's folder or the atlas itself.

    Raises
    ------
    InputError
        If there is no atlas.
    """
    for path in (folder / "atlas", folder):
        if (path / FILES).is_file() and (path / "index.html").is_file():
            return path
    raise InputError(f"{folder} has no atlas; give the folder of a run whose atlas is built")


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of `folder` on this machine alone. Port 0 takes a free one.

    Raises
    ------
    InputError
        If the port is taken or can't be used.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(Pages, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} can't be used ({error}); give another --port") from None
