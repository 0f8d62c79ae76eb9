from __future__ import annotations

import pandas as pd

from mammo_sae.report import cohort
from mammo_sae.report.settings import CohortSheetSettings
from mammo_sae.stores.tables import read_table

CONCEPTS = ["mass", "suspicious_calcification"]


def _draw(run, folder, name="a", seed=0):
    cohort.run(
        CohortSheetSettings(seed=seed),
        images=run.images,
        image_stores=run.image_stores,
        concepts=CONCEPTS,
        output=folder / f"{name}.png",
        counts=folder / "counts.csv",
    )
    return folder / f"{name}.png"


def test_the_contact_sheet_shows_something_and_is_the_same_twice(run, tmp_path, is_figure):
    first = _draw(run, tmp_path)
    is_figure(first)
    assert first.read_bytes() == _draw(run, tmp_path, "b").read_bytes()
    assert first.read_bytes() != _draw(run, tmp_path, "c", seed=1).read_bytes()


def test_counts_are_those_of_the_image_table(run, tmp_path):
    _draw(run, tmp_path)
    counts = read_table(tmp_path / "counts.csv").set_index("split")
    table = read_table(run.images)
    test = table[table["split"] == "test"]
    assert counts.index.tolist() == ["training", "test", "external"]
    assert counts.loc["test", "images"] == len(test)
    assert counts.loc["test", "patients"] == test["patient_id"].nunique()
    assert counts.loc["test", "mass_positive"] == (test["mass"] == 1).sum()
    assert counts.loc["test", "view_MLO"] == (test["view"] == "MLO").sum()


def test_an_unknown_label_is_counted_apart_and_shown_as_neither(run):
    table = read_table(run.images)
    table.loc[:9, "mass"] = pd.NA
    counts = cohort.count(table, CONCEPTS).set_index("split")
    assert counts.loc["training", "mass_unknown"] == 10
    for group in ("mass", "none"):
        drawn = cohort.draw(table, CONCEPTS, group, 500, 0)
        assert not set(drawn) & set(table["image_id"][:10])


def test_images_drawn_are_of_different_patients_and_of_the_group(run):
    table = read_table(run.images)
    ids = cohort.draw(table, CONCEPTS, "none", 12, 0)
    drawn = table.set_index("image_id").loc[ids]
    assert len(drawn) == drawn["patient_id"].nunique() == 12
    assert (drawn[CONCEPTS] == 0).all(axis=None)
