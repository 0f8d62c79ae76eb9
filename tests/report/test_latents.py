from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from mammo_sae.errors import InputError
from mammo_sae.report import latents, overlay
from mammo_sae.report.settings import LatentSheetSettings
from mammo_sae.stores.tables import read_table, write_table

SCORES = np.array([5.0, 9.0, 8.0, 0.0, 7.0, 6.0, 0.0])
TRUTH = np.array([True, True, False, True, True, False, False])
PATIENTS = np.array(list("aabcdef"))


def _draw(run, output, concept="mass", split="test", chosen=(), naming=()):
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
        chosen=chosen,
        naming=naming,
        output=output,
    )
    return output


def test_the_images_of_highest_activation_are_of_different_patients_with_any_label():
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


def test_images_in_which_the_latent_is_inactive_are_not_shown_as_examples():
    inactive = np.where(TRUTH, SCORES, 0.0)
    chosen = latents.pick_examples(inactive, TRUTH, PATIENTS, 7)
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


def test_the_picture_shows_something_and_is_the_same_twice(run, tmp_path, is_figure):
    first = _draw(run, tmp_path / "a.png")
    is_figure(first)
    assert first.read_bytes() == _draw(run, tmp_path / "b.png").read_bytes()


def test_no_text_lies_over_a_picture_or_another_text(run, tmp_path, collisions, drawn_figure):
    table = read_table(run.table("alignment"))
    table["matched_energy_lift"] = table["shuffled_energy_lift"] = 123.4
    write_table(table, tmp_path / "alignment.parquet")
    for name in ("latents", "confounds"):
        write_table(read_table(run.table(name)), tmp_path / f"{name}.parquet")
    other = replace(run, root=tmp_path)
    assert collisions(_draw, other, tmp_path / "a.png") == []
    fig = drawn_figure(_draw, other, tmp_path / "a.png")
    pictures = [ax.bbox for ax in fig.axes]
    for text in fig.texts:
        box = text.get_window_extent()
        assert not any(box.overlaps(picture) for picture in pictures), text.get_text()


def test_the_colour_bar_has_the_colours_of_the_map_unmixed(run, tmp_path, drawn_figure):
    fig = drawn_figure(_draw, run, tmp_path / "a.png")
    below = min(fig.axes, key=lambda ax: ax.bbox.y0)
    pixels = imread(tmp_path / "a.png")[..., :3]
    box = below.bbox
    middle = pixels[len(pixels) - 1 - int((box.y0 + box.y1) / 2), int(box.x0) + 1 : int(box.x1)]
    wanted = overlay.HEAT(np.linspace(0, 1, len(middle)))[:, :3]
    # The file has 256 colours, of which the bar gets some.
    assert np.abs(middle - wanted).max() < 0.1
    assert below.get_position().width * fig.get_figwidth() == pytest.approx(1.0)


def test_another_concept_gives_another_picture(run, tmp_path, is_figure):
    mass = _draw(run, tmp_path / "a.png")
    calcification = _draw(run, tmp_path / "b.png", concept="suspicious_calcification")
    is_figure(calcification)
    assert mass.read_bytes() != calcification.read_bytes()


def test_a_split_without_labelled_images_is_reported(run, tmp_path, drawn_text):
    said = drawn_text(_draw, run, tmp_path / "a.png", split="validation")
    assert "no image of the validation split has a label for mass; so there is none to show" in said


def test_a_latent_of_ones_choice_is_drawn(run, tmp_path, drawn_text):
    said = drawn_text(_draw, run, tmp_path / "a.png", chosen=[17, 4])
    assert [text for text in said if text.startswith("Latent ")] == ["Latent 17", "Latent 4"]
    assert any(text.startswith("Chosen latents") for text in said)


def test_a_latent_has_its_name_or_no_name(run, tmp_path, drawn_text):
    ranked = read_table(run.table("latents"))["latent"].unique()
    names = pd.DataFrame({"latent": ranked, "name": ""})
    names.loc[names["latent"] == 0, "name"] = "a round mass with smooth margins"
    write_table(names, tmp_path / "names.parquet")
    drawn = drawn_text(
        lambda: _draw(run, tmp_path / "a.png", chosen=[0, 1], naming=[tmp_path / "names.parquet"])
    )
    assert "“a round mass with smooth margins”" in drawn
    assert "no name" in drawn


def test_dollar_signs_of_a_name_are_drawn_as_they_are(run, tmp_path, drawn_text):
    ranked = read_table(run.table("latents"))["latent"].unique()
    names = pd.DataFrame({"latent": ranked, "name": r"5 $ per \mass, 6 $ each"})
    write_table(names, tmp_path / "names.parquet")
    drawn = drawn_text(
        lambda: _draw(run, tmp_path / "a.png", chosen=[0], naming=[tmp_path / "names.parquet"])
    )
    assert r"“5 $ per \mass, 6 $ each”" in drawn


def test_a_latent_that_the_sae_lacks_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="no latent 24; this SAE has latents 0 to 23"):
        _draw(run, tmp_path / "a.png", chosen=[24])
    assert list(tmp_path.iterdir()) == []


def test_a_latent_between_those_that_the_message_names_is_drawn(run, tmp_path, is_figure):
    with pytest.raises(InputError) as refused:
        _draw(run, tmp_path / "a.png", chosen=[24])
    ends = re.search(r"has latents (\d+) to (\d+)$", str(refused.value)).groups()
    is_figure(_draw(run, tmp_path / "a.png", chosen=[int(end) for end in ends]))


def test_names_of_confounders_are_never_cut():
    assert latents._confounder_lines(["marker"], "by") == ["by marker"]
    names = ["pixel_spacing_mm", "transfer_syntax", "manufacturer", "image_size", "voi_function"]
    names += ["photometric_interpretation", "bits_stored"]
    lines = latents._confounder_lines(names, "by")
    assert len(lines) <= 2
    assert max(map(len, lines)) <= 42
    assert lines[-1].endswith("more")


def test_the_report_names_a_concept_whose_latents_could_not_be_ranked(run, tmp_path, drawn_text):
    table = read_table(run.table("latents"))
    table["rank_auroc"] = pd.array([pd.NA] * len(table), "Int32")
    table["reason"] = "training: 3 positive images, fewer than 10"
    write_table(table, tmp_path / "latents.parquet")
    other = replace(run, root=tmp_path)
    for name in ("alignment", "confounds"):
        write_table(read_table(run.table(name)), tmp_path / f"{name}.parquet")
    said = drawn_text(_draw, other, tmp_path / "a.png")
    assert any("no latent could be ranked" in text and "3 positive images" in text for text in said)
