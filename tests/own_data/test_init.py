"""`init` on small folders: the tables that it writes, and what it says or refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import Workbook

from mammo_sae.config import read_config
from mammo_sae.errors import InputError
from own_data_files import HEADER, ROWS, table, with_column, write_png


def images(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)


def refusal(init, *words: str) -> str:
    with pytest.raises(InputError) as refused:
        init(*words)
    return str(refused.value)


def test_a_table_of_plain_names_becomes_images_csv_and_a_configuration(pngs, init):
    (pngs / "list.csv").write_text(table())
    told = init()
    found = images(pngs)
    assert list(found.columns) == ["file", "patient_id", "split", "view", "side", "mass"]
    assert list(found["file"]) == [f"{n:03d}.png" for n in range(1, 9)]
    assert list(found["patient_id"]) == [row[1] for row in ROWS]
    assert list(found["mass"]) == [row[4] for row in ROWS]
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    assert "own holds 8 images: PNG (8)" in told
    assert "mass: column 'mass' of list.csv (2 with, 6 without, 0 unknown)" in told
    config = read_config([Path("mine.yaml")])
    assert config.cohort.concepts == {"mass": "mass"}
    assert Path(config.cohort.key_file).stat().st_mode & 0o077 == 0


def test_a_german_export_in_windows_1252_is_read(pngs, init):
    sides, words = {"L": "links", "R": "rechts"}, {"1": "ja", "0": "nein"}
    rows = [(f"{r[0]}.png", r[1], sides[r[2]], "cc", words[r[4]], "4a", "2") for r in ROWS]
    header = ("Datei", "Pat.-Nr.", "Seite", "Projektion", "Verkalkung größer", "BI-RADS", "ACR")
    text = table(header, rows, ";").replace("\n", "\r\n")
    (pngs / "Export.csv").write_bytes(text.encode("cp1252"))
    told = init()
    found = images(pngs)
    assert list(found["verkalkung_grosser"]) == [row[4] for row in ROWS]
    assert set(found["birads"]) == {"4"}
    assert set(found["density"]) == {"B"}
    assert "4a, 4b and 4c read as 4" in told
    assert "1 to 4 read as A to D" in told
    assert "(nein read as 0, ja read as 1)" in told


def test_an_excel_workbook_keeps_text_as_text(pngs, init):
    book = Workbook()
    book.active.append(HEADER)
    for place, row in enumerate(ROWS):
        patient = ["1.20", "1.2", "1E5", "007"][place // 2]
        book.active.append([row[0], patient, row[2], row[3], int(row[4])])
    book.save(pngs / "list.xlsx")
    init()
    assert list(images(pngs)["patient_id"][::2]) == ["1.20", "1.2", "1E5", "007"]


@pytest.mark.parametrize("key", [f"{number:016d}" for number in range(6)])
def test_both_splits_have_images_with_and_without_each_label(pngs, init, key):
    Path("mine.key").write_text(key)
    (pngs / "list.csv").write_text(table())
    assert "the test split has no image" not in init()
    found = images(pngs).groupby("split")
    assert found["patient_id"].nunique().to_dict() == {"test": 2, "training": 2}
    assert found["mass"].apply(lambda cells: set(cells)).to_dict() == {
        "test": {"0", "1"},
        "training": {"0", "1"},
    }


def test_removed_leading_zeros_are_said_and_never_guessed(pngs, init):
    (pngs / "list.csv").write_text(table(rows=[(r[0].lstrip("0"), *r[1:]) for r in ROWS]))
    assert refusal(init) == (
        "column 'image' of list.csv holds '1' and the file is called '001.png'; a program has "
        "removed leading zeros: save the column as text"
    )
    assert not (pngs / "images.csv").exists()


def test_a_file_of_the_same_name_in_another_folder_is_not_taken(pngs, init):
    (pngs / "A").mkdir()
    (pngs / "001.png").rename(pngs / "A" / "001.png")
    rows = [("B/001.png", *ROWS[0][1:]), *ROWS[1:]]
    (pngs / "list.csv").write_text(table(rows=rows))
    told = init()
    assert "A/001.png" not in list(images(pngs)["file"])
    assert "1 row names a file that is not in the folder" in told
    assert "1 image has no row in a table, left out, the first is 'A/001.png'" in told


def test_paths_of_another_computer_name_files_by_their_end(pngs, init):
    rows = [(f"D:\\export\\{row[0]}.dcm", *row[1:]) for row in ROWS]
    (pngs / "list.csv").write_text(table(rows=rows))
    init()
    assert len(images(pngs)) == 8


def test_two_columns_that_may_be_the_patient_are_refused(pngs, init):
    rows = [(*row, f"S{n}") for n, row in enumerate(ROWS)]
    (pngs / "list.csv").write_text(table((*HEADER, "Subject ID"), rows))
    assert refusal(init) == (
        "column 'patient' of list.csv and column 'Subject ID' of list.csv may both be the "
        "patient; name one with --columns patient=patient"
    )
    init("--columns", "patient=patient")
    assert list(images(pngs)["patient_id"]) == [row[1] for row in ROWS]


def test_without_a_patient_nothing_is_written(pngs, init):
    (pngs / "list.csv").write_text(table((HEADER[0], "x", *HEADER[2:])))
    assert "name it with --columns patient=COLUMN" in refusal(init)
    init("--columns", "patient=x")
    assert set(images(pngs)["patient_id"]) == {"P1", "P2", "P3", "P4"}


def test_a_label_with_other_values_is_said_and_left_out(pngs, init):
    cells = ["1", "0", "9", "0", "1", "0", "1", "0"]
    (pngs / "list.csv").write_text(with_column("Calc", cells))
    told = init()
    assert "column 'Calc' of list.csv holds 9 (1) beside 0 and 1, so it is no label here" in told
    assert "calc" not in images(pngs)
    option = re.search(r"count them as unknown with (--columns \S+)", told)[1].split()
    told = init("--overwrite", *option)
    assert list(images(pngs)["calc"]) == ["1", "0", "", "0", "1", "0", "1", "0"]
    assert "1 cell of it is no 0 or 1 and counts as unknown" in told


def test_minus_one_is_no_label(pngs, init):
    cells = ["1", "0", "-1", "0", "1", "0", "1", "0"]
    (pngs / "list.csv").write_text(with_column("Calc", cells))
    assert "holds -1 (1) beside 0 and 1" in init()


def test_a_column_of_words_becomes_a_label_only_when_told(pngs, init):
    words = ["benign", "malignant", "benign", "benign", "malignant", "benign", "", "benign"]
    (pngs / "list.csv").write_text(with_column("Pathology", words))
    told = init()
    assert "malignant" not in images(pngs)
    option = re.search(r"(--columns malignant=\S+)|(--columns benign=\S+)", told)[0].split()
    told = init("--overwrite", "--columns", option[1].replace("benign", "malignant"))
    assert list(images(pngs)["malignant"]) == ["0", "1", "0", "0", "1", "0", "", "0"]


def test_columns_that_may_identify_a_person_are_not_copied(pngs, init):
    header = (*HEADER, "Name", "Geburtsdatum", "Klinik")
    rows = [(*row, "Anna Meier", "1.2.1950", "NW"[n // 4]) for n, row in enumerate(ROWS)]
    (pngs / "list.csv").write_text(table(header, rows))
    told = init()
    assert "columns that may identify a person and are never copied: 'Name', 'Geburtsdatum'" in told
    assert list(images(pngs).columns)[-1] == "klinik"
    written = (pngs / "images.csv").read_text() + Path("mine.yaml").read_text()
    assert "Meier" not in written
    assert "1950" not in written
    assert read_config([Path("mine.yaml")]).cohort.covariates == {"klinik": "klinik"}


@pytest.mark.parametrize(
    ("names", "cells", "said"),
    [
        (("xmin", "ymin", "xmax", "ymax"), ("8", "10", "24", "40"), "corners in pixels"),
        (("x", "y", "w", "h"), ("8", "10", "16", "30"), "left, top, width, height in pixels"),
        (("x_center", "y_center", "width", "height"), ("16", "25", "16", "30"), "centre, width"),
        (("x1", "y1", "x2", "y2"), ("0,125", "0.104166667", "0.375", "0.416666667"), "shares"),
    ],
)
def test_a_box_in_any_form_becomes_corners_in_pixels(pngs, init, names, cells, said):
    (pngs / "list.csv").write_text(table())
    boxes = table(("image", "finding", *names), [("001", "Mass", *cells)], ";")
    (pngs / "boxes.csv").write_text(boxes)
    assert said in init()
    found = pd.read_csv(pngs / "findings.csv")
    assert list(found["file"]) == ["001.png"]
    assert list(found["finding"]) == ["mass"]
    assert np.allclose(found[["xmin", "ymin", "xmax", "ymax"]], [[8, 10, 24, 40]], atol=1e-4)


def test_a_size_from_the_top_left_is_said(pngs, init):
    (pngs / "list.csv").write_text(table())
    (pngs / "boxes.csv").write_text("image,finding,x,y,w,h\n001,Mass,8,10,16,30\n")
    assert "x and y are read as the left and top edge of a box; if they are its centre" in init()


def test_findings_without_a_column_of_labels_give_labels(pngs, init):
    (pngs / "list.csv").write_text(table(HEADER[:4], [row[:4] for row in ROWS]))
    (pngs / "boxes.csv").write_text(
        "image,finding,x1,y1,x2,y2\n001,\"['Mass', 'Calc']\",8,10,24,40\n003,No finding,,,,\n"
    )
    told = init()
    assert list(images(pngs)["mass"]) == ["1", *["0"] * 7]
    assert list(images(pngs)["calc"]) == ["1", *["0"] * 7]
    assert "1 cell names several findings" in told
    assert len(pd.read_csv(pngs / "findings.csv")) == 2


def test_a_table_of_patients_gives_its_labels_to_their_images(pngs, init):
    (pngs / "list.csv").write_text(table(HEADER[:4], [row[:4] for row in ROWS]))
    sides = {"L": "left", "R": "right"}
    rows = [(row[1], sides[row[2]], row[4]) for row in ROWS]
    (pngs / "patients.csv").write_text(table(("patient", "side", "cancer"), rows))
    init()
    assert list(images(pngs)["cancer"]) == [row[4] for row in ROWS]
    assert list(images(pngs).columns)[-1] == "cancer"


def test_views_and_sides_may_be_in_the_name_of_the_file(tmp_path, init):
    folder = tmp_path / "own"
    rows = []
    for number in range(8):
        name = f"p{number // 4}_{'LR'[number % 2]}_{('CC', 'MLO')[number // 2 % 2]}.png"
        write_png(folder / name, side="LR"[number % 2], seed=number)
        rows.append((name, f"P{number // 4}", str(int(number < 4))))
    (folder / "list.csv").write_text(table(("file", "patient", "mass"), rows))
    told = init()
    assert list(images(folder)["side"][:4]) == ["L", "L", "R", "R"]
    assert list(images(folder)["view"][:4]) == ["CC", "MLO", "CC", "MLO"]
    assert "side: the names of the files" in told


def test_another_view_leaves_its_image_out_with_a_sentence(pngs, init):
    rows = [(*ROWS[0][:3], "ML", "1"), *ROWS[1:]]
    (pngs / "list.csv").write_text(table(rows=rows))
    assert "column 'view' of list.csv holds ML (1); only CC or MLO is used" in init()
    assert len(images(pngs)) == 7


def test_a_copied_file_is_left_out(pngs, init):
    (pngs / "008.png").write_bytes((pngs / "001.png").read_bytes())
    (pngs / "list.csv").write_text(table())
    assert "1 file has the content of another file, left out: '008.png' is '001.png'" in init()
    assert len(images(pngs)) == 7


def test_nothing_is_written_over_without_being_told(pngs, init):
    (pngs / "list.csv").write_text(table())
    (pngs / "findings.csv").write_text("mine")
    before = sorted(pngs.parent.rglob("*"))
    assert refusal(init) == (
        "own/findings.csv exists; nothing is written; rename them, or write over them with "
        "--overwrite"
    )
    assert sorted(pngs.parent.rglob("*")) == before
    assert (pngs / "findings.csv").read_text() == "mine"


def test_a_second_call_keeps_the_key_and_gives_the_same_files(pngs, init):
    (pngs / "list.csv").write_text(table())
    init()
    files = [pngs / "images.csv", Path("mine.yaml"), Path("mine.key")]
    before = [path.read_bytes() for path in files]
    init("--overwrite")
    assert [path.read_bytes() for path in files] == before


def test_if_one_file_cannot_be_written_none_is(pngs, init):
    (pngs / "list.csv").write_text(table())
    Path("mine.yaml").mkdir()
    said = refusal(init, "--overwrite")
    assert said.startswith("mine.yaml: Is a directory; nothing is written")
    assert not (pngs / "images.csv").exists()
    assert not list(pngs.glob(".*"))


@pytest.mark.parametrize(
    "place, why",
    [
        ("nowhere/mine.yaml", "the folder nowhere is missing; make it, or give another place"),
        ("my run.yaml", "the name of the file becomes the name of the run; use at most 64 letters"),
        ("mine.txt", "give a name that ends with .yaml"),
    ],
)
def test_a_place_for_the_configuration_that_does_not_fit_is_refused_at_once(
    tmp_path, init, place, why
):
    (tmp_path / "own").mkdir()
    assert refusal(init, "--output", place).startswith(f"--output {place}: {why}")


def test_a_column_of_files_that_names_no_file_is_not_replaced_by_another(pngs, init):
    (pngs / "list.csv").write_text(table())
    assert refusal(init, "--columns", "file=mass") == (
        "--columns file=mass: the cells of this column name no image of own, whose files are "
        "called like '001.png'; name another column"
    )


def test_a_patient_in_two_splits_is_said(pngs, init):
    (pngs / "list.csv").write_text(with_column("split", ["train", "test", *["train"] * 6]))
    assert (
        "note: by column 'split' of list.csv, 1 patient has images in two splits, and the run "
        "leaves these images out; correct the column split of images.csv" in init()
    )


def test_links_that_are_not_followed_are_said(pngs, init):
    (pngs / "list.csv").write_text(table())
    (pngs / "again").symlink_to(pngs)
    (pngs / "gone.png").symlink_to("nowhere.png")
    assert (
        "note: 2 links lead to folders or nothing and are not followed, the first is 'again'; put "
        "the files into the folder, or give the folder that the link leads to" in init()
    )


def test_a_file_that_cannot_be_read_is_said(pngs, init, monkeypatch):
    (pngs / "list.csv").write_text(table())
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "003.png")
    assert (
        "note: 1 file or folder can't be read, the first is '003.png'; get permission to read them"
        in init()
    )
    assert "003.png" not in list(images(pngs)["file"])


def test_a_table_without_rows_is_named(pngs, init):
    (pngs / "list.csv").write_text(table(rows=[]))
    assert refusal(init) == (
        "list.csv has the names of its columns and no row; add a row per image"
    )


def test_headers_give_views_and_patients_but_no_identity(tmp_path, write_dicom, init):
    folder = tmp_path / "own"
    rows = []
    for number in range(8):
        stored = np.random.default_rng(number).integers(0, 4095, (40, 30)).astype(np.uint16)
        write_dicom(
            folder / f"IM{number}", stored, PatientID=f"KOWALCZYK-{number // 2}",
            PatientName="KOWALCZYK^ANNA", ImageLaterality="LR"[number % 2], ViewPosition="CC",
            Manufacturer="ACME", SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID="1.2.9",
            PresentationIntentType="FOR PROCESSING" if number == 7 else "FOR PRESENTATION",
        )  # fmt: skip
        rows.append((f"1.2.3.{number}", str(number % 2)))
    (folder / "list.csv").write_text(table(("SOP", "mass"), rows))
    told = init()
    found = images(folder)
    assert list(found["file"]) == [f"IM{number}" for number in range(7)]
    assert list(found["side"]) == list("LRLRLRL")
    assert found["patient_id"].nunique() == 4
    assert "makers in the headers: ACME (8)" in told
    assert "1 image left out: the image is raw data, for processing [for_processing]" in told
    everything = told + (folder / "images.csv").read_text() + Path("mine.yaml").read_text()
    assert "KOWALCZYK" not in everything
    assert "1.2.3." not in everything


@pytest.mark.parametrize("name", ["Image quality", "stage", "average", "Nomenclature", "dosage"])
def test_a_label_is_not_taken_for_a_name_or_an_age(pngs, init, name):
    (pngs / "list.csv").write_text(with_column(name, ["1", "0"] * 4))
    init()
    assert list(images(pngs).iloc[:, -1]) == ["1", "0"] * 4


def test_a_column_of_patients_that_names_files_is_not_also_the_patient(pngs, init):
    rows = [(row[0], *row[2:]) for row in ROWS]
    (pngs / "list.csv").write_text(table(("patient", *HEADER[2:]), rows))
    assert "name it with --columns patient=COLUMN" in refusal(init)
    told = init("--columns", "patient=patient")
    assert "which names the file, by its cells, although it is called like a patient" in told
    assert "gives every image a patient of its own" in told
