"""Files are found under all names that download tools give to folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from mammo_sae.cohorts import cbis_ddsm, cmmd
from mammo_sae.cohorts.annotations import read_annotations
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.downloads import Download
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import CmmdCohort

CBIS = (
    "patient_id,{density},left or right breast,image view,abnormality id,abnormality type,"
    "assessment,pathology,image file path,cropped image file path,ROI mask file path"
)


def uid(*words: str) -> str:
    return str(generate_uid(entropy_srcs=list(words)))


def write(path: Path, patient: str, pixels: np.ndarray, series: str = "") -> None:
    """Write an image with its patient's, study's and series' ids."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid(str(path))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.StudyInstanceUID = patient, uid(patient)
    dataset.SeriesInstanceUID = series or uid(patient, "series")
    dataset.Modality, dataset.PhotometricInterpretation = "MG", "MONOCHROME2"
    dataset.ImageLaterality, dataset.ViewPosition = "L", "CC"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


FILM = np.arange(60 * 40, dtype=np.uint8).reshape(60, 40)
MASK = np.zeros((60, 40), np.uint8)
MASK[20:30, 5:15] = 255


def by_study(root: Path, patient: str, series: str, number: int) -> Path:
    return root / uid(patient) / f"1-{number}.dcm"


def by_series(root: Path, patient: str, series: str, number: int) -> Path:
    return root / (series or uid(patient, "series")) / f"1-{number}.dcm"


def by_both(root: Path, patient: str, series: str, number: int) -> Path:
    return root / uid(patient) / (series or uid(patient, "series")) / f"{number:08}.dcm"


def in_one_folder(root: Path, patient: str, series: str, number: int) -> Path:
    return root / "all" / f"{uid(patient)}-{series[-8:]}-{number}.dcm"


def by_patient(root: Path, patient: str, series: str, number: int) -> Path:
    return root / patient / "07-18-2010-NA-NA-79377" / f"1-{number}.dcm"


def deeper(root: Path, patient: str, series: str, number: int) -> Path:
    return root / "manifest-1616" / patient / "07-18-2010" / f"1-{number}.dcm"


PLACES = [by_patient, by_study, by_series, by_both, in_one_folder, deeper]
Place = Callable[[Path, str, str, int], Path]


@pytest.fixture
def cmmd_folder(tmp_path) -> Path:
    (tmp_path / "CMMD_clinicaldata_revision.csv").write_text(
        "ID1,LeftRight,Age,number,abnormality,classification,subtype\n"
        "D1-0001,L,44,2,calcification,Benign,\nD1-0002,L,61,2,mass,Malignant,\n"
    )
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_images_of_cmmd_are_their_patients(cmmd_folder, place: Place):
    for patient in ("D1-0001", "D1-0002"):
        for number in (1, 2):
            write(place(cmmd_folder / "CMMD", patient, "", number), patient, FILM)
    found = cmmd.READER(cmmd_folder).files()
    assert sorted(files.patient for files in found.values()) == [
        *("D1-0001", "D1-0001", "D1-0002", "D1-0002")
    ]
    for name, files in found.items():
        assert (cmmd_folder / name) == files.dicom
        assert files.patient == pydicom.dcmread(files.dicom).PatientID
    images = cmmd.READER(cmmd_folder).annotations({"mass": "mass"}, {}).images
    assert images.groupby("source_patient")["mass"].agg(list).to_dict() == {
        "D1-0001": [0, 0],
        "D1-0002": [1, 1],
    }
    assert set(cmmd.READER(cmmd_folder).files("D1-0002".__eq__)) == {
        name for name, files in found.items() if files.patient == "D1-0002"
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("left", ["._{name}", "@eaDir/{name}", "__MACOSX/{name}"])
def test_files_that_systems_leave_beside_images_of_cmmd_are_no_images(
    cmmd_folder, place: Place, left
):
    """These files are also not counted as images that can't be read."""
    root = cmmd_folder / "CMMD"
    for patient in ("D1-0001", "D1-0002"):
        path = place(root, patient, "", 1)
        write(path, patient, FILM)
        beside = path.parent / left.format(name=path.name)
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    found = cmmd.READER(cmmd_folder).files()
    assert {files.dicom for files in found.values()} == {
        place(root, patient, "", 1) for patient in ("D1-0001", "D1-0002")
    }
    sources = Sources("cmmd", [cmmd_folder])
    assert sources.strays() == []
    read = read_annotations(sources, {"mass": "mass"}, {}, load_pseudonyms(None))
    assert len(read.images) == 2
    assert read.lost == ()


def test_an_image_of_a_patient_without_a_row_is_a_stray(cmmd_folder):
    write(cmmd_folder / "CMMD" / "1.2.3" / "1-1.dcm", "D9-0001", FILM)
    write(cmmd_folder / "CMMD" / "1.2.4" / "1-1.dcm", "D1-0001", FILM)
    (cmmd_folder / "CMMD" / "1.2.3" / "1-2.dcm").write_bytes(b"no image")
    assert list(cmmd.READER(cmmd_folder).files()) == ["CMMD/1.2.4/1-1.dcm"]
    assert Sources("cmmd", [cmmd_folder]).strays() == ["CMMD/1.2.3/1-1.dcm", "CMMD/1.2.3/1-2.dcm"]


def test_a_patients_id_never_leads_out_of_the_folder(cmmd_folder):
    write(cmmd_folder / "elsewhere" / "1.dcm", "D1-0003", FILM)
    table = cmmd_folder / "CMMD_clinicaldata_revision.csv"
    table.write_text(table.read_text().replace("D1-0001", "../elsewhere"))
    assert cmmd.READER(cmmd_folder).files() == {}


def test_the_tables_of_cmmd_are_in_order_before_a_header_is_read(cmmd_folder):
    write(cmmd_folder / "CMMD" / "D1-0001" / "1-1.dcm", "D1-0001", FILM)
    check_tables(CmmdCohort(source=str(cmmd_folder)), [cmmd_folder], "state", cmmd_folder / "kept")
    assert (cmmd_folder / "kept").is_file()


@pytest.mark.parametrize("place", PLACES)
def test_films_and_masks_of_cbis_ddsm_are_found(tmp_path, place: Place):
    case = "Mass-Training_P_00001_LEFT_CC"
    series = {case: uid(case, "film"), f"{case}_1": uid(case, "roi")}
    path = f"{case}/{uid(case)}/{series[case]}/000000.dcm"
    roi = f"{case}_1/{uid(case + '_1')}/{series[case + '_1']}"
    row = (
        f"P_00001,3,LEFT,CC,1,mass,4,MALIGNANT,{path},{roi}/000001.dcm,"
        f'"{roi}/000000.dcm\n"'  # as some of the published rows are
    )
    for name in cbis_ddsm.NAMES:
        header = CBIS.format(density="breast_density" if "mass" in name else "breast density")
        rows = [row] if name == "mass_case_description_train_set.csv" else []
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
    write(place(tmp_path, case, series[case], 1), case, FILM, series[case])
    for number, pixels in ((1, FILM[:10, :10]), (2, MASK)):
        write(
            place(tmp_path, f"{case}_1", series[f"{case}_1"], number),
            f"{case}_1",
            np.ascontiguousarray(pixels),
            series[f"{case}_1"],
        )
    found = cbis_ddsm.READER(tmp_path).annotations({"mass": "mass"}, {})
    assert found.images[["source_image", "rows", "mass"]].values.tolist() == [
        ["P_00001_L_CC", 60, 1]
    ]
    boxes = found.findings.set_index("category")[["xmin", "ymin", "xmax", "ymax"]]
    assert boxes.loc["mass"].tolist() == [5, 20, 15, 30]
    assert Sources("cbis_ddsm", [tmp_path]).strays() == []


def test_a_folder_whose_name_is_decomposed_is_found_by_the_composed_one(tmp_path):
    path = tmp_path / "A\u0308rztin" / "1.dcm"
    path.parent.mkdir()
    path.touch()
    assert Download(tmp_path, ["\u00c4rztin"]).find("\u00c4rztin") == [path]
