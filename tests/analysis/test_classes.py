from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from mammo_sae.analysis import classes, latents
from mammo_sae.analysis.settings import InterventionSettings, LatentSettings
from mammo_sae.config import load_config
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.tables import read_table, write_table

CLASSES = ("density_a", "density_b", "density_c", "density_d")
SETTINGS = InterventionSettings(top_k=(0, 1, 3), bootstrap_draws=40, splits=("test",))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A head of four outputs over random atoms, and its run over the shared cohort."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(2)
    h, d = world.dense.shape[-1], 4
    decoder = rng.normal(size=(h, d)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    bias = rng.normal(size=d).astype(np.float32)
    table = world.table.copy()
    for letter, name in zip("ABCD", CLASSES, strict=True):
        table[name] = (table["density"] == letter).astype("Int8")
    write_table(table, root / "images.parquet")
    sae = SparseAutoencoder(
        torch.from_numpy(decoder.copy()),
        torch.zeros(h),
        torch.from_numpy(decoder),
        torch.from_numpy(bias),
        k=h,
    )
    sae.save(root / "sae.safetensors", root / "sae.json")
    weight = rng.normal(size=(4, d)).astype(np.float32)
    # These are the weights of the checkpoint's softmax. Imported heads are centred over the
    # classes.
    head = Head(weight - weight.mean(axis=0), np.zeros(4, np.float32), CLASSES)
    save_head(head, root / "head.safetensors", root / "head.json")
    embeddings = (world.dense @ decoder + bias).mean(axis=(1, 2))
    logits = head.logits(embeddings + 0.1 * rng.normal(size=embeddings.shape))
    predictions = pd.concat(
        pd.DataFrame({"image_id": table["image_id"], "concept": name, "logit": logits[:, i]})
        for i, name in enumerate(CLASSES)
    )
    write_table(predictions, root / "predictions.parquet")
    common = {
        "identity": world.identity,
        "images": root / "images.parquet",
        "codes": world.codes,
        "concepts": CLASSES,
    }
    latents.run(
        LatentSettings(bootstrap_draws=20, permutation_draws=99),
        output=root / "latents.parquet",
        **common,
    )
    classes.run(
        SETTINGS,
        sae=root / "sae.json",
        head=root,
        predictions=root / "predictions.parquet",
        latents=root / "latents.parquet",
        output=root / "classes.parquet",
        **common,
    )
    found = read_table(root / "classes.parquet")
    return {
        "found": found,
        "table": table,
        "logits": logits,
        "weight": weight,
        "decoder": decoder,
        "bias": bias,
    }


def test_the_network_is_scored_by_its_largest_logit(run):
    test = (run["table"]["split"] == "test").to_numpy()
    truth = run["table"].loc[test, "density"].map("ABCD".index).to_numpy(dtype=int)
    row = run["found"][run["found"]["mode"] == "original"].iloc[0]
    answer = run["logits"][test].argmax(axis=1)
    assert row["accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert row["macro_f1"] == pytest.approx(f1_score(truth, answer, average="macro"))
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_groups_are_the_union_of_each_classs_centred_ranking_as_published(run, world, mode, k):
    table = run["table"]
    training, test = ((table["split"] == split).to_numpy() for split in ("training", "test"))
    means = world.dense.mean(axis=(1, 2), dtype=np.float64)
    group: set[int] = set()
    for name in CLASSES:
        own = training & (table[name] == 1).to_numpy(dtype=bool)
        centred = means[own].mean(axis=0) - means[training].mean(axis=0)
        group |= set(np.argsort(-centred, kind="stable")[:k].tolist())
    members = np.isin(np.arange(means.shape[1]), list(group))
    edited = means[test] * (members if mode == "on" else ~members)
    # These are the uncentred logits of the softmax. Centring must not change a predicted class.
    logits = (edited @ run["decoder"] + run["bias"]) @ run["weight"].T
    answer = np.round(logits, 9).argmax(axis=1)
    truth = table.loc[test, "density"].map("ABCD".index).to_numpy(dtype=int)
    found = run["found"]
    row = found[(found["mode"] == mode) & (found["k"] == k)].iloc[0]
    kept = len(group) if mode == "on" else means.shape[1] - len(group)
    assert row["latents_kept"] == kept
    assert row["accuracy"] == pytest.approx(accuracy_score(truth, answer), abs=0.005)
    assert row["macro_f1"] == pytest.approx(
        f1_score(truth, answer, average="macro", zero_division=0), abs=0.005
    )


def test_the_four_classes_are_scored_together_only_where_all_are_concepts():
    concepts = {name: f"DENSITY {letter}" for name, letter in zip(CLASSES, "ABCD", strict=True)}
    cohort = {"kind": "vindr", "source": "x", "concepts": {"mass": "Mass", **concepts}}
    assert load_config({"cohort": cohort}, "test").density_classes == [*CLASSES]
    del cohort["concepts"]["density_b"]
    assert load_config({"cohort": cohort}, "test").density_classes == []
