from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mammo_sae as ms
from mammo_sae.errors import InputError
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader

LAYERS = "blocks.10+head+pooled"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not the folder of a run .* give results/<name>"):
        ms.open(tmp_path)


def test_tables_are_typed_and_listed(run):
    assert list(run.tables) == [
        "alignment", "confounds", "latents", "registry", "sae_quality", "verdicts",
    ]  # fmt: skip
    table = run.tables["latents"]
    assert table["rank_auroc"].dtype == "Int32"
    assert set(table["layer"]) == {"blocks.10", "head"}
    assert run.tables["registry"]["encoder"].tolist() == ["pretrained", "finetuned"]
    assert "latents" in run.tables


def test_a_missing_table_is_one_sentence_with_those_there_are(run):
    with pytest.raises(InputError) as error:
        run.tables["truth"]
    assert str(error.value).endswith(
        "tables has no table 'truth'; there are alignment, confounds, latents, registry, "
        "sae_quality, verdicts"
    )


def test_the_saes_are_listed(run):
    found = run.saes.to_dict("records")
    assert [(row["layer"], row["sae"], row["seed"]) for row in found] == [
        ("blocks.10", "topk", 0), ("head", "channels", 0), ("head", "topk", 0),
    ]  # fmt: skip
    assert {row["encoder"] for row in found} == {"finetuned"}


def test_the_sae_of_the_head_that_is_no_control_is_chosen(run, folder):
    loaded = ms.Sae.load(folder / "sae" / "finetuned" / "head" / "topk" / "seed0")
    assert (run.sae().atoms == loaded.atoms).all()
    assert (loaded.latents, run.sae(sae="channels").latents) == (64, 2 * 1280)


def test_an_sae_that_is_not_there_is_refused_with_those_there_are(run):
    with pytest.raises(InputError, match=r"no SAE with layer blocks\.4; there are finetuned/bl"):
        run.sae(layer="blocks.4")


def test_several_saes_that_fit_are_listed(run, monkeypatch):
    monkeypatch.setattr(type(run._files), "is_control", lambda self, of: False)
    with pytest.raises(InputError, match=r"say which SAE .*head/channels/seed0, finetuned/head/t"):
        run.sae(layer="head")


def test_encode_gives_the_stored_codes_and_decode_adds_atoms(run, folder):
    manifests = [folder / "embeddings" / "finetuned" / LAYERS / f"{n}.json" for n in range(2)]
    reader = EmbeddingReader(manifests, "blocks.10")
    codes = CodesReader(folder / "codes" / "finetuned" / "blocks.10" / "topk" / "seed0.json")
    cells = reader.read([0, 5])
    sae = run.sae("finetuned", "blocks.10")
    places = [codes.position(reader.image_ids[n]) for n in (0, 5)]
    stored = np.moveaxis(codes.maps(places, range(sae.latents)), 1, -1)
    found = sae.encode(cells)
    assert found.shape == (*cells.shape[:3], 64)
    np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-4)
    bias = sae.model.decoder_bias.numpy()
    np.testing.assert_allclose(sae.decode(found), found @ sae.atoms + bias, rtol=1e-4, atol=1e-4)


def test_an_array_of_another_width_is_refused(run):
    sae = run.sae("finetuned", "blocks.10")
    with pytest.raises(InputError, match=r"shape \(3, 5\) .* the 112 channels"):
        sae.encode(np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"shape \(5,\) .* the 64 latents"):
        sae.decode(np.zeros(5))


def test_a_saved_sae_is_the_same_when_it_is_loaded(run, tmp_path):
    sae = run.sae("finetuned", "blocks.10")
    again = ms.Sae.load(sae.save(tmp_path / "one" / "two"))
    cells = np.random.default_rng(0).normal(size=(7, 112))
    assert (again.encode(cells) == sae.encode(cells)).all()
    with pytest.raises(InputError, match=r"has no SAE; give a folder with one of sae\.json"):
        ms.Sae.load(tmp_path)


def test_codes_are_a_labelled_dataset(run, folder):
    codes = run.codes("finetuned", "blocks.10")
    reader = CodesReader(folder / "codes" / "finetuned" / "blocks.10" / "topk" / "seed0.json")
    assert dict(codes.sizes) == {
        "image_id": len(reader), "latent": 64, "row": 6, "column": 4, "slot": 4,
    }  # fmt: skip
    image = reader.image_ids[3]
    np.testing.assert_array_equal(
        codes["max"].sel(image_id=image).to_numpy(), reader.pooled("max", [image])[0]
    )


def test_images_come_with_masks_in_the_asked_order(run):
    ids = run.cohort.query("split == 'test' and mass == 1")["image_id"].tolist()[:2]
    both = run.images(ids)
    assert both.pixels.dtype == np.uint8
    assert both.pixels.shape == (2, 96, 64)
    assert both.regions.sel(region="mass").any(["y", "x"]).to_numpy().tolist() == [True, True]
    turned = run.images(ids[::-1])
    assert (turned.pixels.to_numpy()[::-1] == both.pixels.to_numpy()).all()
    assert (run.images(ids[0]).pixels.to_numpy()[0] == both.pixels.to_numpy()[0]).all()


def test_top_has_the_images_with_the_highest_codes_first(run):
    everywhere = run.codes(layer="head")["max"].to_pandas()
    latent = int(everywhere.max().idxmax())
    found = run.top(latent, 4)
    expected = everywhere[latent].sort_values(ascending=False, kind="stable").head(4)
    assert found["activation"].tolist() == expected.tolist()
    assert (everywhere.loc[found["image_id"], latent].to_numpy() == expected.to_numpy()).all()
    test = run.top(latent, 4, split="test")
    assert set(test["split"]) == {"test"}
    with pytest.raises(InputError, match="no split 'tset'; there are external, test, training"):
        run.top(latent, split="tset")


def test_a_row_of_a_table_names_the_sae_too(run):
    row = run.tables["latents"].query("layer == 'blocks.10' and latent == 9").iloc[0]
    expected = run.top(9, 3, layer="blocks.10")
    pd.testing.assert_frame_equal(run.top(row, 3), expected)
    pd.testing.assert_frame_equal(run.top(row.to_dict(), 3), expected)
    with pytest.raises(InputError, match="the row has no 'latent'"):
        run.top(run.tables["sae_quality"].iloc[0])


def test_a_latent_that_is_not_there_is_refused(run):
    with pytest.raises(InputError, match="no latent 64; give a number from 0 to 63"):
        run.top(64)
    for latent in (7.0, "7"):
        with pytest.raises(
            InputError, match=f"the latent is {latent!r}; give its number, or a row"
        ):
            run.top(latent)
    with pytest.raises(InputError, match="examples is 0; give a number of images of at least 1"):
        run.show(7, examples=0)


def test_show_draws_the_sheet_of_the_report(run, folder, tmp_path):
    from mammo_sae.report import latents
    from mammo_sae.report.settings import LatentSheetSettings

    row = run.tables["latents"].query("layer == 'head' and sae == 'topk'").iloc[0]
    figure = run.show(row, examples=2)
    analysis = folder / "analysis" / "finetuned" / "head" / "topk" / "seed0"
    latents.run(
        LatentSheetSettings(latents=1, examples=2),
        images=folder / "cohort" / "images.parquet",
        image_stores=[folder / "images" / f"{shard}.json" for shard in range(2)],
        codes=folder / "codes" / "finetuned" / "head" / "topk" / "seed0.json",
        **{name: analysis / f"{name}.parquet" for name in ("latents", "alignment", "confounds")},
        concept=row["concept"], split="test", chosen=[int(row["latent"])],
        output=tmp_path / "sheet.png",
    )  # fmt: skip
    assert figure._repr_png_() == (tmp_path / "sheet.png").read_bytes()
    figure.savefig(tmp_path / "again.png")
    from matplotlib.image import imread

    again, sheet = imread(tmp_path / "again.png"), imread(tmp_path / "sheet.png")
    assert again.shape[:2] == sheet.shape[:2]
    assert np.abs(again[..., :3] - sheet[..., :3]).mean() < 0.02
    with pytest.raises(InputError, match="has no concept 'cyst'"):
        run.show(row, "cyst")


def test_show_takes_the_concept_of_the_best_rank(run, monkeypatch):
    from mammo_sae.report import latents

    asked = []

    def draw(settings, *, concept, output, **others):
        asked.append(concept)
        output.write_bytes(PIXEL)

    monkeypatch.setattr(latents, "run", draw)
    rows = run.tables["latents"].query("layer == 'head' and sae == 'topk'")
    rows = rows.dropna(subset=["rank_auroc"])
    one = rows.sort_values("rank_auroc").iloc[0]
    run.show(int(one["latent"]))
    mine = rows[rows["latent"] == one["latent"]].set_index("concept")["rank_auroc"]
    assert asked == [mine.astype(int).idxmin()]


def _pixel() -> bytes:
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.new("RGB", (2, 2)).save(out, "png")
    return out.getvalue()


PIXEL = _pixel()
