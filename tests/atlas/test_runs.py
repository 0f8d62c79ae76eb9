"""Two runs are compared by the activations of their latents on the images that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.activation_matches import pair_latents
from mammo_sae.atlas.runs import common_images, compare_runs
from mammo_sae.atlas.scripts import read_data
from mammo_sae.atlas.stored import Stored
from mammo_sae.errors import InputError
from mammo_sae.people import compare
from mammo_sae.stores.tables import read_table
from two_runs import IMAGES, first_activation, write_run, write_two_runs

SAE = "finetuned/head/topk/0"


@pytest.fixture(scope="module")
def activation() -> np.ndarray:
    return first_activation()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Stored]:
    return write_two_runs(tmp_path_factory.mktemp("runs"))


def _matched(folder: Path, side: int) -> dict[int, tuple[int, bool]]:
    found = read_data(folder / "data" / f"{side}/{SAE}" / "nearest.js")[f"{3 - side}/{SAE}"]
    assert found["measure"] == "correlation"
    return {row[0]: (row[1], row[3]) for row in found["rows"]}


def test_a_latent_is_found_again_under_another_number_and_others_are_new(runs, tmp_path):
    page = compare_runs(["before", "after"], runs, tmp_path / "both")
    assert page == tmp_path / "both" / "runs.html"
    forward, back = _matched(page.parent, 1), _matched(page.parent, 2)
    assert forward[0] == (1, True)
    assert back[1] == (0, True)
    assert not forward.get(1, (None, False))[1]
    assert not back.get(0, (None, False))[1]
    rows = read_data(page.parent / "data" / f"1/{SAE}" / "nearest.js")[f"2/{SAE}"]["rows"]
    assert rows[0][2] == 1  # three times the activation has the same ranks
    assert 2 not in forward  # it is dead


def test_the_page_has_both_runs_and_says_on_which_images_latents_were_matched(runs, tmp_path):
    page = compare_runs(["before", "after"], runs, tmp_path / "both")
    text = page.read_text(encoding="utf-8")
    assert f'<option value="1/{SAE}">' in text
    assert f'<option value="2/{SAE}">' in text
    assert "A is of before, B of after." in text
    assert "On 40 images outside of the test split" in text
    assert "On 40 images of the test split" in text
    (one,) = read_data(page.parent / "data" / "run.js")["others"]
    assert (page.parent / one["atlas"] / "latent.html").is_file()
    assert one["own"] == SAE


def test_runs_of_one_name_are_called_by_their_folders(activation, tmp_path):
    folders = [tmp_path / name / "run" for name in "ab"]
    for folder in folders:
        write_run(folder, activation)
    compare(*folders, output=tmp_path / "both")
    text = (tmp_path / "both" / "runs.html").read_text(encoding="utf-8")
    assert f"A is of {folders[0]}, B of {folders[1]}." in text


def test_partners_are_those_of_the_step_on_the_same_images(runs):
    ids, patients = common_images(["a", "b"], runs)
    before, after = (run.reader(run.saes[SAE]) for run in reversed(runs))
    whole = pair_latents(before, after, "max", ids, patients, 0)
    some = pair_latents(before, after, "max", ids, patients, 0, np.array([1]))
    assert whole["latent"].tolist() == [0, 1, 2]
    assert whole["match"].tolist()[0] == 1
    pd.testing.assert_series_equal(
        some.loc[0, ["latent", "match", "correlation"]],
        whole.loc[1, ["latent", "match", "correlation"]],
        check_names=False,
    )


def test_images_of_different_purpose_in_both_runs_are_left_out(runs, activation, tmp_path):
    third = write_run(tmp_path / "third", activation, splits="training training test test")
    ids, patients = common_images(["a", "b"], [runs[0], third])
    cohorts = [read_table(run.images).set_index("image_id")["split"] for run in (runs[0], third)]
    for part, split in zip(ids, ("training", "test"), strict=True):
        assert len(part) == IMAGES // 4
        assert {cohort[image] for cohort in cohorts for image in part} == {split}
    assert patients[0][0] == "p0"


def test_runs_of_other_images_are_refused_in_one_sentence(runs, activation, tmp_path):
    few = write_run(tmp_path / "few", activation[:12])
    with pytest.raises(
        InputError,
        match=r"^a and b have 6 images in common outside of their confirmation splits, and 10 are "
        r"needed; compare runs on the same images with the same key of pseudonyms and the same "
        r"splits$",
    ):
        compare_runs(["a", "b"], [runs[0], few], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_folder_with_files_is_not_written_over(runs, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty; give a new folder"):
        compare_runs(["a", "b"], runs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
