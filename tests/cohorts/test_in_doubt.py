"""If a row can't be read, the findings of its image are unknown: it never counts as healthy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mammo_sae.cohorts import cmmd, embed, mammo_clip, vindr
from mammo_sae.cohorts.facts import files_unread

CONCEPTS = {"mass": "Mass", "calcification": "Suspicious Calcification"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Without its quotes the list becomes two cells.
        ("\"['Mass', 'Suspicious Calcification']\"", "['Mass', 'Suspicious Calcification']"),
        ("10.5,20,40.25", "10.5,20"),  # a separator and a cell are lost
        ("s1,i1,", 's1,i1,"'),
        ("s1,i1", "s1,\0i1"),
        ("s1,i1", "s1,"),
        ("s1,i1", "s1,i7"),
        ("'Mass', 'Susp", "'Moss', 'Susp"),
    ],
)
@pytest.mark.parametrize("keep", [None, "s1".__eq__])
def test_an_image_whose_finding_can_t_be_read_is_left_out(vindr_folder, old, new, keep):
    before = vindr.READER(vindr_folder).annotations(CONCEPTS, {}, keep=keep).images
    edit(vindr_folder / "finding_annotations.csv", old, new)
    found = vindr.READER(vindr_folder).annotations(CONCEPTS, {}, keep=keep)
    assert before["mass"].tolist()[0] == 1
    expected = before[before["source_image"] != "i1"].reset_index(drop=True)
    assert found.images.equals(expected)
    assert "i1" not in set(found.findings["source_image"])
    if keep is None:
        assert sum(len(sheet.named()) for sheet in found.sheets) == 1


def test_a_row_of_nobody_takes_no_images_with_it_where_few_have_rows(vindr_folder):
    path = vindr_folder / "finding_annotations.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "s9,i9,['Mass'],,,,,,training"]) + "\n")
    images = vindr.READER(vindr_folder).annotations(CONCEPTS, {}).images.set_index("source_image")
    assert images["mass"].to_dict() == {"i1": 1, "i2": 0, "i3": 0, "i4": 0}


def clip_folder(tmp_path: Path, *flags: object) -> Path:
    rows = [
        f"p1,i1.png,L,CC,900,700,BI-RADS 2,DENSITY C,\"['No Finding']\",training,{flag}"
        for flag in flags
    ]
    (tmp_path / "images_png" / "p1").mkdir(parents=True)
    (tmp_path / "images_png" / "p1" / "i1.png").touch()
    (tmp_path / mammo_clip.FOLDS).write_text(
        "patient_id,image_id,laterality,view,height,width,breast_birads,breast_density,"
        "finding_categories,split,Mass\n" + "\n".join(rows) + "\n"
    )
    return tmp_path


@pytest.mark.parametrize("flags", [(0, "yes"), ("yes", 0), (0, 1)])
def test_an_image_with_an_open_row_and_no_positive_one_is_open(tmp_path, flags):
    with files_unread():
        found = mammo_clip.READER(clip_folder(tmp_path, *flags)).annotations({"mass": "Mass"}, {})
    assert found.images["mass"].isna().tolist() == [True]
    assert len(found.sheets[0].named()) == 1


def test_a_breast_of_cmmd_is_unknown_if_the_cells_of_its_row_can_t_be_separated(tmp_path):
    (tmp_path / cmmd.BREASTS).write_text(
        "ID1,LeftRight,Age,number,abnormality,classification,subtype\n"
        "D8,L,44,2,mass,Benign,\nD8,L,44,2,calcification,Malignant\nD9,L,44,2,mass,Benign,\n"
    )
    for patient in ("D8", "D9"):
        (tmp_path / "CMMD" / patient).mkdir(parents=True)
        (tmp_path / "CMMD" / patient / "1.dcm").touch()
    with files_unread():
        images = cmmd.READER(tmp_path).annotations({"malignant": "malignant"}, {}).images
    labels = images.set_index("source_patient")["malignant"]
    assert labels.isna().to_dict() == {"D8": True, "D9": False}
    assert labels["D9"] == 0


def test_an_exam_of_embed_is_unknown_if_the_cells_of_its_row_can_t_be_separated(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / embed.CLINICAL).write_text(
        ",".join(embed.CLINICAL_COLUMNS)
        + "\n710,L,N,3.0,61,,,,\n710,L,S,3.0,61,O,,\n711,L,S,3.0,61,O,,,\n"
    )
    (tmp_path / embed.METADATA).write_text(
        ",".join([*embed.METADATA_COLUMNS, "ROI_coords"])
        + "\n8,710,images/8.dcm,L,CC,2D,,()\n9,711,images/9.dcm,L,CC,2D,,()\n"
    )
    for name in ("8", "9"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{name}.dcm").touch()
    with files_unread():
        found = embed.READER(tmp_path).annotations({"mass": "mass"}, {})
    labels = found.images.set_index("source_patient")["mass"]
    assert labels.isna().to_dict() == {"8": True, "9": False}
    assert labels["9"] == 1
    assert found.counts["images_of_unknown_exams"] == 1
