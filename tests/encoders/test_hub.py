from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mammo_sae.encoders import hub
from mammo_sae.errors import InputError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[None]:
    """A real server with one checkpoint, which replaces the hub."""
    file = tmp_path / "mirror" / "owner" / "repository" / "resolve" / "main" / "folder" / "b5.tar"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "mirror"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_to_its_place(mirror, tmp_path):
    path = tmp_path / "checkpoints" / "b5.tar"
    hub.fetch("owner/repository/folder/b5.tar", path)
    assert path.read_bytes() == b"weights"


def test_a_file_that_is_there_is_left_alone(mirror, tmp_path):
    path = tmp_path / "b5.tar"
    path.write_bytes(b"mine")
    hub.fetch("owner/repository/folder/b5.tar", path)
    assert path.read_bytes() == b"mine"


def test_a_file_the_hub_does_not_have_is_an_error_with_address_and_place(mirror, tmp_path):
    with pytest.raises(InputError, match=r"main/b2\.tar can't be fetched .* put it at .*b2\.tar"):
        hub.fetch("owner/repository/b2.tar", tmp_path / "b2.tar")
    assert not (tmp_path / "b2.tar").exists()


def test_a_hub_that_cannot_be_reached_is_an_error_with_address_and_place(tmp_path, monkeypatch):
    # Nothing listens on port 9 (discard).
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"resolve/main/b5\.tar can't be fetched .* put it at"):
        hub.fetch("owner/repository/b5.tar", tmp_path / "b5.tar")


def test_an_id_in_the_form_that_the_message_gives_is_fetched(mirror, tmp_path):
    path = tmp_path / "b5.tar"
    with pytest.raises(InputError) as refused:
        hub.fetch("owner/repository", path)
    form = str(refused.value).partition("; write ")[2]
    assert form == "owner/repository/path/in/the/repository"
    hub.fetch(form.replace("path/in/the/repository", "folder/b5.tar"), path)
    assert path.read_bytes() == b"weights"


def test_an_id_without_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="names no file; write owner/repository/path"):
        hub.fetch("owner/repository", tmp_path / "b5.tar")
