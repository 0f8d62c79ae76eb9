"""The server of an atlas answers this machine alone, and only with files of the atlas."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from mammo_sae.atlas.serve import atlas_in, server
from mammo_sae.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "atlas" / "data").mkdir(parents=True)
    (tmp_path / "run" / "secret.txt").write_text("secret")
    for name in ("files.json", "index.html", "data/run.js"):
        (tmp_path / "run" / "atlas" / name).write_text(f"content of {name}")
    return tmp_path / "run"


@pytest.fixture
def opened(run: Path) -> Iterator[ThreadingHTTPServer]:
    with server(atlas_in(run), 0) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _get(opened: ThreadingHTTPServer, path: str, host: str | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", opened.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_file_of_the_atlas_is_sent(opened):
    assert _get(opened, "/data/run.js") == (200, "content of data/run.js")
    assert _get(opened, "/") == (200, "content of index.html")
    assert _get(opened, "/", f"localhost:{opened.server_port}")[0] == 200


def test_nothing_else_is_sent(opened):
    assert _get(opened, "/data/")[0] == 404
    assert _get(opened, "/../secret.txt")[0] == 404
    assert _get(opened, "/%2e%2e/secret.txt")[0] == 404


def test_a_request_under_the_name_of_another_site_is_refused(opened):
    assert _get(opened, "/", "evil.example")[0] == 403
    assert _get(opened, "/", f"evil.example:{opened.server_port}")[0] == 403


def test_the_server_listens_on_the_loopback_alone(opened):
    assert opened.server_address[0] == "127.0.0.1"


def test_a_folder_without_an_atlas_and_a_taken_port_are_one_sentence(run, opened):
    assert atlas_in(run / "atlas") == run / "atlas"
    with pytest.raises(InputError, match="data has no atlas; give the folder of a run whose"):
        atlas_in(run / "atlas" / "data")
    with pytest.raises(InputError, match=r"port \d+ can't be used .*; give another --port"):
        server(run, opened.server_port)
