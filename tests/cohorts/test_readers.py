"""Datasets whose tables lack the size of images, with a real file per image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from mammo_sae.cohorts import build
from mammo_sae.cohorts.facts import read_facts
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.readers import Sources, reader_class
from mammo_sae.cohorts.settings import RsnaCohort, TableCohort
from mammo_sae.cohorts.sheet import LeftOut
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import read_table


def write_image(path: Path, rows: int = 30, columns: int = 20) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "2.25.7"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.7"
    dataset.Manufacturer, dataset.ManufacturerModelName = "ACME", "Mark 1"
    dataset.PatientAge, dataset.PatientName = "061Y", "DOE^JANE"
    dataset.PixelSpacing = [0.07, 0.07]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.zeros((rows, columns), np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def key(tmp_path) -> str:
    path = tmp_path / "key"
    path.write_text("an unguessable secret")
    return str(path)


@pytest.fixture
def table_folder(tmp_path) -> Path:
    folder = tmp_path / "own"
    for name in ("a/1.dcm", "a/2.dcm", "b/1.dcm"):
        write_image(folder / name)
    (folder / "images.csv").write_text(
        "file,patient_id,split,view,side,mass,calc,density,scanner\n"
        "a/1.dcm,a,training,CC,L,1,0,B,1\n"
        "a/2.dcm,a,training,MLO,L,1,,B,1\n"
        "b/1.dcm,b,test,CC,R,0,1,,2\n"
    )
    (folder / "findings.csv").write_text(
        "file,finding,xmin,ymin,xmax,ymax\na/1.dcm,mass,1,2,10,12\na/1.dcm,scar,1,2,3,4\n"
    )
    return folder


@pytest.fixture
def rsna_folder(tmp_path) -> Path:
    folder = tmp_path / "rsna"
    lines = [
        "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,"
        "density,machine_id,difficult_negative_case"
    ]
    for patient in range(60):
        for number, view in enumerate(("CC", "MLO", "AT") if patient == 0 else ("CC", "MLO")):
            image = 10 * patient + number
            lines.append(f"2,{patient},{image},L,{view},61.0,{patient % 2},0,0,1.0,0,C,49,False")
            write_image(folder / "train_images" / str(patient) / f"{image}.dcm")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def build_cohort(settings, folder: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = out / "images.parquet", out / "findings.parquet"
    build.run(settings, [folder], *tables, out / "summary.json")
    return read_table(tables[0]), read_table(tables[1])


def table_settings(folder: Path, key: str) -> TableCohort:
    return TableCohort(
        source=str(folder),
        key_file=key,
        concepts={"mass": "mass", "suspicious_calcification": "calc"},
        covariates={"scanner": "scanner"},
    )


def test_a_table_of_your_own_becomes_a_cohort(table_folder, key, tmp_path):
    settings = table_settings(table_folder, key)
    images, findings = build_cohort(settings, table_folder, tmp_path / "out")
    pseudonyms = load_pseudonyms(key)
    images = images.set_index("image_id")
    second = images.loc[pseudonyms.image("a/2.dcm")]
    assert (second["rows"], second["columns"], second["mass"]) == (30, 20, 1)
    assert pd.isna(second["suspicious_calcification"])
    assert second[["manufacturer", "model", "age_bin"]].tolist() == ["ACME", "Mark 1", "60-69"]
    assert second["pixel_spacing_mm"] == 0.07
    assert images["scanner"].tolist().count(1) == 2
    assert findings[["image_id", "concept", "xmax"]].values.tolist() == [
        [pseudonyms.image("a/1.dcm"), "mass", 10.0]
    ]
    found = Sources("table", [table_folder]).files(load_pseudonyms(key))
    assert found[pseudonyms.image("b/1.dcm")].dicom == table_folder / "b/1.dcm"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [0.07, 0.07], "ImagerPixelSpacing": [0.1, 0.1]}, 0.07),
        (
            {"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 1.25},
            0.08,
        ),
        ({"PixelSpacing": [0.07]}, None),
        ({}, None),
    ],
)
def test_spacing_is_that_in_the_breast_s_plane(tmp_path, elements, expected):
    path = tmp_path / "a.dcm"
    write_image(path)
    dataset = pydicom.dcmread(path)
    del dataset.PixelSpacing
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    (found,) = read_facts([path], "read headers")
    assert found.spacing_mm == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a/2.dcm", "../own/a/2.dcm", r"line 3, column 'file' must be a path inside"),
        ("a/2.dcm", "a/1.dcm", r"line 3, column 'file' occurs a second time"),
        ("R,0,1", "R,0,yes", r"line 4, column 'calc' is 'yes'; expected 0, 1 or empty"),
        ("L,1,0,B", "L,1,0,F", r"line 2, column 'density' is 'F'"),
        ("test,CC", "dev,CC", r"line 4, column 'split' is 'dev'"),
    ],
)
def test_a_malformed_row_is_named(table_folder, key, tmp_path, old, new, message):
    path = table_folder / "images.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    assert any(re.search(message, row) for row in named(table_folder, key, tmp_path))


def named(folder: Path, key: str, tmp_path: Path) -> list[str]:
    """Build the cohort. Return the rows that its summary names."""
    settings = table_settings(folder, key).model_copy(update={"most_malformed": 0.7})
    build_cohort(settings, folder, tmp_path / "out")
    rows = read_json(tmp_path / "out" / "summary.json")["malformed_rows"]
    return [str(LeftOut(**row)) for row in rows]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a/1.dcm", "a/9.dcm", r"line 2, column 'file' is not in images.csv"),
        ("1,2,10", "11,2,10", r"line 2, column 'xmax' gives no box"),
        ("1,2,10", ",2,10", r"line 2, column 'xmin' is empty"),
    ],
)
def test_a_malformed_finding_is_named(table_folder, key, tmp_path, old, new, message):
    path = table_folder / "findings.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    assert any(re.search(message, row) for row in named(table_folder, key, tmp_path))


def test_rsna_is_split_by_patient_and_loses_other_views(rsna_folder, tmp_path):
    settings = RsnaCohort(source=str(rsna_folder), covariates={"site": "site_id"})
    images, findings = build_cohort(settings, rsna_folder, tmp_path / "out")
    assert len(images) == 120
    assert findings.empty
    assert images["cancer"].sum() == 60
    assert set(images["split"]) == {"training", "test"}
    assert 0.08 < (images["split"] == "test").mean() < 0.35
    assert images.groupby("patient_id")["split"].nunique().max() == 1
    first = images.iloc[0]
    assert first[["density", "age_bin", "model"]].tolist() == ["C", "60-69", "machine 49"]
    assert (first["birads"], first["site"]) == (1, 2)
    assert len(Sources("rsna", [rsna_folder]).files(load_pseudonyms(None))) == 120


def test_a_missing_image_of_rsna_is_left_out_and_counted(rsna_folder, tmp_path):
    (rsna_folder / "train_images" / "0" / "1.dcm").unlink()
    images, _ = build_cohort(RsnaCohort(source=str(rsna_folder)), rsna_folder, tmp_path / "out")
    assert len(images) == 119
    (summary,) = (tmp_path / "out").glob("*.json")
    assert read_json(summary)["counts"]["unreadable_images_dropped"] == 1


@pytest.mark.parametrize("name", ["a/3.dcm", "images.csv"])
def test_a_row_without_an_image_is_left_out_with_its_boxes(table_folder, key, tmp_path, name):
    for table in ("images.csv", "findings.csv"):
        path = table_folder / table
        path.write_text(path.read_text().replace("a/1.dcm", name))
    images, findings = build_cohort(
        table_settings(table_folder, key), table_folder, tmp_path / "out"
    )
    assert len(images) == 2
    assert findings.empty


def test_every_kind_of_cohort_has_a_reader():
    from typing import get_args

    from mammo_sae.cohorts.settings import CohortSettings

    for model in get_args(get_args(CohortSettings)[0]):
        assert issubclass(reader_class(model.model_fields["kind"].default), Reader)


@pytest.fixture
def parses(monkeypatch) -> list[str]:
    """The names of tables, in the order in which they are parsed."""
    found = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        found.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return found


def test_a_table_is_parsed_once_however_often_it_is_asked_for(table_folder, parses):
    sources = Sources("table", [table_folder])
    sources.annotations({"mass": "mass"}, {"scanner": "scanner"})
    sources.files(load_pseudonyms(None))
    assert sources.strays() == []
    assert parses == ["images.csv", "findings.csv"]


def test_rows_that_one_caller_leaves_out_stay_for_other_callers(table_folder):
    path = table_folder / "images.csv"
    path.write_text(path.read_text().replace("b,test", "b,nowhere"))
    reader = reader_class("table")(table_folder)
    assert list(reader.annotations({"mass": "mass"}, {}).images["source_image"]) == [
        "a/1.dcm",
        "a/2.dcm",
    ]
    # Splits do not depend on the image files.
    assert list(reader.files()) == ["a/1.dcm", "a/2.dcm", "b/1.dcm"]


def test_a_table_is_parsed_again_for_columns_that_were_not_kept(table_folder, parses):
    reader = reader_class("table")(table_folder)
    for columns, kept in (
        (("file", "view"), ["file", "view"]),
        (("view",), ["view"]),
        (("mass", "file"), ["file", "mass"]),
        (("view", "mass"), ["view", "mass"]),
        (None, None),
        (("side",), ["side"]),
    ):
        sheet = reader.table("images.csv", columns=columns)
        assert kept is None or list(sheet.frame) == kept
    assert parses == ["images.csv"] * 3
