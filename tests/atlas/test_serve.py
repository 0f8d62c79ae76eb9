"""The server of an atlas answers this machine alone, and only with files of the atlas."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from mammo_sae.atlas.serve import atlas_in, server
from mammo_sae.errors import InputError
from serving import get, serving


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "atlas" / "data").mkdir(parents=True)
    (tmp_path / "run" / "secret.txt").write_text("secret")
    for name in ("files.json", "index.html", "data/run.js"):
        (tmp_path / "run" / "atlas" / name).write_text(f"content of {name}")
    return tmp_path / "run"


@pytest.fixture
def opened(run: Path) -> Iterator[ThreadingHTTPServer]:
    with serving(atlas_in(run)) as made:
        yield made


def test_a_file_of_the_atlas_is_sent(opened):
    assert get(opened, "/data/run.js") == (200, b"content of data/run.js")
    assert get(opened, "/") == (200, b"content of index.html")
    assert get(opened, "/", f"localhost:{opened.server_port}")[0] == 200
    assert get(opened, "/", "localhost")[0] == 200  # a browser leaves out port 80


def test_the_verb_serves_until_it_is_interrupted(run):
    command = [sys.executable, "-m", "mammo_sae", "serve", str(run), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        # A shell's background jobs and their children ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as started:  # fmt: skip
        try:
            assert started.stdout is not None
            told = iter(started.stdout.readline, "")
            shown = (re.match(r"http://127\.0\.0\.1:\d+/index\.html(?= )", line) for line in told)
            address = next(found for found in shown if found)
            with urlopen(address[0], timeout=30) as answer:
                assert answer.read() == b"content of index.html"
            started.send_signal(signal.SIGINT)
            assert started.wait(timeout=60) == 0
        finally:
            started.kill()


@pytest.mark.parametrize(
    "path",
    [
        *("/data/", "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/link.txt"),
        *("/%00", "//etc/passwd", "/data/run.js/"),
    ],
)
def test_nothing_else_is_sent(run, opened, path):
    (run / "atlas" / "link.txt").symlink_to(run / "secret.txt")
    assert get(opened, path) == (404, b"The atlas has no such file.\n")


def test_a_request_under_the_name_of_another_site_is_refused(opened):
    assert get(opened, "/", "evil.example") == (403, b"Ask for 127.0.0.1.\n")
    assert get(opened, "/", f"evil.example:{opened.server_port}")[0] == 403
    assert get(opened, "/", "evil.example:127.0.0.1:80")[0] == 403


def test_the_server_listens_on_the_loopback_alone(opened):
    assert opened.server_address[0] == "127.0.0.1"


def test_a_folder_without_an_atlas_and_a_taken_port_are_one_sentence(run, opened):
    assert atlas_in(run / "atlas") == run / "atlas"
    with pytest.raises(InputError, match="data has no atlas; give the folder of a run whose"):
        atlas_in(run / "atlas" / "data")
    with pytest.raises(InputError, match=r"port \d+ can't be used .*; give another --port"):
        server(run, opened.server_port)
