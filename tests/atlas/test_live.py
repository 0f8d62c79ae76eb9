"""A served atlas answers from the stores of its run, with the values that they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mammo_sae.atlas.heat import packed
from mammo_sae.atlas.live import Live
from mammo_sae.atlas.scripts import read_data
from mammo_sae.errors import InputError
from mammo_sae.stores.codes import CodesReader
from serving import get, serving
from small_atlas import ACTIVATION, CONCEPT, IDS, make_atlas, write_run

SAE = "finetuned/head/topk/0"
MANY = "9" * 5000  # more digits than Python converts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose atlas has images of latent 0 alone."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    make_atlas(folder, folder / "atlas", latents=1)
    return folder


@pytest.fixture(scope="module")
def opened(run: Path) -> Iterator[ThreadingHTTPServer]:
    with serving(run / "atlas", Live(run / "atlas")) as made:
        yield made


def _ask(opened: ThreadingHTTPServer, path: str) -> dict:
    status, content = get(opened, path)
    assert status == 200, content
    return json.loads(content)


def test_a_latent_without_static_images_has_the_page_of_one_that_has(run, opened, tmp_path):
    data = Path("data") / SAE / "0.js"
    assert list(read_data(run / "atlas" / data)) == ["0"]
    whole = read_data(make_atlas(run, tmp_path / "atlas", examples=6) / data)
    assert list(whole) == ["0", "1", "2"]
    for latent, static in whole.items():
        for neighbours in ("nearest", "together"):
            del static["sections"][neighbours]
        assert _ask(opened, f"/live/latent/{SAE}/{latent}")["record"] == static


def test_all_images_of_a_latent_come_by_activation_with_the_map_of_the_store(run, opened):
    found = _ask(opened, f"/live/ranked/{SAE}/1/0")
    # The label of the last image is unknown.
    assert [(one["image"], one["activation"], one["positive"]) for one in found["ranked"]] == [
        (IDS[4], 3, False), (IDS[3], 2, False), (IDS[1], 1, True), (IDS[0], 0, True),
        (IDS[2], 0, True),
    ]  # fmt: skip
    assert found["total"] == 5
    maps = CodesReader(run / "codes" / f"{SAE[:-2]}/seed0.json").maps([4, 3, 1, 0, 2], [1])[:, 0]
    assert [one["heat"] for one in found["ranked"]] == [packed(one, 3.0) for one in maps]
    assert found["images"][IDS[1]]["boxes"] == {CONCEPT: [3, 2, 9, 5]}
    assert [one["image"] for one in _ask(opened, f"/live/ranked/{SAE}/1/3")["ranked"]] == [
        IDS[0], IDS[2],
    ]  # fmt: skip
    assert _ask(opened, f"/live/ranked/{SAE}/1/5")["ranked"] == []


def test_every_latent_that_fires_in_an_image_comes_by_its_share_of_the_highest(opened):
    found = _ask(opened, f"/live/firing/{SAE}/{IDS[1]}/0")
    assert found == {
        "firing": [
            {"latent": 0, "activation": 3, "share": 0.75, "heat": packed(_map(3), 4.0)},
            {"latent": 1, "activation": 1, "share": 0.3333, "heat": packed(_map(1), 3.0)},
        ],
        "total": 2,
    }
    assert _ask(opened, f"/live/firing/{SAE}/{IDS[1]}/1")["firing"] == found["firing"][1:]
    assert _ask(opened, f"/live/firing/{SAE}/{IDS[5]}/0") == {"firing": [], "total": 0}


def test_any_latent_can_be_shown_in_any_image(opened):
    for image, activation in enumerate(ACTIVATION):
        (one,) = _ask(opened, f"/live/map/{SAE}/{IDS[image]}/1")["firing"]
        assert one["activation"] == activation[1]
        assert one["heat"] == packed(_map(activation[1]), 3.0)
    (dead,) = _ask(opened, f"/live/map/{SAE}/{IDS[0]}/2")["firing"]
    assert dead == {"latent": 2, "activation": 0, "share": None, "heat": "s"}


def _map(activation: float) -> np.ndarray:
    """Return the map [3, 2] of a latent that fires in the first cell."""
    return np.array([[activation, 0], [0, 0], [0, 0]])


def test_the_parts_of_the_score_are_those_of_the_static_page(run, opened):
    static = read_data(run / "atlas" / "data" / "images" / f"{IDS[1]}.js")
    found = _ask(opened, f"/live/image/{IDS[1]}")
    assert found["record"][SAE] == {"adding": static[SAE]["adding"]}
    assert found["record"][SAE]["adding"][CONCEPT]["logit"] == 10
    assert found["images"][IDS[1]]["facts"]["patient_id"] == "p1"


def test_a_picture_that_the_folder_lacks_comes_from_the_store(run, opened):
    assert not (run / "atlas" / "images" / f"{IDS[5]}.webp").exists()
    status, content = get(opened, f"/images/{IDS[5]}.webp")
    assert status == 200
    pixels = np.asarray(Image.open(BytesIO(content)).convert("L"))
    assert pixels.shape == (24, 16)
    assert abs(pixels.astype(int) - 200).max() <= 2


def test_outlines_come_from_the_store_and_are_those_of_the_static_page(run, opened):
    status, content = get(opened, f"/outlines/{IDS[5]}.png")
    assert status == 200
    assert np.asarray(Image.open(BytesIO(content)).convert("RGBA")).max() == 0  # all is breast
    static = (run / "atlas" / "outlines" / f"{IDS[1]}.png").read_bytes()
    assert get(opened, f"/outlines/{IDS[1]}.png") == (200, static)
    lines = np.asarray(Image.open(BytesIO(static)).convert("RGBA"))[..., 3] > 0
    expected = np.zeros((24, 16), bool)
    expected[2:5, 3:9] = True
    expected[3, 4:8] = False
    assert (lines == expected).all()


def test_only_a_served_page_learns_that_it_can_ask(run, opened):
    assert b"ATLAS.run.live = true" in get(opened, "/data/run.js")[1]
    assert b"live" not in (run / "atlas" / "data" / "run.js").read_bytes()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"/live/latent/{SAE}/3", "No latent 3; this SAE has latents 0 to 2."),
        (f"/live/latent/{SAE}/-1", "No latent -1; this SAE has latents 0 to 2."),
        (f"/live/latent/{SAE}/²", "No latent ²; this SAE has latents 0 to 2."),
        (f"/live/latent/{SAE}/{MANY}", f"No latent {MANY}; this SAE has latents 0 to 2."),
        ("/live/latent/finetuned/head/topk/1/0", "No SAE finetuned/head/topk/1 is in this atlas."),
        ("/live/latent/a/b/..%2f..%2fc/0/0", "No SAE a/b/../../c/0 is in this atlas."),
        (f"/live/ranked/{SAE}/0/x", "x is no number of entries to leave out."),
        (f"/live/firing/{SAE}/none/0", "No image none is in this run."),
        (f"/live/map/{SAE}/{IDS[0]}/9", "No latent 9; this SAE has latents 0 to 2."),
        ("/live/image/..%2f..%2fetc%2fpasswd", "No image ../../etc/passwd is in this run."),
        ("/images/none.webp", "No image none is in this run."),
        ("/images/none.png", "The atlas has no picture none.png."),
        ("/outlines/none.webp", "The atlas has no picture none.webp."),
        ("/live/secret", "The pages have no address /live/secret."),
        ("/live", "The pages have no address /live."),
        ("/cohort/images.parquet", "The atlas has no such file."),
    ],
)
def test_an_address_without_content_is_not_found_and_one_sentence_says_why(opened, path, said):
    quoted = path.replace("²", "%C2%B2")
    assert get(opened, quoted) == (404, f"{said}\n".encode())


def test_an_atlas_without_pixels_stays_so_when_it_is_served(run, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("images", "cohort", "codes", "tables"):
        (tmp_path / "run" / name).symlink_to(run / name)
    atlas = make_atlas(run, tmp_path / "run" / "atlas", images="none")
    with serving(atlas, Live(atlas)) as made:
        assert get(made, f"/images/{IDS[0]}.webp") == (
            404, b"This atlas was built without pixels.\n",
        )  # fmt: skip
        found = _ask(made, f"/live/ranked/{SAE}/0/0")
    assert [one["stored"] for one in found["images"].values()] == [False] * 5


def test_an_atlas_without_its_stores_says_what_is_missing(run, tmp_path):
    atlas = make_atlas(run, tmp_path / "atlas")
    with pytest.raises(InputError, match=r"cohort/images\.parquet is missing"):
        Live(atlas)
