from __future__ import annotations

import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment

from mammo_sae.errors import InputError
from mammo_sae.sae import codes, pairing, sae_stability
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader


def test_each_pair_of_seeds_has_its_row(cohort, train_sae, settings, tmp_path):
    saes, manifests = [], []
    for seed in (0, 1, 2):
        own = settings.model_copy(update={"seed": seed, "steps": 20})
        folder = tmp_path / str(seed)
        saes.append(train_sae(cohort, folder, own=own))
        manifests.append(folder / "codes.json")
        codes.run(
            sae=saes[-1], embeddings=cohort.manifests,
            image_stores=cohort.image_stores, layer=cohort.layer,
            store=folder / "codes.zarr", manifest=manifests[-1],
        )  # fmt: skip
    about = {"encoder_name": "pretrained", "layer": "head", "sae_name": "topk"}
    output = tmp_path / "stability.parquet"
    sae_stability.run(**about, seeds=[0, 1, 2], saes=saes, codes=manifests, output=output)
    table = pd.read_parquet(output)
    assert list(zip(table["seed"], table["other_seed"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert table["cosine"].between(0, 1).all()
    alive = [CodesReader(manifest).pooled("active").any(axis=0) for manifest in manifests]
    first, second = (
        pairing.unit(SparseAutoencoder.load(saes[i]).decoder_weight.numpy()[alive[i]])
        for i in (0, 1)
    )
    full = first @ second.T
    cosine = full[linear_sum_assignment(full, maximize=True)]
    row = table.iloc[0]
    assert row["latents"] == len(cosine)
    assert row["cosine"] == pytest.approx(cosine.mean(), abs=2e-6)
    assert row["share_above_0.7"] == (cosine > 0.7).mean()
    assert row["share_above_0.9"] == (cosine > 0.9).mean()


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 3, 3), (3, 2, 2), (2, 2, 3), (3, 3, 2)])
def test_two_seeds_and_an_sae_and_codes_of_each_are_needed(tmp_path, counts):
    seeds, saes, manifests = (range(n) for n in counts)
    with pytest.raises(InputError, match="{} seeds, {} SAEs and {} codes".format(*counts)):
        sae_stability.run(
            encoder_name="pretrained", layer="head", sae_name="topk", seeds=seeds, saes=saes,
            codes=manifests, output=tmp_path / "stability.parquet",
        )  # fmt: skip


def test_as_many_seeds_saes_and_codes_as_the_message_asks_for_are_compared(
    cohort, train_sae, settings, tmp_path
):
    sae = train_sae(cohort, tmp_path / "0", own=settings.model_copy(update={"steps": 5}))
    codes.run(
        sae=sae, embeddings=cohort.manifests, image_stores=cohort.image_stores,
        layer=cohort.layer, store=tmp_path / "codes.zarr", manifest=tmp_path / "codes.json",
    )  # fmt: skip
    given = {"encoder_name": "pretrained", "layer": "head", "sae_name": "topk"}
    given |= {"seeds": [0, 1], "output": tmp_path / "stability.parquet"}
    made = tmp_path / "codes.json"
    with pytest.raises(InputError, match=r"give the same number of each, at least two$"):
        sae_stability.run(**given, saes=[sae], codes=[made])
    sae_stability.run(**given, saes=[sae, sae], codes=[made, made])
    assert pd.read_parquet(given["output"])["cosine"].to_list() == pytest.approx([1], abs=1e-5)
