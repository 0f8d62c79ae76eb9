from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import latents
from mammo_sae.report.settings import LatentSheetSettings
from mammo_sae.stores.tables import read_table, write_table

SCORES = np.array([5.0, 9.0, 8.0, 0.0, 7.0, 6.0, 0.0])
TRUTH = np.array([True, True, False, True, True, False, False])
PATIENTS = np.array(list("aabcdef"))


def _draw(run, output, concept="mass", split="test"):
    latents.run(
        LatentSheetSettings(latents=3, examples=4),
        images=run.images,
        image_stores=run.image_stores,
        codes=run.codes,
        latents=run.table("latents"),
        alignment=run.table("alignment"),
        confounds=run.table("confounds"),
        concept=concept,
        split=split,
        output=output,
    )
    return output


def test_the_images_of_highest_activation_are_of_different_patients_whatever_their_label():
    chosen = latents.pick_examples(SCORES, TRUTH, PATIENTS, 3)
    assert [(e.position, e.positive) for e in chosen.highest] == [
        (1, True),
        (2, False),
        (4, True),
    ]
    assert [e.activation for e in chosen.highest] == [9.0, 8.0, 7.0]


def test_the_typical_image_is_the_median_positive_one():
    typical = latents.pick_examples(SCORES, TRUTH, PATIENTS, 1).typical
    assert typical is not None
    assert (typical.position, typical.activation) == (0, 5.0)  # of 9, 7, 5, 0


def test_the_false_alarm_is_the_strongest_negative_image_not_shown_yet():
    alarm = latents.pick_examples(SCORES, TRUTH, PATIENTS, 3).false_alarm
    assert alarm is not None
    assert alarm.position == 5  # image 2 is among the highest already


def test_images_in_which_the_latent_is_silent_are_not_shown_as_examples():
    silent = np.where(TRUTH, SCORES, 0.0)
    chosen = latents.pick_examples(silent, TRUTH, PATIENTS, 7)
    assert [e.position for e in chosen.highest] == [1, 4]
    assert chosen.false_alarm is None


def test_without_a_positive_image_there_is_no_typical_one():
    assert latents.pick_examples(SCORES, np.zeros(7, bool), PATIENTS, 2).typical is None


def test_latents_are_those_the_discovery_split_ranks_first(run):
    table = read_table(run.table("latents"))
    mass = table[table["concept"] == "mass"]
    picked = latents.pick_latents(mass, 3)
    best = mass.sort_values("discovery_auroc", ascending=False)["latent"].head(3)
    assert picked["latent"].tolist() == best.tolist()


@pytest.mark.parametrize(
    ("low", "high", "moved", "where"),
    [
        (2.0, 3.0, 1.5, "on the lesion"),
        (1.2, 3.0, 1.5, "where: unclear"),  # above chance, but so are masks of other patients
        (0.5, 1.4, 1.0, "where: unclear"),
        (0.1, 0.6, 1.0, "off the lesion"),
    ],
)
def test_where_a_latent_looks_follows_from_the_interval_of_its_lift(low, high, moved, where):
    row = {"energy_lift_low": low, "energy_lift_high": high, "shuffled_energy_lift": moved}
    assert latents.location(pd.Series({**row, "energy_lift": (low + high) / 2})) == where


def test_where_a_latent_looks_is_not_said_if_it_could_not_be_estimated():
    assert latents.location(pd.Series({"energy_lift": float("nan")})) == ""


def test_the_picture_shows_something_and_is_the_same_twice(run, tmp_path, is_figure):
    first = _draw(run, tmp_path / "a.png")
    is_figure(first)
    assert first.read_bytes() == _draw(run, tmp_path / "b.png").read_bytes()


def test_another_concept_gives_another_picture(run, tmp_path, is_figure):
    mass = _draw(run, tmp_path / "a.png")
    calcification = _draw(run, tmp_path / "b.png", concept="suspicious_calcification")
    is_figure(calcification)
    assert mass.read_bytes() != calcification.read_bytes()


def test_a_split_without_labelled_images_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="no image of split validation has a label for mass"):
        _draw(run, tmp_path / "a.png", split="validation")
    assert list(tmp_path.iterdir()) == []


def test_a_concept_whose_latents_could_not_be_ranked_is_said_so(run, tmp_path):
    table = read_table(run.table("latents"))
    table["rank_auroc"] = pd.array([pd.NA] * len(table), "Int32")
    write_table(table, tmp_path / "latents.parquet")
    output = tmp_path / "a.png"
    latents.run(
        LatentSheetSettings(),
        images=run.images,
        image_stores=run.image_stores,
        codes=run.codes,
        latents=tmp_path / "latents.parquet",
        alignment=run.table("alignment"),
        confounds=run.table("confounds"),
        concept="mass",
        split="test",
        output=output,
    )
    assert output.stat().st_size > 5_000
