"""Models of the Hugging Face hub, by the hub's own package and from a server in its place."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from pydantic import ValidationError

import vits
from mammo_sae.config import load_config
from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.hub_models import configuration_folder, model_folder
from mammo_sae.encoders.network import load_description, load_encoder
from mammo_sae.encoders.settings import HubSource, PretrainedSettings
from mammo_sae.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


class Hub(SimpleHTTPRequestHandler):
    """Serves owner/name/resolve/<commit>/<file>, with the headers of the hub."""

    asked: list[str]

    def __init__(self, *arguments, asked: list[str], **options) -> None:
        self.asked = asked
        super().__init__(*arguments, **options)

    def send_head(self):
        self.asked.append(f"{self.command} {Path(self.path).name}")
        if Path(self.translate_path(self.path)).is_file():
            return super().send_head()
        self.send_response(404)
        known = COMMIT in self.path
        self.send_header("X-Error-Code", "EntryNotFound" if known else "RevisionNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.is_file():
            self.send_header("ETag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
        if COMMIT in self.path:
            self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def log_message(self, *_args) -> None:
        pass


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The folder of a server with the repository owner/tiny at COMMIT."""
    root = tmp_path_factory.mktemp("server")
    folder = root / "owner" / "tiny" / "resolve" / COMMIT
    vits.write("dinov2", folder)
    own = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    plain = root / "owner" / "plain" / "resolve" / COMMIT
    vits.write("dinov2", plain)
    (plain / "model.safetensors").rename(plain / "pytorch_model.bin")
    return root


def reach(monkeypatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def asked(repository, tmp_path, monkeypatch) -> Iterator[list[str]]:
    """What a server in the hub's place is asked for. The cache is empty at first."""
    found: list[str] = []
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Hub, directory=str(repository), asked=found)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reach(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield found
    server.shutdown()
    server.server_close()


def source(name: str = "owner/tiny", **changes) -> HubSource:
    return HubSource.model_validate(
        {"kind": "hub", "repository": name, "revision": COMMIT, **changes}
    )


def imported(of: HubSource, folder: Path) -> Path:
    import_encoder.run(
        PretrainedSettings(source=of),
        weights=folder / "encoder.safetensors",
        description=folder / "encoder.json",
    )
    return folder


def test_a_model_of_the_hub_is_that_of_its_folder(asked, repository, tmp_path):
    folder = repository / "owner" / "tiny" / "resolve" / COMMIT
    plain = load_encoder(vits.imported(folder, tmp_path / "plain"))
    found = load_encoder(imported(source(licence="MIT"), tmp_path / "found"))
    x = torch.randn(1, 3, 70, 42, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(plain(x), found(x))
    described = load_description(tmp_path / "found")
    assert described.source == f"owner/tiny/model.safetensors at commit {COMMIT}"
    assert described.licence == "MIT"
    assert described.normalisation.std == (0.25,) * 3
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert described.sha256 == digest


def test_a_configuration_is_checked_without_the_weights(asked):
    config = load_config(
        {
            "images": {"preprocessing": "clinical", "height": 280, "width": 196},
            "encoders": {
                "tiny": {
                    "kind": "pretrained",
                    "source": {"kind": "hub", "repository": "owner/tiny", "revision": COMMIT},
                },
                "pretrained": None,
                "finetuned": None,
            },
            "layers": ["blocks.1", "head"],
            "inner": {"layers": ["blocks.1"]},
        },
        "x",
    )
    assert config.architecture("tiny") == "vit-dinov2-patch14-width48-depth3-prefix1"
    assert "GET config.json" in asked
    assert not [one for one in asked if "safetensors" in one]


def test_a_model_in_the_cache_needs_no_hub(asked, tmp_path, monkeypatch):
    folder = model_folder("owner/tiny", COMMIT)
    before = list(asked)
    reach(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")  # nothing listens there
    assert model_folder("owner/tiny", COMMIT) == folder
    assert imported(source(), tmp_path / "found").is_dir()
    assert asked == before
    assert folder.parts[-3:] == ("models--owner--tiny", "snapshots", COMMIT)


def test_a_hub_that_cant_be_reached_is_an_error_that_says_what_to_fetch(tmp_path, monkeypatch):
    reach(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as refused:
        configuration_folder("owner/tiny", COMMIT)
    said = str(refused.value)
    assert said.startswith("config.json of owner/tiny is not in the cache of the hub, and can't be")
    assert (
        "run hf download owner/tiny config.json preprocessor_config.json model.safetensors "
        f"--revision {COMMIT} where there is a network" in said
    )
    assert "\n" not in said


def test_a_cache_that_lacks_the_preprocessor_is_not_taken_for_a_model_without_one(
    asked, tmp_path, monkeypatch
):
    folder = model_folder("owner/tiny", COMMIT)
    (folder / "preprocessor_config.json").unlink()
    reach(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"preprocessor_config\.json of owner/tiny is not in the"):
        configuration_folder("owner/tiny", COMMIT)


def test_a_repository_with_pickled_weights_only_is_refused(asked, tmp_path):
    said = rf"owner/plain has no model\.safetensors at commit {COMMIT}; name another commit"
    for _ in range(2):  # the second time, the cache knows it
        with pytest.raises(InputError, match=said):
            imported(source("owner/plain"), tmp_path / "found")
    assert not [one for one in asked if one.endswith(".bin")]


def test_a_commit_that_does_not_exist_is_an_error(asked):
    with pytest.raises(InputError, match=r"config\.json of owner/tiny is not in the cache"):
        configuration_folder("owner/tiny", OTHER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("revision", "main"),
        ("revision", COMMIT[:12]),
        ("revision", None),
        ("repository", "tiny"),
        ("repository", "owner/tiny/model.safetensors"),
        ("repository", "../tiny"),
    ],
)
def test_only_a_repository_at_a_commit_can_be_named(key, value):
    with pytest.raises(ValidationError, match=key):
        source(**{key: value})
