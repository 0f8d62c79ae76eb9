"""Ids, ages and covariates in the notations of real tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.cohorts import build, cmmd, embed, rsna, table
from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.covariates import column_notices
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.find import find_files
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import TableCohort
from mammo_sae.cohorts.sheet import Sheet

COMPOSED, DECOMPOSED = "\u00e4", "a\u0308"  # two ways to write one letter


def sheet(folder: Path, *lines: str) -> Sheet:
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Sheet(folder, "t.csv")


@pytest.mark.parametrize(
    "in_table",
    [
        f"{COMPOSED}.dcm",
        f"{DECOMPOSED}.dcm",
        f"\ufeff{COMPOSED}.dcm\u200b",
        f" {COMPOSED}.dcm\u00a0",
    ],
)
@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
def test_a_name_is_the_same_in_both_forms_of_unicode(tmp_path, in_table, on_disk):
    (tmp_path / "key").write_text("an unguessable secret")
    (tmp_path / f"{on_disk}.dcm").touch()
    (tmp_path / f"{on_disk}-stray.dcm").touch()
    (tmp_path / "images.csv").write_text(
        f"file,patient_id,split,view,side,mass\n{in_table},p,training,CC,L,1\n",
        encoding="utf-8",
    )
    (found,) = table.READER(tmp_path).files().items()
    assert found[0] == f"{COMPOSED}.dcm"
    assert found[1].dicom == tmp_path / f"{on_disk}.dcm"
    with files_unread():
        images = table.READER(tmp_path).annotations({"mass": "mass"}, {}).images
    assert images["rows"].notna().all()
    assert Sources("table", [tmp_path]).strays() == [f"{COMPOSED}-stray.dcm"]
    settings = TableCohort(
        source=str(tmp_path), key_file=str(tmp_path / "key"), concepts={"mass": "mass"}
    )
    stray = load_pseudonyms(str(tmp_path / "key")).image(f"{COMPOSED}-stray.dcm")
    assert find_files(settings, [tmp_path], stray) == [(stray, tmp_path / f"{on_disk}-stray.dcm")]


def test_two_files_with_equal_names_are_both_left_out(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / f"{name}.dcm").touch()
    (tmp_path / "images.csv").write_text(
        "file,patient_id,split,view,side,mass\n"
        f"{COMPOSED}.dcm,p,training,CC,L,1\n{DECOMPOSED}.dcm,q,training,CC,L,0\n"
        "b.dcm,r,test,CC,L,0\n",
        encoding="utf-8",
    )
    with files_unread():
        found = table.READER(tmp_path).annotations({"mass": "mass"}, {})
    assert found.images["source_image"].tolist() == ["b.dcm"]
    assert len(found.sheets[0].left_out) == 2


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("007", "7", True),
        ("007.0", "7", True),
        ("7", "7.0", True),
        ("AB1", "ab1", True),
        ("1e5", "100000", False),
        ("70", "7", False),
        ("1.2.3", "1.2", False),
    ],
)
def test_ids_that_may_be_equal_are_noticed_and_count_as_two(tmp_path, first, second, alike):
    read = sheet(tmp_path, "id,x", f"{first},1", "zz,2", f"{second},3", f"{second},4")
    assert read.ids("id") == [first, "zz", second, second]
    said = "differ only in zeros or in upper and lower case, and count as two ids"
    assert list(read.notices) == [f"column 'id': the ids of lines 2 and 4 {said}"] * alike


@pytest.mark.parametrize("text", ["../7", "/7", "a/b", "a\\b", "..", ".", "9" * 300])
def test_an_id_that_is_a_path_is_left_out(tmp_path, text):
    (tmp_path / "train.csv").write_text(
        "site_id,patient_id,image_id,laterality,view,age,cancer,BIRADS,density,machine_id\n"
        f"1,{text},5,L,CC,60,0,,,49\n1,9,{text},L,CC,60,0,,,49\n1,8,6,L,CC,60,1,,,49\n"
    )
    assert [files.patient for files in rsna.READER(tmp_path).files().values()] == ["8"]
    with files_unread():
        read = rsna.READER(tmp_path).annotations({"cancer": "cancer"}, {})
    assert [one.line for one in read.sheets[0].left_out.values()] == [2, 3]
    assert all(text not in one.why for one in read.sheets[0].left_out.values())


@pytest.mark.parametrize("text", ["", "nan", "NA", "N/A", "None", "null", "<NA>", "#N/A"])
def test_a_missing_id_is_named_and_is_nobodys(tmp_path, text):
    read = sheet(tmp_path, "id,x", f"{text},1", "a,2", f"{text},3")
    read.ids("id")
    assert [(one.line, one.why) for one in read.left_out.values()] == [
        (2, "is empty"),
        (4, "is empty"),
    ]


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(("61", 61), ("61.0", 61), ("61.9", 61), ("61,5", 61), ("061Y", 61), ("720M", 60)),
        *((text, None) for text in ("0", "-1", "-999", "999", "9999", "999Y", "000Y")),
    ],
)
def test_an_age_of_nobody_is_unknown(text, years):
    assert age_in_years(text) == years


@pytest.mark.parametrize("text", ["old", "1953-04-12", "12/04/53", "6O", "61 years", "nan1"])
def test_a_text_that_is_no_age_is_refused(text):
    with pytest.raises(ValueError):
        age_in_years(text)


@pytest.mark.parametrize("age", ["999", "0", "-1"])
@pytest.mark.parametrize("reader", [rsna, cmmd, embed])
def test_no_dataset_has_patients_of_999_years(tmp_path, reader, age):
    """In an earlier version 999 years gave `>=70`, and 0 years gave `<40`."""
    if reader is rsna:
        (tmp_path / "train.csv").write_text(
            "site_id,patient_id,image_id,laterality,view,age,cancer,BIRADS,density,machine_id\n"
            f"1,8,6,L,CC,{age},1,,,49\n1,9,7,L,CC,61.5,1,,,49\n"
        )
        files = ["train_images/8/6.dcm", "train_images/9/7.dcm"]
    elif reader is cmmd:
        (tmp_path / cmmd.BREASTS).write_text(
            "ID1,LeftRight,Age,number,abnormality,classification,subtype\n"
            f"D8,L,{age},2,mass,Benign,\nD9,L,61.5,2,mass,Benign,\n"
        )
        files = ["CMMD/D8/1.dcm", "CMMD/D9/1.dcm"]
    else:
        (tmp_path / "tables").mkdir()
        (tmp_path / embed.CLINICAL).write_text(
            ",".join(embed.CLINICAL_COLUMNS) + f"\n10,L,S,3.0,{age},O,,,\n11,L,S,3.0,61.5,O,,,\n"
        )
        (tmp_path / embed.METADATA).write_text(
            ",".join([*embed.METADATA_COLUMNS, "ROI_coords"])
            + "\n8,10,images/8.dcm,L,CC,2D,,()\n9,11,images/9.dcm,L,CC,2D,,()\n"
        )
        files = ["images/8.dcm", "images/9.dcm"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with files_unread():
        images = reader.READER(tmp_path).annotations({}, {}).images
    assert images["age_bin"].isna().tolist() == [True, False]
    assert images["age_bin"][1] == "60-69"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([0, 1, 2, -1], "holds -1 in 1 rows"),
        ([0.5, 1.5, -999, -999], "holds -999 in 2 rows"),
        ([20, 40, 60, 99, 99], "holds 99 in 2 rows"),
        ([20, 40, 60, 999], "holds 999 in 1 rows"),
        ([20, 9999, 60], "holds 9999 in 1 rows"),
        ([-3, -1, 2], None),
        ([91, 95, 98, 99], None),
        ([800, 950, 999, 1200], None),
        ([99, 99], None),
        (["2019-03-04", "2019-03-05", "x"], "holds 2 dates"),
        (["04.03.2019", "5/3/19 12:30"], "holds 2 dates"),
        (["north", "south", "2019-03-04"], None),
        (["a", None], None),
    ],
)
def test_numbers_for_unknown_and_dates_are_noticed(cells, said):
    column = pd.Series(cells, dtype="string" if isinstance(cells[0], str) else "Float64")
    notices = list(column_notices(column))
    assert len(notices) == (said is not None)
    assert all(notice.startswith(said) for notice in notices)


def test_notices_are_in_the_cohorts_summary_and_its_log(tmp_path, capfd):
    (tmp_path / "key").write_text("an unguessable secret")
    rows = [f"{n}.dcm,p{n},training,CC,L,1,{[20, 40, 999][n % 3]}" for n in range(6)]
    (tmp_path / "images.csv").write_text(
        "\n".join(["file,patient_id,split,view,side,mass,dose", *rows]) + "\n"
    )
    for n in range(6):
        (tmp_path / f"{n}.dcm").touch()
    settings = TableCohort(
        source=str(tmp_path),
        key_file=str(tmp_path / "key"),
        concepts={"mass": "mass"},
        covariates={"dose": "dose"},
    )
    out = [tmp_path / "out" / name for name in ("i.parquet", "f.parquet", "s.json")]
    with files_unread():
        build.run(settings, [tmp_path], *out)
    notice = (
        "images.csv: column 'dose' holds 999 in 2 rows, which may mean unknown but counts as "
        "a number; leave such cells empty"
    )
    assert json.loads(out[2].read_text())["notices"] == [notice]
    assert f"warning: {notice}\n" in capfd.readouterr().err
