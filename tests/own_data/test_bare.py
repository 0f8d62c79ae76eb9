"""`init` on a folder of images without a table: a cohort without labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae import cli
from mammo_sae.config import read_config
from mammo_sae.errors import InputError
from own_data_files import table, write_png

SAID = "note: there is no table, so no image has a label: the run trains SAEs"


def images(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)


@pytest.fixture
def named(tmp_path) -> Path:
    """PNGs of five patients, whose names say patient, side and view, in two forms."""
    folder = tmp_path / "own"
    for number in range(10):
        side = "LR"[number % 2]
        name = f"P{number // 2}_{side}_CC" if number < 6 else f"{number // 2}/mlo-{side}"
        write_png(folder / f"{name}.png", side=side, seed=number)
    return folder


def test_names_of_files_give_patient_side_and_view(named, init):
    told = init()
    found = images(named)
    assert list(found.columns) == ["file", "patient_id", "split", "view", "side"]
    assert list(found["patient_id"]) == [*"3344", "P0", "P0", "P1", "P1", "P2", "P2"]
    assert list(found["view"]) == ["MLO"] * 4 + ["CC"] * 6
    assert list(found["side"]) == ["L", "R"] * 5
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    assert set(found["split"]) == {"training", "test"}
    assert SAID in told
    assert "5 patients are known by the names of the files, the first is '3'" in told
    assert "patient: the names of the files and their folders" in told
    assert re.search(r"^  split: drawn: \d of 5 patients are test$", told, re.MULTILINE)
    assert told.splitlines()[-1] == (
        "next: `python -m mammo_sae doctor mine.yaml --pixels` says what would be refused, and "
        "`python -m mammo_sae run mine.yaml --report` leads to the report"
    )


def test_a_name_with_a_sharp_s_keeps_its_patient_whole(tmp_path, init):
    # "ß" has two letters in upper case, so positions in a name of capitals are not its own
    for number, name in enumerate(("Groß_L_CC", "Groß_r_cc", "Weiß ß CC-L", "Weiß ß CC-R")):
        write_png(tmp_path / "own" / f"{name}.png", side="LR"[number % 2], seed=number)
    init()
    found = images(tmp_path / "own")
    assert list(found["patient_id"]) == ["Groß", "Groß", "Weiß ß", "Weiß ß"]
    assert list(found["side"]) == ["L", "R"] * 2


def test_the_configuration_has_no_label_and_doctor_refuses_nothing(named, init, capsys):
    init()
    config = read_config([Path("mine.yaml")])
    assert config.cohort.concepts == {}
    assert list(config.encoders) == ["pretrained"]
    assert "the images have no labels" in Path("mine.yaml").read_text()
    cli.run(["doctor", "mine.yaml", "--pixels"])
    told = capsys.readouterr().out
    assert re.search(r"^split training: \d images of \d patients$", told, re.MULTILINE)
    assert re.search(r"^SAEs +\d", told, re.MULTILINE | re.IGNORECASE)
    assert told.splitlines()[-1] == "Nothing would be refused."


def test_without_labels_doctor_asks_for_the_training_split_only(named, init, capsys):
    init()
    text = (named / "images.csv").read_text()
    (named / "images.csv").write_text(text.replace(",test,", ",training,"))
    cli.run(["doctor", "mine.yaml"])
    assert "Nothing would be refused." in capsys.readouterr().out
    (named / "images.csv").write_text(re.sub(",(test|training),", ",test,", text))
    with pytest.raises(SystemExit):
        cli.run(["doctor", "mine.yaml"])
    assert (
        "refused: no image of the cohort is in the split training, which trains the SAEs; give it "
        "patients" in capsys.readouterr().out
    )


def test_headers_give_a_hash_of_the_patient(tmp_path, write_dicom, init):
    folder = tmp_path / "own"
    for number in range(6):
        stored = np.random.default_rng(number).integers(0, 4095, (40, 30)).astype(np.uint16)
        write_dicom(
            folder / f"IM{number}", stored, PatientID=f"KOWALCZYK-{number // 2}",
            ImageLaterality="LR"[number % 2], ViewPosition="ML" if number == 5 else "CC",
            SOPInstanceUID=f"1.2.3.{number}",
        )  # fmt: skip
    told = init()
    found = images(folder)
    assert list(found["file"]) == [f"IM{number}" for number in range(5)]
    assert found["patient_id"].nunique() == 3
    assert "KOWALCZYK" not in told + (folder / "images.csv").read_text()
    assert "patient: a keyed hash of PatientID in the DICOM headers\n" in told
    assert "a view that is CC or MLO is unknown for 1 image, left out, the first is 'IM5'" in told


def test_a_name_that_is_the_patient_of_a_header_means_this_patient(tmp_path, write_dicom, init):
    folder = tmp_path / "own"
    for number in range(4):
        stored = np.random.default_rng(number).integers(0, 4095, (40, 30)).astype(np.uint16)
        write_dicom(
            folder / f"IM{number}", stored, PatientID=f"00{number}", ImageLaterality="L",
            ViewPosition="CC", SOPInstanceUID=f"1.2.3.{number}",
        )  # fmt: skip
        write_png(folder / f"00{number}_R_CC.png", side="R", seed=number)
    told = init()
    found = images(folder)
    assert sorted(found.groupby("patient_id").size()) == [2, 2, 2, 2]
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    assert not set(found["patient_id"]) & {"000", "001", "002", "003"}
    assert "  view: the DICOM headers and the names of the files\n" in told


def test_names_that_say_nothing_are_refused_with_what_to_do(pngs, init):
    with pytest.raises(InputError) as refused:
        init()
    assert str(refused.value) == (
        "own holds no table, and neither headers nor names say patient, side and view of 8 images, "
        "the first is '001.png'; name the files like 12_L_CC.png (patient, side, view), or put a "
        ".csv or .xlsx file there with a row per image: its file, patient, side and view, and a "
        "column of 0 and 1 per label"
    )
    assert not (pngs / "images.csv").exists()
    (pngs / "list.csv").write_text("image,view,view\n001,CC,CC\n")
    with pytest.raises(InputError, match=r"holds no table that can be read .list.csv is not read"):
        init()


def test_a_table_that_cannot_be_read_is_not_called_missing(named, init):
    (named / "list.csv").write_text("image,view,view\n001,CC,CC\n")
    told = init()
    assert "note: no table could be read, so no image has a label" in told
    assert "note: list.csv is not read as a table: " in told


def test_a_file_whose_name_lacks_the_patient_is_left_out(named, init):
    write_png(named / "L_CC.png", seed=99)
    assert "note: the patient is unknown for 1 image, left out" in init()
    assert "L_CC.png" not in list(images(named)["file"])


def test_a_column_without_a_table_is_refused(named, init):
    with pytest.raises(InputError, match=r"--columns patient=x: own holds no table; put a \.csv"):
        init("--columns", "patient=x")


def test_a_table_that_comes_later_gives_labels(named, init):
    init()
    rows = [(file, *row) for file, *row in images(named)[["file", "patient_id"]].to_numpy()]
    labelled = [(*row, str(number % 2)) for number, row in enumerate(rows)]
    (named / "list.csv").write_text(table(("file", "patient", "mass"), labelled))
    assert SAID not in init("--overwrite")
    assert list(images(named)["mass"]) == ["0", "1"] * 5
    assert set(read_config([Path("mine.yaml")]).encoders) == {"pretrained", "finetuned"}
