from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import effects
from mammo_sae.stores.tables import write_table


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    parts = []
    for encoder in ("finetuned", "pretrained"):
        for concept in ("mass", "suspicious_calcification"):
            effect = rng.normal(size=40) ** 3
            part = pd.DataFrame({"latent": np.arange(40), "effect": effect, "reason": ""})
            part["effect_low"], part["effect_high"] = effect - 0.3, effect + 0.3
            part["rank_causal"] = part["effect"].abs().rank(ascending=False).astype("Int32")
            keys = {"encoder": encoder, "layer": "head", "sae": "topk", "seed": 0}
            parts.append(part.assign(**keys, concept=concept, split="test"))
    table = pd.concat(parts, ignore_index=True)
    write_table(table, tmp_path / "effects.parquet")
    pairs = table[table["encoder"] == "finetuned"].copy()
    pairs["cosine"] = rng.random(len(pairs))
    pairs["null_cosine"] = 0.3
    pairs["new"] = pairs["cosine"] < 0.3
    pairs.loc[pairs["concept"] == "mass", "effect"] = np.nan
    write_table(pairs, tmp_path / "matched.parquet")
    return tmp_path


@pytest.mark.parametrize("tuned", [True, False])
def test_effects_are_drawn_with_and_without_a_finetuned_encoder(tables, is_figure, tuned):
    effects.run(
        effects=tables / "effects.parquet",
        matched_latents=tables / "matched.parquet" if tuned else None,
        sae_name="topk",
        split="test",
        output=tables / "effects.png",
    )
    is_figure(tables / "effects.png")


@pytest.mark.parametrize("tuned", [True, False])
def test_no_text_of_effects_is_cut_or_lies_over_points_or_other_texts(tables, collisions, tuned):
    found = collisions(
        effects.run,
        effects=tables / "effects.parquet",
        matched_latents=tables / "matched.parquet" if tuned else None,
        sae_name="topk",
        split="test",
        output=tables / "effects.png",
    )
    assert found == []


def test_an_sae_that_the_table_has_is_drawn_as_advised(tables, is_figure):
    given = {"effects": tables / "effects.parquet", "split": "test"}
    given |= {"output": tables / "effects.png"}
    with pytest.raises(InputError, match="no row of SAE 'other'; give the name of one that it has"):
        effects.run(sae_name="other", **given)
    effects.run(sae_name=pd.read_parquet(given["effects"])["sae"].iloc[0], **given)
    is_figure(tables / "effects.png")


def test_an_absent_sae_is_named(tables):
    with pytest.raises(InputError, match="SAE 'other'"):
        effects.run(
            effects=tables / "effects.parquet",
            sae_name="other",
            split="test",
            output=tables / "effects.png",
        )
