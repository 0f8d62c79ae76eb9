from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo_sae.encoders.heads import load_head
from mammo_sae.errors import InputError
from mammo_sae.library import prediction
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader

# Codes of another batch may differ where a sum is rounded to the next float16 (docs/api.md).
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


@pytest.fixture
def image_id(run):
    return run.cohort.query("split == 'test' and mass == 1")["image_id"].iloc[0]


@pytest.mark.parametrize("layer", ["blocks.10", "head"])
def test_the_codes_of_a_file_of_the_cohort_are_those_of_the_store(
    run, folder, dicom, layer, image_id
):
    found = run.predict(dicom(image_id), layer=layer, sae="topk")
    reader = CodesReader(folder / "codes" / "finetuned" / layer / "topk" / "seed0.json")
    stored = reader.maps([reader.position(image_id)], found.fired["latent"])[0]
    maps = found.maps.sel(latent=found.fired["latent"].to_numpy())
    np.testing.assert_allclose(maps, stored, **CLOSE)
    for name in ("max", "mean", "active"):
        pooled = reader.pooled(name, [image_id])[0]
        np.testing.assert_allclose(found.fired[name], pooled[found.fired["latent"]], **CLOSE)
        rest = np.delete(pooled, found.fired["latent"])
        assert rest.max(initial=0) <= CLOSE["atol"]


def test_pixels_and_logits_are_those_of_the_run(run, folder, dicom, image_id):
    found = run.predict(dicom(image_id))
    images = ImageReader([folder / "images" / f"{shard}.json" for shard in range(2)])
    assert (found.pixels == images.pixels([image_id])[0]).all()
    assert (found.breast == images.breast([image_id])[0]).all()
    stored = pd.read_parquet(folder / "heads" / "finetuned" / "predictions.parquet")
    logits = stored[stored["image_id"] == image_id].set_index("concept")["logit"]
    np.testing.assert_allclose(found.logits[logits.index], logits, **CLOSE)


def test_contributions_sum_to_the_logit_and_the_error_is_that_of_the_reconstruction(
    run, folder, dicom, image_id
):
    found = run.predict(dicom(image_id))
    parts = found.contributions
    assert parts.index[0] == "offset"
    assert parts.index[-1] == "error"
    np.testing.assert_allclose(parts.sum(), found.logits, rtol=1e-6)
    head, sae = load_head(folder / "heads" / "finetuned"), run.sae()
    layers = folder / "embeddings" / "finetuned" / "blocks.10+head+pooled"
    reader = EmbeddingReader([layers / f"{shard}.json" for shard in range(2)], "head")
    cells = reader.read([reader.image_ids.index(image_id)])[0].astype(np.float64)
    error = cells - sae.decode(sae.encode(cells))
    expected = head.weight.astype(np.float64) @ error.mean(axis=(0, 1))
    # The features are rounded to float16, the mean of the cells is not.
    np.testing.assert_allclose(parts.loc["error", list(head.concepts)], expected, atol=5e-3)


def test_contributions_of_inner_layers_are_refused(run, dicom, image_id):
    found = run.predict(dicom(image_id), layer="blocks.10")
    with pytest.raises(InputError, match=r"not linear in the codes of layer blocks\.10"):
        _ = found.contributions


def test_the_centres_of_cells_are_coordinates(run, dicom, image_id):
    found = run.predict(dicom(image_id))
    grid = found.grid
    assert found.maps["y"].to_numpy().tolist() == [
        grid.offset_y + (row + 0.5) * grid.stride for row in range(grid.rows)
    ]


def test_cells_that_scores_leave_out_are_zero_in_the_maps_and_count_for_the_logit(
    run, dicom, image_id, monkeypatch
):
    plain = run.predict(dicom(image_id))
    rows, columns = plain.grid.rows, plain.grid.columns
    short = np.ones((1, rows * columns), bool)
    short[0, np.ravel_multi_index((rows // 2, columns // 2), (rows, columns))] = False
    monkeypatch.setattr(prediction, "short_cells", lambda *_: short)
    found = run.predict(dicom(image_id))
    expected = plain.maps.to_numpy().copy()
    assert expected[:, rows // 2, columns // 2].any()
    expected[:, rows // 2, columns // 2] = 0
    np.testing.assert_array_equal(found.maps, expected)
    highest = found.fired.set_index("latent")["max"].loc[found.maps["latent"].to_numpy()]
    np.testing.assert_array_equal(highest, expected.max(axis=(1, 2)))
    pd.testing.assert_frame_equal(found.contributions, plain.contributions)


def test_a_png_of_the_shown_pixels_is_taken(run, dicom, tmp_path, image_id):
    found = run.predict(dicom(image_id))
    Image.fromarray(found.pixels).save(tmp_path / "image.png")
    again = run.predict(tmp_path / "image.png")
    assert (again.pixels == found.pixels).all()
    np.testing.assert_allclose(again.logits, found.logits, **CLOSE)
    assert again.notes == ()
    # Canonical images have the breast on the left, so for a right breast the file is mirrored.
    (note,) = run.predict(tmp_path / "image.png", side="R").notes
    assert note == "the breast is on the other side of the image than its side implies"
    with pytest.raises(InputError, match="side is 'left'; give L, R or None"):
        run.predict(tmp_path / "image.png", side="left")


def test_a_file_that_is_no_image_is_refused(run, tmp_path):
    (tmp_path / "image.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"can't be used: the file is neither .* \[not_image\]"):
        run.predict(tmp_path / "image.png")
    with pytest.raises(InputError, match=r"gone\.png is missing; give the file of an image"):
        run.predict(tmp_path / "gone.png")


def test_the_picture_shows_image_and_maps(run, dicom, image_id):
    from io import BytesIO

    found = run.predict(dicom(image_id))
    with_maps = np.asarray(Image.open(BytesIO(found.show(latents=2).png)).convert("RGB"))
    coloured = np.ptp(with_maps.astype(int), axis=2) > 60
    assert coloured.mean() > 0.01
    named = found.show(latents=2, concept="mass")
    assert named.png != found.show(latents=2, concept="suspicious_calcification").png
    with pytest.raises(InputError, match="no concept 'cyst'"):
        found.show(concept="cyst")


def test_nothing_is_written_into_the_run(run, folder, dicom, tmp_path, image_id):
    copy = tmp_path / "results" / "phantom"
    shutil.copytree(folder, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    import mammo_sae as ms

    again = ms.open(copy)
    again.predict(dicom(image_id)).show()
    again.show(0)
    again.codes()["max"].compute()
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
