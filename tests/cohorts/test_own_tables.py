"""A user's own table, as pandas and Excel save it."""

from __future__ import annotations

import codecs
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae import cli
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.find import find_files
from mammo_sae.cohorts.image_files import is_image_name
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import TableCohort
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.table import TableReader
from mammo_sae.errors import InputError

IMAGES = """file,patient_id,split,view,side,mass,birads,dose
a.dcm,007,training,CC,L,1,4,1.5
b.dcm,007,training,MLO,L,,,
ä.dcm,08,test,CC,R,0,1,0.25
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images.csv").write_text(IMAGES)
    for name in ("a", "b", "ä"):
        (tmp_path / f"{name}.dcm").touch()
    return tmp_path


def read(folder: Path, concepts: dict[str, str] | None = None) -> pd.DataFrame:
    with files_unread():
        concepts = concepts or {"mass": "mass"}
        return TableReader(folder).annotations(concepts, {"dose": "dose"}).images


def plain(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def test_a_gap_in_a_column_does_not_turn_labels_into_numbers(folder):
    before = plain(read(folder))
    frame = pd.read_csv(folder / "images.csv", dtype={"patient_id": str})
    assert frame["mass"].dtype == frame["birads"].dtype == float
    frame.to_csv(folder / "images.csv", index=False)
    assert "1.0" in (folder / "images.csv").read_text()
    assert plain(read(folder)) == before
    assert [row["mass"] for row in before] == [1, None, 0]
    assert [row["birads"] for row in before] == [4, None, 1]
    frame["mass"] = frame["mass"].map({1: True, 0: False})
    frame.to_csv(folder / "images.csv", index=False)
    assert plain(read(folder)) == before


def test_usual_names_of_splits_and_either_case_are_taken(folder):
    before = plain(read(folder))
    text = IMAGES.replace("training", "Train").replace("test", "TESTING").replace("MLO", "mlo")
    (folder / "images.csv").write_text(text)
    assert plain(read(folder)) == before


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", ";").encode("cp1252"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: (
            text.replace(",", ";").replace("1.5", "1,5").replace("0.25", "0,25").encode("cp1252")
        ),
    ],
)
def test_a_table_saved_by_excel_has_the_same_content(folder, encode):
    before = plain(read(folder))
    (folder / "images.csv").write_bytes(encode(IMAGES))
    assert plain(read(folder)) == before
    assert [row["dose"] for row in before] == [1.5, None, 0.25]
    assert [row["source_patient"] for row in before] == ["007", "007", "08"]


@pytest.mark.parametrize("values", ["1,500 2,250", "1,5 2.5"])
def test_a_comma_that_may_be_decimals_or_thousands_is_refused(tmp_path, values):
    first, second = values.split()
    (tmp_path / "t.csv").write_text(f"dose;x\n{first};1\n{second};1\n")
    with pytest.raises(InputError, match=r"line 2, column 'dose' holds a comma that may"):
        Sheet(tmp_path, "t.csv").typed("dose")


def test_a_label_column_is_named_for_the_category_or_for_the_concept(folder):
    by_category = read(folder, {"tumour": "mass"})
    by_concept = read(folder, {"mass": "Mass"})
    for labels in (by_category["tumour"], by_concept["mass"]):
        assert labels.astype("Int8").to_list() == [1, pd.NA, 0]


def test_an_invalid_label_is_unknown_and_named(folder):
    (folder / "images.csv").write_text(IMAGES.replace("L,1,4", "L,yes,4"))
    with files_unread():
        source = TableReader(folder).annotations({"mass": "mass"}, {})
    assert source.images["mass"].astype("Int8").to_list() == [pd.NA, pd.NA, 0]
    assert [str(row) for sheet in source.sheets for row in sheet.left_out.values()] == [
        "images.csv: line 2, column 'mass' is 'yes'; expected 0, 1 or empty"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,a\n1,2,3\n", "column 'a' occurs twice"),
        ("\n\n", "is empty"),
        ("a\0,b\n1,2\n", "header row holds bytes that are no text"),
    ],
)
def test_an_ambiguous_header_row_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=rf"^t.csv can't be read as CSV: .*{message}"):
        Sheet(tmp_path, "t.csv")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"1,2,3", "has 3 cells; the header row has 2"),
        (b"1", "has 1 cells; the header row has 2"),
        (b"1,\0", "holds NUL bytes"),
        (b'"1,2', "has a quote that does not end"),
        (b'"1"2,2', "has a quote that does not end"),
        (b"1,\xe4\xff", "holds bytes that are no text"),
    ],
)
def test_a_damaged_row_takes_no_other_with_it(tmp_path, row, why):
    content = "a,b\nä,1\n".encode() + row + '\n"ö\nü",2\n\n"",\nß,\n5,6,,\n'.encode()
    (tmp_path / "t.csv").write_bytes(content)
    sheet = Sheet(tmp_path, "t.csv")
    assert [str(row) for row in sheet.left_out.values()] == [f"t.csv: line 3 {why}"]
    assert sheet.text("a") == ["ä", "ö\nü", "ß", "5"]
    assert sheet.text("b") == ["1", "2", "", "6"]
    sheet.leave_out(2, "b", "is odd")
    assert list(map(str, sheet.left_out.values()))[-1] == "t.csv: line 8, column 'b' is odd"


@pytest.mark.parametrize("name", ["._1-1.dcm", "@eaDir/1-1.dcm", "__MACOSX/1.dcm", "Thumbs.db"])
def test_files_that_systems_leave_beside_images_are_no_images(name):
    assert is_image_name(Path("a/1-1.DCM"))
    assert not is_image_name(Path("a") / name)


def test_a_pseudonym_leads_back_to_the_files(folder):
    key = folder / "key"
    key.write_text("an unguessable secret")
    settings = TableCohort(source=str(folder), key_file=str(key), concepts={"mass": "mass"})
    names = load_pseudonyms(str(key))
    assert find_files(settings, [folder], names.image("ä.dcm")) == [
        (names.image("ä.dcm"), folder / "ä.dcm")
    ]
    found = find_files(settings, [folder], names.patient("007"))
    assert {path.name for _, path in found} == {"a.dcm", "b.dcm"}
    (folder / "stray.dcm").touch()
    stray = names.image("stray.dcm")
    assert find_files(settings, [folder], stray) == [(stray, folder / "stray.dcm")]
    with pytest.raises(InputError, match=r"no image or patient .* pseudonym 0123.*key_file"):
        find_files(settings, [folder], "0123")


def test_the_command_line_finds_the_files_of_a_pseudonym(folder, capsys):
    (folder / "key").write_text("an unguessable secret")
    (folder / "mine.yaml").write_text(
        f"cohort: {{kind: table, source: {folder}, key_file: {folder}/key, concepts: "
        "{mass: mass}}\n"
    )
    names = load_pseudonyms(str(folder / "key"))
    cli.run(["find", names.patient("007"), "--configfile", str(folder / "mine.yaml")])
    printed = capsys.readouterr().out
    for file in ("a.dcm", "b.dcm"):
        assert f"{names.image(file)}" in printed
        assert str(folder / file) in printed
    assert "ä.dcm" not in printed
