"""A cohort's tables are checked before its files, and before Snakemake removes outputs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.cohorts import facts
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.settings import MammoClipCohort, TableCohort
from mammo_sae.cohorts.state import archive_state
from mammo_sae.errors import InputError


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "key").write_text("0123456789abcdef")
    rows = [
        (f"{number}.dcm", f"p{number % 4}", "training", "CC", "LR"[number % 2], number % 2)
        for number in range(8)
    ]
    names = ["file", "patient_id", "split", "view", "side", "mass"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "source" / "images.csv", index=False)
    for name, *_ in rows:
        (tmp_path / "source" / name).write_bytes(b"no header is read")
    return tmp_path


def check(folder: Path, **given) -> str:
    source = folder / "source"
    given = {"concepts": {"mass": "mass"}, **given}
    settings = TableCohort(source=str(source), key_file=str(folder / "key"), **given)
    state = archive_state(settings, [source]).tables
    return check_tables(settings, [source], state, folder / "checked")


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "source" / "images.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 2 if old in {"trai", ",CC,"} else 1))


def test_good_tables_are_read_once(folder, monkeypatch):
    monkeypatch.setattr(facts, "_facts", lambda path: pytest.fail(f"{path} was read"))
    splits = check(folder)
    before = (folder / "checked").read_text()
    monkeypatch.setattr("mammo_sae.cohorts.check.read_tables", lambda *_: pytest.fail("again"))
    assert check(folder) == splits
    assert (folder / "checked").read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("trai", "trei", r"images\.csv: line 2, .*split.*\(rows with it: 2\)"),
        (",CC,", ",CCC,", r"images\.csv: line 2, .*view.*in all 2 of 8 rows of images\.csv,"),
        ("1.dcm", "0.dcm", "line 2, .*a second time, with other cells, in line 3"),
        ("mass", "Mass", "mass"),
    ],
)
def test_a_typo_in_a_table_is_found_without_opening_a_file(folder, old, new, sentence):
    check(folder)
    edit(folder, old, new)
    with pytest.raises(InputError, match=sentence):
        check(folder)
    edit(folder, new, old)
    check(folder)


def test_a_box_of_any_mammogram_passes(folder):
    (folder / "source" / "findings.csv").write_text(
        "file,finding,xmin,ymin,xmax,ymax\n0.dcm,mass,3000,4000,3500,4500\n"
    )
    check(folder)


def test_labels_by_finding_of_a_table_by_breast_are_refused_before_the_step(tmp_path):
    (tmp_path / "images_png" / "p1").mkdir(parents=True)
    for image in ("a", "b"):
        (tmp_path / "images_png" / "p1" / f"{image}.png").write_bytes(b"no header is read")
    (tmp_path / "clip_vindr_final.csv").write_text(
        "patient_id,laterality,CC,MLO,CC_FINDING,MLO_FINDING,split\n"
        """p1,L,['a'],['b'],"[[], ['Mass'], [], []]","[[], ['Mass'], [], []]",training\n"""
    )
    by_image = MammoClipCohort(source=str(tmp_path), concepts={"mass": "Mass"}, covariates={})
    state = archive_state(by_image, [tmp_path]).tables
    check_tables(by_image, [tmp_path], state, tmp_path / "checked")
    by_finding = by_image.model_copy(update={"labels": "finding"})
    with pytest.raises(InputError, match=r"cohort\.labels is finding, but the source has no table"):
        check_tables(by_finding, [tmp_path], state, tmp_path / "checked")


def test_an_edit_of_labels_or_of_a_name_leaves_the_splits_digest(folder):
    before = check(folder)
    assert check(folder, concepts={"tumour": "mass"}) == before
    edit(folder, "CC,L,0", "CC,L,1")
    assert check(folder) == before
    edit(folder, "training", "test")
    edit(folder, "4.dcm,p0,training", "4.dcm,p0,test")
    assert check(folder) != before


def test_an_edit_of_labels_that_draws_the_same_patients_leaves_the_splits_digest(folder):
    drawn = {"validation_share": 0.5}
    before = check(folder, **drawn)
    # The patient has a mass in one image instead of two, and is in the same stratum as before.
    edit(folder, "5.dcm,p1,training,CC,R,1", "5.dcm,p1,training,CC,R,0")
    assert check(folder, **drawn) == before
    assert len({check(folder, **drawn, split_seed=seed) for seed in range(5)}) > 1


def test_a_file_that_remembers_nothing_legible_is_made_anew(folder):
    splits = check(folder)
    (folder / "checked").write_text("{")
    assert check(folder) == splits
