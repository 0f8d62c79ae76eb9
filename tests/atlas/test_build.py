"""The atlas of a small run in real files: which files it has, and what may not be in them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas import build, contents
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.errors import InputError
from mammo_sae.stores.publish import verify_store
from mammo_sae.stores.tables import write_table
from small_atlas import (
    CONCEPT,
    IDS,
    NAME,
    WITHOUT,
    make_atlas,
    other_files,
    write_run,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("atlas_run"))


@pytest.fixture(scope="module")
def atlas(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_atlas(root, tmp_path_factory.mktemp("out") / "atlas")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of a run with names, partners, quality and a concept without a positive image."""
    folder = write_run(tmp_path_factory.mktemp("full"), more=True)
    return make_atlas(folder, tmp_path_factory.mktemp("out") / "atlas")


def _data(path: Path) -> object:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.fullmatch(r".*?\)\[.*?\] = (.*);\n", text, re.DOTALL)[1])


def test_the_pictures_are_those_of_the_shown_images_under_their_pseudonyms(atlas):
    shown = {f"{IDS[i]}.webp" for i in range(5)}  # the label of the last image is unknown
    assert {path.name for path in (atlas / "images").iterdir()} == shown
    assert _data(atlas / "data" / "images.js").keys() == {*IDS[:5]}


def test_a_latent_has_its_images_with_heat_maps_and_activations(atlas):
    record = _data(atlas / "data" / "finetuned" / "head" / "topk" / "0" / "0.js")["0"]
    groups = {group["kind"]: group["images"] for group in record["groups"]}
    top = groups["highest activation"]
    assert [(one["image"], one["activation"]) for one in top] == [(IDS[0], 4), (IDS[1], 3)]
    assert top[0]["heat"] == "sAAD/"  # 255 in the first of six cells
    assert groups["false alarms"] == []
    assert [one["image"] for one in groups["near misses"]] == [IDS[2]]


def test_an_image_has_the_latents_that_fire_in_it_and_its_boxes(atlas):
    record = _data(atlas / "data" / "images" / f"{IDS[1]}.js")["finetuned/head/topk/0"]
    found = [(one["latent"], one["share"]) for one in record["firing"]]
    assert found == [(0, 0.75), (1, 0.3333)]
    # Weights are 6 and 3.6, mean codes a sixth of the highest, and the bias of the SAE adds 3 to 1.
    (part,) = record["adding"].values()
    assert part == {
        "logit": 10.0, "offset": 4.0, "latents": [[0, 3.0], [1, 0.6]], "rest": 0, "others": 0,
        "error": 2.4,
    }  # fmt: skip
    images = _data(atlas / "data" / "images.js")
    assert images[IDS[1]]["boxes"] == {CONCEPT: [3, 2, 9, 5]}
    assert images[IDS[4]]["boxes"] == {}
    assert images[IDS[1]]["facts"].keys() == {"patient_id", "split", "view", "side"}


def test_a_latent_has_its_neighbours_by_direction(atlas):
    record = _data(atlas / "data" / "finetuned" / "head" / "topk" / "0" / "0.js")["0"]
    rows = record["sections"]["nearest"]["rows"]
    assert rows == [["finetuned/head/topk/0", 1, 0.6]]  # the third atom is at a right angle
    assert record["sections"]["together"]["rows"] == []  # no latent fires on the same images


def test_the_start_page_has_the_first_image_of_each_first_latent(atlas):
    start = _data(atlas / "data" / "start.js")
    shown = {"heat": "sAAD/", "image": IDS[0], "latent": 0}
    assert start["pictures"] == {f"{CONCEPT}/finetuned/head/topk/0": [shown]}
    assert start["images"].keys() == {IDS[0]}


def test_pictures_and_pages_of_images_stop_where_the_room_ends(root, tmp_path, monkeypatch):
    whole = make_atlas(root, tmp_path / "whole")
    pages = {path.stem: path.stat().st_size for path in (whole / "data" / "images").iterdir()}
    assert len(pages) == 5
    monkeypatch.setattr(contents, "PICTURES", 0.1)
    monkeypatch.setattr(contents, "room_left", lambda _: sum(pages.values()) // 2)
    out = make_atlas(root, tmp_path / "atlas")
    files = {path.stem: path.stat().st_size for path in (out / "images").iterdir()}
    assert 0 < sum(files.values()) <= 0.1 * sum(pages.values()) / 2
    images = _data(out / "data" / "images.js")
    assert {image for image, known in images.items() if known["stored"]} == files.keys()
    assert len(files) < len(images) == 5
    written = {path.stem for path in (out / "data" / "images").iterdir()}
    assert {image for image, known in images.items() if known["page"]} == written
    assert written
    assert written <= files.keys()
    assert sum(pages[image] for image in written) <= sum(pages.values()) / 2


def test_the_room_is_what_the_files_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "ROOM", 100)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.js").write_bytes(bytes(60))
    assert contents.room_left(tmp_path) == 40
    (tmp_path / "b.js").write_bytes(bytes(60))
    assert contents.room_left(tmp_path) == 0


def test_the_facts_of_images_count_before_the_pages_of_images(root, tmp_path, monkeypatch):
    def size(out: Path) -> int:
        kinds = (out / "data", out / "images", out / "outlines")
        files = [path for kind in kinds for path in kind.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files if path.name != "run.js")

    whole = size(make_atlas(root, tmp_path / "whole"))
    monkeypatch.setattr(contents, "PICTURES", 1)
    monkeypatch.setattr(contents, "ROOM", whole - 10)
    out = make_atlas(root, tmp_path / "atlas")
    assert len(list((out / "data" / "images").iterdir())) == 4
    # A page that is left out changes "true" to "false" in two files at most.
    assert size(out) <= whole - 10 + 2


def test_the_start_page_escapes_names_and_links_each_latent(atlas):
    text = (atlas / "index.html").read_text(encoding="utf-8")
    assert "masse&lt;ä&gt;" in text
    assert "masse<" not in text
    assert '<a href="latent.html#finetuned/head/topk/0/0">0</a>' in text
    assert 'href="confounders.html#finetuned/head/topk/0"' in text
    assert "&lt;run&gt;" in text
    assert "ab12" in text


def test_no_text_ends_a_script_and_no_column_of_the_cohort_leaks(atlas):
    for path in atlas.rglob("*"):
        if path.suffix == ".js" and path.parent.name != "static":
            assert "<" not in path.read_text(encoding="utf-8"), path
        if path.is_file():
            assert b"hospital" not in path.read_bytes(), path


def test_without_images_no_pixel_is_in_the_atlas(root, tmp_path):
    out = make_atlas(root, tmp_path / "atlas", images="none")
    assert not (out / "images").exists()
    assert not [path for path in out.rglob("*") if path.suffix in {".webp", ".png"}]
    assert _data(out / "data" / "run.js")["images"] == "none"


def test_a_second_build_has_the_same_bytes_and_leaves_nothing_of_the_first(root, atlas, tmp_path):
    out = tmp_path / "atlas"
    shutil.copytree(atlas, out)
    (out / "data" / "old.js").write_text("old")
    (tmp_path / "atlas.json").write_bytes(atlas.with_suffix(".json").read_bytes())
    assert verify_store(tmp_path / "atlas.json") == [f"{out}: file data/old.js is not in its list"]
    make_atlas(root, out)

    def content(folder: Path) -> dict[str, bytes]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    assert content(out) == content(atlas)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas", "atlas.json"]
    assert verify_store(tmp_path / "atlas.json") == []


def test_a_folder_with_files_of_another_kind_is_refused_and_keeps_them(root, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "index.html").write_text("mine")
    with pytest.raises(InputError, match="study has files and is not an atlas; give another"):
        make_atlas(root, tmp_path / "study")
    assert (tmp_path / "study" / "index.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    with pytest.raises(InputError, match="is not a folder; give the folder of an atlas"):
        make_atlas(root, tmp_path / "study" / "index.html")


def test_a_build_that_fails_leaves_the_old_atlas(root, atlas, tmp_path, monkeypatch):
    out = tmp_path / "atlas"
    shutil.copytree(atlas, out)
    before = sorted(path.read_bytes() for path in out.rglob("*") if path.is_file())

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(build, "write_static", fail)
    with pytest.raises(OSError, match="no room"):
        make_atlas(root, out)
    assert sorted(path.read_bytes() for path in out.rglob("*") if path.is_file()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["atlas"]


def test_the_links_of_the_pages_lead_to_files(atlas):
    for page in atlas.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for address in re.findall(r'(?:href|src)="([^"#]+)', text):
            # The empty icon keeps a browser from asking a server for one.
            assert address == "data:," or (atlas / address).is_file(), (page.name, address)


def test_an_sae_without_codes_is_named(root, tmp_path):
    table = build.read_tables(sorted((root / "tables").glob("*.parquet")))
    assert table.saes() == [Identity("finetuned", "head", "topk", 0)]
    with pytest.raises(InputError, match="no codes of finetuned/head/topk/0; give"):
        build.run(
            AtlasSettings(),
            images=root / "cohort" / "images.parquet",
            image_stores=[root / "images" / "0.json"],
            codes=[],
            **other_files(root),
            tables=sorted((root / "tables").glob("*.parquet")),
            registry=root / "registry.csv",
            content="{}",
            split="test",
            store=tmp_path / "atlas",
            manifest=tmp_path / "atlas.json",
        )


HEAD = ("data", "finetuned", "head", "topk", "0")


def test_a_name_is_in_the_table_of_the_layer_and_on_the_page_of_the_latent(full, atlas):
    table = _data(full.joinpath(*HEAD, "table.js"))
    column = dict(zip(table["names"], table["values"], strict=True))
    assert column["name"] == [NAME, None, None]
    assert "name" not in _data(atlas.joinpath(*HEAD, "table.js"))["names"]
    section = _data(full.joinpath(*HEAD, "0.js"))["0"]["sections"]["names"]
    assert dict(zip(section["names"], section["rows"][0], strict=True)) == {
        "name": NAME, "agreement": "concept", "best": NAME, "score": 2, "runner_up": "a marker",
        "runner_up_score": 1.5, "decoy": "a dog", "decoy_score": 1, "cosine": 0.4,
        "chance_cosine": 0.1, "auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9, "q": 0.01,
        "reason": "",
    }  # fmt: skip


def test_the_start_page_says_how_many_first_latents_have_a_name(full, atlas):
    text = (full / "index.html").read_text(encoding="utf-8")
    said = "1 of the 1 first latent got a name in words, and 1 got a phrase for masse&lt;ä&gt;."
    assert said in text
    assert "&lt;script&gt;alert(&#39;ö&#39;)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "name" not in (atlas / "index.html").read_text(encoding="utf-8").split("<h2")[1]


def test_a_latent_has_its_partners_in_both_directions(full):
    records = _data(full.joinpath(*HEAD, "0.js"))
    sae = "finetuned/head/topk/0"
    rest = [0.9, 0.8, 0.3, True, ""]
    assert records["0"]["sections"]["activation_matches"]["rows"] == [[sae, 1, *rest]]
    assert records["1"]["sections"]["matched_by"]["rows"] == [[sae, 0, *rest]]
    assert "activation_matches" not in records["1"]["sections"]
    assert "matched_by" not in records["0"]["sections"]


def test_an_sae_has_its_quality_and_the_results_of_its_own_controls(full):
    (sae,) = _data(full / "data" / "run.js")["saes"]
    assert sae["control"] is False
    assert sae["quality"] == {
        "explained_variance": 0.75, "explained_variance_pca": 0.5,
        "explained_variance_channels": 0.25, "l0": 2, "latents": 3, "dead_share": 0.3333,
        "lost": {CONCEPT: [0.02, -0.01, 0.05], WITHOUT: [None, None, None]},
    }  # fmt: skip
    beside = _data(full.joinpath(*HEAD, "controls.js"))
    (row,) = beside["rows"]
    assert dict(zip(beside["names"], row, strict=True)) == {
        "concept": CONCEPT, "trained": "topk", "control": "untrained", "measure": "auroc_best",
        "split": "test", "trained_value": 0.9, "trained_value_low": 0.8,
        "trained_value_high": 0.95, "control_value": 0.6, "control_value_low": 0.5,
        "control_value_high": 0.7, "difference": 0.3, "difference_low": 0.2,
        "difference_high": 0.4, "outcome": "wins", "reason": "",
    }  # fmt: skip


def test_a_concept_without_a_positive_image_has_the_reason(full):
    text = (full / "index.html").read_text(encoding="utf-8")
    assert "No latent was tested for ohne Befund: no positive image." in text
    record = _data(full.joinpath(*HEAD, "0.js"))["0"]
    assert record["concept"] == CONCEPT
    table = _data(full.joinpath(*HEAD, "table.js"))
    column = dict(zip(table["names"], table["values"], strict=True))
    assert column[f"{WITHOUT}|auroc"] == [None, None, None]


def test_a_run_whose_only_concept_has_no_positive_image_is_built(tmp_path):
    write_run(tmp_path, more=True)
    for name in ("latents", "verdicts", "effects"):
        path = tmp_path / "tables" / f"{name}.parquet"
        rows = pd.read_parquet(path)
        write_table(rows[rows["concept"] == WITHOUT].reset_index(drop=True), path)
    out = make_atlas(tmp_path, tmp_path / "atlas")
    record = _data(out.joinpath(*HEAD, "0.js"))["1"]
    groups = {group["kind"]: group["images"] for group in record["groups"]}
    assert groups["near misses"] == []
    assert [one["image"] for one in groups["highest activation"]] == [IDS[4], IDS[3]]
    assert not any(one["positive"] for one in groups["highest activation"])
