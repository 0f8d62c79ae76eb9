"""Cohorts without data that an analysis uses: each step ends and reports the missing data.

Every analysis that reads only codes is run on the tables of these cohorts, with its real default
splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.analysis import (
    alignment,
    confounds,
    effects,
    interventions,
    latents,
    matched_latents,
    probes,
    truth,
)
from mammo_sae.analysis.settings import (
    AlignmentSettings,
    ConfoundSettings,
    EffectSettings,
    InterventionSettings,
    LatentSettings,
    MatchedLatentSettings,
    ProbesSettings,
    TruthSettings,
)
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table, write_table
from responding import write_responses

PLACES = ("test", "training", "external")
CONCEPTS = ["mass", "suspicious_calcification"]
DRAWS = {"bootstrap_draws": 20, "permutation_draws": 99}


@dataclass(frozen=True)
class Cohort:
    """Name of a cohort, and the change of its image table from the usual one."""

    name: str
    change: Callable[[pd.DataFrame], pd.DataFrame]


def _relabel(split: str, concept: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["split"] == split, concept] = value
        return table

    return change


def _without(split: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(split=table["split"].replace(split, "training"))


COHORTS = [
    Cohort("no test split", _without("test")),
    Cohort("no external split", _without("external")),
    Cohort("training alone", lambda table: table.assign(split="training")),
    Cohort("a concept unlabelled in test", _relabel("test", "mass", pd.NA)),
    Cohort("a concept unlabelled in training", _relabel("training", "mass", pd.NA)),
    Cohort("all of test positive", _relabel("test", "mass", 1)),
    Cohort("one patient", lambda table: table.assign(patient_id="0" * 16)),
    Cohort("two patients", lambda table: table.assign(patient_id=table["mass"].astype(str))),
    Cohort("one view", lambda table: table.assign(view="CC", side="L")),
    Cohort(
        "no covariate that varies",
        lambda table: table.assign(
            marker=0, paddle=0, manufacturer="A", density="B", rows=400, age_bin=None
        ),
    ),
]


@pytest.fixture(scope="module")
def models(world, tmp_path_factory):
    """An SAE and a head that fit the world's codes, predictions and embeddings."""
    root = tmp_path_factory.mktemp("models")
    reader = CodesReader(world.codes)
    rng = np.random.default_rng(0)
    latents, channels = reader.latents, reader.grid.channels
    atoms = torch.from_numpy(rng.normal(size=(latents, channels)).astype(np.float32))
    sae = SparseAutoencoder(atoms.clone(), torch.zeros(latents), atoms, torch.zeros(channels), k=4)
    sae.save(root / "sae.safetensors", root / "sae.json")
    weight = rng.normal(size=(2, channels)).astype(np.float32)
    save_head(
        Head(weight, np.zeros(2, np.float32), tuple(CONCEPTS)),
        root / "head.safetensors",
        root / "head.json",
    )
    ids = world.table["image_id"]
    rows = [pd.DataFrame({"image_id": ids, "concept": c, "logit": rng.normal(size=len(ids))})
            for c in CONCEPTS]  # fmt: skip
    write_table(pd.concat(rows), root / "predictions.parquet")
    with create_embedding_store(
        root / "0", root / "0.json", image_ids=ids.tolist(), grids=[reader.grid]
    ) as writer:
        writer.write({"head": world.dense @ atoms.numpy()})
    return root


def analyse(world, models: Path, table: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    """Run every analysis of the codes on a changed image table; return its tables by name."""
    write_table(table, folder / "images.parquet")
    here = {name: folder / f"{name}.parquet" for name in (
        *("latents", "alignment", "confounds", "truth", "probes"),
        *("interventions", "sweep", "effects", "matched_latents"),
    )}  # fmt: skip
    common = {
        "identity": world.identity, "images": folder / "images.parquet", "codes": world.codes
    }  # fmt: skip
    after = {**common, "latents": here["latents"]}
    linear = {**after, "sae": models / "sae.json", "head": models, "concepts": CONCEPTS}
    stores = {"image_stores": world.image_stores, "concepts": CONCEPTS}
    latents.run(LatentSettings(**DRAWS), **common, concepts=CONCEPTS, output=here["latents"])
    settings = AlignmentSettings(top_latents=4, **DRAWS)
    more = {name: folder / f"{name}.parquet" for name in ("by_size", "regions")}
    alignment.run(settings, **after, **stores, output=here["alignment"], **more)
    settings = ConfoundSettings(top_latents=4, **DRAWS)
    confounds.run(
        settings, **after, **stores, measurements=world.measurements, output=here["confounds"]
    )
    truth.run(
        TruthSettings(), identity=world.identity, component="mass", confounds=here["confounds"],
        responses=write_responses(folder / "responses.parquet", here["confounds"], {}),
        output=here["truth"],
    )  # fmt: skip
    settings = ProbesSettings(
        k=(1,), penalties=(0.01,), bootstrap_draws=20, outer_folds=2, splits=tuple(PLACES)
    )
    probes.run(
        settings, **common, concepts=CONCEPTS, embeddings=[models / "0.json"],
        output=here["probes"],
    )  # fmt: skip
    settings = InterventionSettings(top_k=(1,), random_sets=1, bootstrap_draws=20)
    interventions.run(
        settings, **linear, predictions=models / "predictions.parquet",
        interventions=here["interventions"], sweep=here["sweep"],
    )  # fmt: skip
    effects.run(EffectSettings(bootstrap_draws=20), **linear, output=here["effects"])
    matched_latents.run(
        MatchedLatentSettings(directions=100),
        sae_before=models / "sae.json", sae_after=models / "sae.json",
        effects_before=here["effects"], effects_after=here["effects"],
        output=here["matched_latents"],
    )  # fmt: skip
    return {name: read_table(path) for name, path in here.items()}


QUICK = ("no test split", "a concept unlabelled in training", "one patient")


@pytest.mark.parametrize(
    "cohort",
    [
        pytest.param(c, id=c.name, marks=() if c.name in QUICK else pytest.mark.soak)
        for c in COHORTS
    ],
)
def test_every_analysis_ends_and_every_missing_number_has_a_reason(cohort, world, models, tmp_path):
    tables = analyse(world, models, cohort.change(world.table.copy()), tmp_path)
    numbers = {"latents": "auroc", "alignment": "energy_lift", "confounds": "stratified_auroc"}
    numbers |= {"probes": "auroc", "interventions": "auroc", "sweep": "auroc", "effects": "effect"}
    for name, column in numbers.items():
        table = tables[name]
        missing = table[table[column].isna()]
        assert (missing["reason"] != "").all(), (name, cohort.name)
        assert missing["reason"].notna().all(), (name, cohort.name)
    if cohort.name == "no test split":
        for name in ("interventions", "probes", "sweep"):
            rows = tables[name][tables[name]["split"] == "test"]
            assert len(rows) and rows["auroc"].isna().all(), name
        assert tables["latents"]["auroc"].isna().all()


def test_dead_latents_leave_empty_tables_and_no_error(world, models, tmp_path, monkeypatch):
    def dead(self, name, image_ids=None, latents=None):
        images = len(self) if image_ids is None else len(image_ids)
        return np.zeros((images, self.latents if latents is None else len(latents)), np.float32)

    monkeypatch.setattr(CodesReader, "pooled", dead)
    tables = analyse(world, models, world.table.copy(), tmp_path)
    assert tables["latents"]["reason"].ne("").all()
    assert len(tables["confounds"]) == 0
