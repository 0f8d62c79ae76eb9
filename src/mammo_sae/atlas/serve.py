"""Serve an atlas to a browser on the same machine, with images and heat maps from the stores.

A browser can open the pages from the folder. A server is for a machine that is reached through a
tunnel (`ssh -L`), and for what the folder does not hold (`mammo_sae.atlas.live`). It answers only
to this machine, and only with files of the atlas and from the stores of its run.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mammo_sae.atlas.live import Live, UnknownAddress
from mammo_sae.errors import InputError, StoreError
from mammo_sae.stores.publish import FILES

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")


class Pages(SimpleHTTPRequestHandler):
    """Answers with files of one folder and from the stores, if a page of this machine asks."""

    def __init__(self, *arguments: Any, live: Live | None, directory: str) -> None:
        self._live = live
        super().__init__(*arguments, directory=directory)

    def send_head(self):  # type: ignore[no-untyped-def]
        """Refuse a request under another host name, which a page of another site can make."""
        if (self.headers.get("Host") or "").partition(":")[0] not in NAMES:
            return self._refuse(HTTPStatus.FORBIDDEN, f"Ask for {HOST}.")
        folder, file = Path(self.directory).resolve(), Path(self.translate_path(self.path))
        if "\0" in str(file) or not file.resolve().is_relative_to(folder):
            return self._refuse(HTTPStatus.NOT_FOUND, "The atlas has no such file.")
        try:
            answer = self._live and self._live.answer(urlsplit(self.path).path)
        except UnknownAddress as error:
            return self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except (InputError, StoreError) as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        if answer:
            return self._content(HTTPStatus.OK, *answer)
        return super().send_head()

    def list_directory(self, path: object) -> None:
        """Show no list of files."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say in one sentence what is wrong with a request."""
        none = code == HTTPStatus.NOT_FOUND
        sentence = "The atlas has no such file." if none else f"{message or 'Bad request'}."
        self.wfile.write(self._refuse(HTTPStatus(code), sentence).getvalue())

    def _refuse(self, status: HTTPStatus, sentence: str) -> BytesIO:
        return self._content(status, "text/plain; charset=utf-8", f"{sentence}\n".encode())

    def _content(self, status: HTTPStatus, kind: str, content: bytes) -> BytesIO:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        return BytesIO(content)

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
            return path.resolve()
    raise InputError(f"{folder} has no atlas; give the folder of a run whose atlas is built")


def server(folder: Path, port: int, live: Live | None = None) -> ThreadingHTTPServer:
    """Return a server of an atlas on this machine alone.

    Parameters
    ----------
    folder
        Folder of the atlas.
    port
        The port. 0 takes a free one.
    live
        The stores of its run. Without them, pages show what the folder holds.

    Raises
    ------
    InputError
        If the port is taken or can't be used.
    """
    try:
        pages = partial(Pages, directory=str(folder), live=live)
        return ThreadingHTTPServer((HOST, port), pages)
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} can't be used ({error}); give another --port") from None
