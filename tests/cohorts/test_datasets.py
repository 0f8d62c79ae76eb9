"""Folders with the layouts of public datasets and made-up images go through both steps."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from mammo_sae.cohorts import build
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources, reader_class
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.cohorts.settings import (
    CbisDdsmCohort,
    CmmdCohort,
    EmbedCohort,
    InbreastCohort,
    RsnaCohort,
    TableCohort,
    VindrCohort,
)
from mammo_sae.cohorts.sheet import LeftOut
from mammo_sae.cohorts.state import archive_state
from mammo_sae.dicom.settings import ClinicalSettings, TriageSettings
from mammo_sae.errors import InputError
from mammo_sae.images import convert
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import read_table

ROWS, COLUMNS = 60, 40


def write(path: Path, pixels: np.ndarray, side: str = "L", view: str | None = "CC") -> None:
    """Write a mammogram with its view only as a code, as in CMMD."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation = "MG", "MONOCHROME2"
    dataset.Manufacturer, dataset.PatientAge = "ACME", "061Y"
    dataset.ImageLaterality = side
    if view:
        code = Dataset()
        code.CodeValue = {"CC": "399162004", "MLO": "399368009"}[view]
        dataset.ViewCodeSequence = [code]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def breast(seed: int, side: str = "L") -> np.ndarray:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    inside = ((x + 0.5) / 28) ** 2 + ((y + 0.5 - ROWS / 2) / 24) ** 2 < 1
    noise = np.random.default_rng(seed).integers(0, 9000, (ROWS, COLUMNS))
    pixels = (inside * (30000 + noise)).astype(np.uint16)
    return pixels if side == "L" else np.ascontiguousarray(pixels[:, ::-1])


def check_parts(settings, folder: Path) -> None:
    """A reader gives the same for single patients as for all patients together."""
    whole = Sources(settings.kind, [folder]).annotations(settings.concepts, {})
    pseudonyms = load_pseudonyms(settings.key_file)
    files = Sources(settings.kind, [folder]).files(pseudonyms)
    for patient in {"nobody", *whole.images["source_patient"]}:
        part = Sources(settings.kind, [folder]).annotations(settings.concepts, {}, patient.__eq__)
        mine = whole.images[whole.images["source_patient"] == patient]
        # Plain values are compared, because a column that is empty in a part has another type
        # there.
        rows = [
            frame.astype(object).where(frame.notna(), None).to_dict("records")
            for frame in (part.images, mine)
        ]
        assert rows[0] == rows[1]
        boxes = whole.findings[whole.findings["source_image"].isin(mine["source_image"])]
        assert part.findings.to_numpy().tolist() == boxes.to_numpy().tolist()
        found = Sources(settings.kind, [folder]).files(pseudonyms, patient.__eq__)
        assert found == {i: file for i, file in files.items() if file.patient == patient}


def run_cohort(settings, folder: Path, out: Path) -> None:
    tables = out / "images.parquet", out / "findings.parquet"
    build.run(settings, [folder], *tables, out / "summary.json")


def run_images(settings, folder: Path, out: Path) -> None:
    conversion = ConversionSettings(
        kind=settings.kind,
        key_file=settings.key_file,
        images=ClinicalSettings(height=60, width=40, triage=TriageSettings(most_refused=0)),
    )
    convert.run(conversion, [folder], 0, out / "0.zarr", out / "0.json")


def build_and_convert(settings, folder: Path, out: Path):
    """Run `cohort` and `images`; return the tables and the images."""
    run_cohort(settings, folder, out)
    run_images(settings, folder, out)
    tables = out / "images.parquet", out / "findings.parquet"
    assert len(archive_state(settings, [folder]).shards) == 1
    check_parts(settings, folder)
    images, findings = read_table(tables[0]), read_table(tables[1])
    reader = ImageReader([out / "0.json"], concept_regions(tables[0]))
    assert sorted(reader.image_ids) == sorted(images["image_id"])
    return images.set_index("image_id"), findings, reader


def image_id(name: str) -> str:
    return load_pseudonyms(None).image(name)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Convert without starting processes, which the tests of the step itself do."""
    monkeypatch.setattr(convert, "isolated", lambda function, items, *_: map(function, items))


# CBIS-DDSM

CBIS = (
    "patient_id,{density},left or right breast,image view,abnormality id,abnormality type,"
    "assessment,pathology,image file path,cropped image file path,ROI mask file path"
)


def cbis_row(part: str, patient: str, side: str, number: int, kind: str, pathology: str) -> str:
    case = f"{'Mass' if kind == 'mass' else 'Calc'}-{part}_{patient}_{side}_CC"
    return (
        f"{patient},3,{side},CC,{number},{kind},4,{pathology},{case}/1.3.6/1.3.7/000000.dcm,"
        f"{case}_{number}/1.3.6/1.3.8/000000.dcm,{case}_{number}/1.3.6/1.3.8/000001.dcm"
    )


@pytest.fixture
def cbis(tmp_path) -> Path:
    folder = tmp_path / "cbis"
    rows = {
        "mass_case_description_train_set.csv": [
            cbis_row("Training", "P_1", "LEFT", 1, "mass", "MALIGNANT"),
            cbis_row("Training", "P_2", "LEFT", 1, "mass", "BENIGN"),
        ],
        "calc_case_description_train_set.csv": [
            cbis_row("Training", "P_1", "LEFT", 1, "calcification", "BENIGN_WITHOUT_CALLBACK")
        ],
        "mass_case_description_test_set.csv": [],
        "calc_case_description_test_set.csv": [
            cbis_row("Test", "P_2", "RIGHT", 1, "calcification", "BENIGN")
        ],
    }
    folder.mkdir()
    for name, lines in rows.items():
        density = "breast_density" if name.startswith("mass") else "breast density"
        (folder / name).write_text("\n".join([CBIS.format(density=density), *lines]) + "\n")
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[20:30, 5:15] = 255
    crop = np.arange(100, dtype=np.uint8).reshape(10, 10)
    for number, case in enumerate(
        ("Mass-Training_P_1_LEFT", "Calc-Training_P_1_LEFT", "Mass-Training_P_2_LEFT")
    ):
        write(folder / f"{case}_CC/08-07-2016/1.0-full/1-1.dcm", breast(number))
        # Mask and crop in either order.
        for at, pixels in enumerate((mask, crop) if number else (crop, mask), start=1):
            write(folder / f"{case}_CC_1/08-07-2016/1.0-ROI/1-{at}.dcm", pixels)
    write(folder / "Calc-Test_P_2_RIGHT_CC/a/b/1-1.dcm", breast(5, "R"), side="R")
    return folder


def test_cbis_ddsm(cbis, tmp_path):
    settings = CbisDdsmCohort(source=str(cbis), shards=1)
    images, findings, reader = build_and_convert(settings, cbis, tmp_path / "out")
    assert len(images) == 3
    one = images.loc[image_id("P_1_L_CC")]
    # A film in both tables is one image with the findings of both.
    assert one[["mass", "calcification", "density", "birads"]].tolist() == [1, 1, "C", 4]
    boxes = findings[findings["image_id"] == image_id("P_1_L_CC")]
    assert boxes[["concept", "xmin", "ymin", "xmax", "ymax"]].values.tolist() == [
        ["calcification", 5, 20, 15, 30],
        ["mass", 5, 20, 15, 30],
    ]
    assert reader.region_masks([image_id("P_1_L_CC")])[0, 0].sum() == 100
    # P_2 has one breast in the training part and the other in the test part.
    split = images["split"]
    assert split[image_id("P_2_L_CC")] == split[image_id("P_2_R_CC")] == "test"
    assert split[image_id("P_1_L_CC")] == "training"
    # The calcification without a mask is counted and gets no box.
    assert image_id("P_2_R_CC") not in set(findings["image_id"])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.kron([[0, 0, 0, 0], [0, 255, 255, 0]], np.ones((15, 5))), [10, 30, 30, 60]),
        (np.kron([[0, 0, 0, 0], [0, 255, 128, 0]], np.ones((30, 10))), [10, 30, 30, 60]),
    ],
    ids=["half the film's size", "a third value"],
)
def test_a_mask_of_another_size_or_with_a_third_value_gives_its_box(cbis, tmp_path, mask, expected):
    path = next((cbis / "Mass-Training_P_1_LEFT_CC_1").rglob("1-2.dcm"))
    write(path, mask.astype(np.uint8))
    path.with_name("._1-2.dcm").write_bytes(b"Mac OS X")
    film = next((cbis / "Mass-Training_P_1_LEFT_CC").rglob("1-1.dcm"))
    film.with_name("._1-1.dcm").write_bytes(b"Mac OS X")
    settings = CbisDdsmCohort(source=str(cbis), shards=1)
    _, findings, _ = build_and_convert(settings, cbis, tmp_path / "out")
    of_film = findings[findings["image_id"] == image_id("P_1_L_CC")].set_index("concept")
    assert of_film.loc["mass", ["xmin", "ymin", "xmax", "ymax"]].tolist() == expected


def test_a_changed_mask_of_cbis_changes_the_shard_of_its_patient(cbis):
    settings = CbisDdsmCohort(source=str(cbis), shards=1)
    before = archive_state(settings, [cbis]).shards
    mask = next((cbis / "Mass-Training_P_1_LEFT_CC_1").rglob("1-2.dcm"))
    write(mask, np.eye(ROWS, COLUMNS, dtype=np.uint8))
    assert archive_state(settings, [cbis]).shards != before


# INbreast

CONTOURS = """<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>Images</key><array><dict><key>ROIs</key><array>
<dict><key>Name</key><string>Mass</string><key>Point_px</key><array>
<string>(10.5, 20)</string><string>(18, 25)</string><string>(12, 31.25)</string></array></dict>
<dict><key>Name</key><string>Calcifications</string><key>Point_px</key><array>
<string>(5.000000, 30.000000)</string></array></dict>
</array></dict></array></dict></plist>
"""


@pytest.fixture
def inbreast(tmp_path) -> Path:
    folder = tmp_path / "inbreast"
    lines = ["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"]
    for number, (patient, side) in enumerate((("aa", "L"), ("aa", "R"), ("bb", "L"))):
        lines.append(f"removed;removed;{side};CC;201001;2000{number};2;4a")
        name = f"2000{number}_{patient}_MG_{side}_CC_ANON.dcm"
        write(folder / "AllDICOMs" / name, breast(number, side), side)
    (folder / "INbreast.csv").write_text("\n".join(lines) + "\n")
    (folder / "AllXML").mkdir()
    (folder / "AllXML" / "20000.xml").write_text(CONTOURS)
    return folder


def test_inbreast(inbreast, tmp_path):
    settings = InbreastCohort(source=str(inbreast), shards=1)
    images, findings, reader = build_and_convert(settings, inbreast, tmp_path / "out")
    assert images["patient_id"].nunique() == 2
    one = images.loc[image_id("20000")]
    assert one[["mass", "calcification", "density", "birads"]].tolist() == [1, 1, "B", 4]
    assert images.loc[image_id("20001"), "mass"] == 0
    assert findings[["concept", "xmin", "ymin", "xmax", "ymax"]].values.tolist() == [
        ["calcification", 5, 30, 6, 31],
        ["mass", 10.5, 20, 19, 32.25],
    ]
    assert reader.region_masks([image_id("20000")])[0].any(axis=(1, 2)).all()


# EMBED


@pytest.fixture
def embed(tmp_path) -> Path:
    folder = tmp_path / "embed"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables/EMBED_OpenData_clinical.csv").write_text(
        "empi_anon,acc_anon,side,asses,tissueden,age_at_study,massshape,calcfind,calcdistri,"
        "path_severity,numfind\n"
        "1,10,L,S,3.0,61.2,O,,,0.0,1\n"
        "1,10,R,N,3.0,61.2,,,,,2\n"
        "2,20,B,A,5.0,48.0,,K,,,1\n"
        "2,20,L,A,5.0,48.0,Q,,,,2\n"
    )
    rows = (
        '1,10,/mnt/NAS2/mammo/anon_dicom/cohort_1/1/10/a.dcm,L,CC,2D,,"((20, 5, 30, 15),)"',
        "1,10,/mnt/NAS2/mammo/anon_dicom/cohort_1/1/10/b.dcm,R,MLO,2D,0,()",
        "1,10,/mnt/NAS2/mammo/anon_dicom/cohort_1/1/10/c.dcm,L,CC,cview,,()",
        "1,10,/mnt/NAS2/mammo/anon_dicom/cohort_1/1/10/d.dcm,L,CC,2D,1,()",
        '2,20,/mnt/NAS2/mammo/anon_dicom/cohort_1/2/20/e.dcm,L,CC,2D,,"((1, 2, 3, 4),)"',
        "3,30,/mnt/NAS2/mammo/anon_dicom/cohort_1/3/30/f.dcm,R,CC,2D,,()",
    )
    (folder / "tables/EMBED_OpenData_metadata.csv").write_text(
        "empi_anon,acc_anon,anon_dicom_path,ImageLateralityFinal,ViewPosition,FinalImageType,"
        "spot_mag,ROI_coords\n" + "\n".join(rows) + "\n"
    )
    for number, (path, side, view) in enumerate(
        (
            ("1/10/a", "L", "CC"),
            ("1/10/b", "R", "MLO"),
            ("2/20/e", "L", "CC"),
            ("3/30/f", "R", "CC"),
        )
    ):
        write(folder / f"images/cohort_1/{path}.dcm", breast(number, side), side, view)
    return folder


TWO_NAMES = {"mass": "mass", "lesion": "mass"}


@pytest.mark.parametrize(
    ("column", "box", "orientation", "expected"),
    [
        ("ROI_coords", "((20, 5, 30, 15),)", None, [25, 20, 35, 30]),
        ("ROI_coords", "((20, 5, 30, 15),)", ["P", "L"], [25, 20, 35, 30]),
        ("ROI_coords", "((20, 5, 30, 15),)", ["A", "R"], [5, 20, 15, 30]),
        ("PNG_ROI_coords", "[[20, 5, 30, 15]]", ["P", "L"], [25, 20, 35, 30]),
        ("DCM_ROI_coords", "[[[20, 25, 30, 35]]]", ["P", "L"], [25, 20, 35, 30]),
        ("DCM_ROI_coords", "[[[2, 3, 2, 3]], [[20, 25, 30, 35]]]", None, [25, 20, 35, 30]),
    ],
)
def test_a_box_of_embed_lies_on_the_lesion_of_the_dicom_file(
    embed, tmp_path, column, box, orientation, expected
):
    """Older tables have pixels of the authors' PNG files, which mirror right breasts."""
    for name, old, new in (
        (CLINICAL, "1,10,R,N,3.0,61.2,", "1,10,R,S,3.0,61.2,O"),
        (METADATA, "R,MLO,2D,0,()", f'R,MLO,2D,0,"{box}"'),
        (METADATA, "ROI_coords", column),
    ):
        path = embed / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    name = "images/cohort_1/1/10/b.dcm"
    pixels = breast(1, "R") // 4
    pixels[20:30, 25:35] = 60000
    write(embed / name, pixels, "R", "MLO")
    if orientation:
        dataset = pydicom.dcmread(embed / name)
        dataset.PatientOrientation = orientation
        dataset.save_as(embed / name)
        if orientation[0] == "A":
            pixels[20:30, 25:35], pixels[20:30, 5:15] = 9000, 60000
    settings = EmbedCohort(source=str(embed), shards=1, concepts={"mass": "mass"})
    _, findings, reader = build_and_convert(settings, embed, tmp_path / "out")
    found = findings.set_index("image_id").loc[[image_id(name)]]
    assert found[["xmin", "ymin", "xmax", "ymax"]].values.tolist() == [expected]
    shown = reader.pixels([image_id(name)])[0]
    inside = reader.region_masks([image_id(name)])[0, 0]
    if orientation is None or orientation[0] == "P":
        assert shown[inside].min() > shown[~inside].max()
    counts = read_json(tmp_path / "out" / "summary.json")["counts"]
    assert counts["boxes_without_area"] == int("2, 3, 2, 3" in box)


@pytest.mark.parametrize("name", ["vindr", "cbis", "inbreast", "embed", "own"])
def test_two_concepts_of_one_category_both_have_its_boxes_and_masks(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    category = {"vindr": "Mass", "inbreast": "Mass"}.get(name, "mass")
    names = dict.fromkeys(TWO_NAMES, category)
    settings = SETTINGS[name](folder).model_copy(update={"concepts": names})
    images, findings, reader = build_and_convert(settings, folder, tmp_path / "out")
    boxes = {
        concept: findings[findings["concept"] == concept].drop(columns="concept").values.tolist()
        for concept in TWO_NAMES
    }
    assert boxes["mass"] == boxes["lesion"] != []
    assert images["mass"].tolist() == images["lesion"].tolist()
    masks = reader.region_masks()
    first, second = (reader.regions.index(concept) for concept in TWO_NAMES)
    assert masks[:, first].any()
    assert (masks[:, first] == masks[:, second]).all()


@pytest.mark.parametrize("name", ["vindr", "cbis", "inbreast", "embed", "own"])
def test_another_name_for_a_concept_changes_no_image_and_no_mask(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    settings = SETTINGS[name](folder)
    before = {"mass": settings.concepts["mass"]}
    masks, slices = [], []
    for concepts in (before, {"tumour": before["mass"]}):
        renamed = settings.model_copy(update={"concepts": concepts})
        *_, reader = build_and_convert(renamed, folder, tmp_path / next(iter(concepts)))
        masks.append(reader.region_masks()[:, reader.regions.index(next(iter(concepts)))])
        slices.append((archive_state(renamed, [folder]), reader.pixels().tobytes()))
    assert masks[0].any()
    assert (masks[0] == masks[1]).all()
    assert slices[0] == slices[1]


def test_embed(embed, tmp_path):
    concepts = {"mass": "mass", "calcification": "calcification", "distortion": "distortion"}
    settings = EmbedCohort(source=str(embed), shards=1, concepts=concepts)
    images, findings, reader = build_and_convert(settings, embed, tmp_path / "out")
    names = [f"images/cohort_1/{n}.dcm" for n in ("1/10/a", "1/10/b", "2/20/e", "3/30/f")]
    assert len(images) == len(names)
    a, b, e, f = (images.loc[image_id(name)] for name in names)
    assert a[["mass", "calcification", "birads", "density", "age_bin"]].tolist() == [
        1, 0, 4, "C", "60-69",
    ]  # fmt: skip
    assert b[["mass", "birads", "view"]].tolist() == [0, 1, "MLO"]
    # A finding of side B is in both breasts; density 5 means a male breast.
    assert e[["mass", "calcification", "distortion"]].tolist() == [0, 1, 1]
    assert pd.isna(e["density"])
    # An exam without a row in the clinical table is unknown, not healthy.
    assert pd.isna(f["mass"])
    # [ymin, xmin, ymax, xmax]; exam e has two findings, so the finding of the box is unknown.
    assert findings[["image_id", "concept", "xmin", "ymin", "xmax", "ymax"]].values.tolist() == [
        [image_id(names[0]), "mass", 5, 20, 15, 30]
    ]
    assert reader.region_masks([image_id(names[0])])[0, 0].sum() == 100


# CMMD


@pytest.fixture
def cmmd(tmp_path) -> Path:
    folder = tmp_path / "cmmd"
    folder.mkdir()
    (folder / "CMMD_clinicaldata_revision.csv").write_text(
        "ID1,LeftRight,Age,number,abnormality,classification,subtype\n"
        "D1-0001,R,44,2,both,Malignant,\n"
        "D2-0002,L,51,2,mass,Benign,Luminal A\n"
    )
    for number, (patient, side, view) in enumerate(
        (("D1-0001", "L", "CC"), ("D1-0001", "R", "MLO"), ("D2-0002", "L", "CC"))
    ):
        path = folder / "CMMD" / patient / "07-18-2010" / "1.0-70244" / f"1-{number}.dcm"
        write(path, breast(number, side), side, view)
    write(path.with_name("1-9.dcm"), breast(9), "L", None)
    return folder


def test_cmmd(cmmd, tmp_path):
    settings = CmmdCohort(source=str(cmmd), shards=1)
    images, findings, _ = build_and_convert(settings, cmmd, tmp_path / "out")
    assert findings.empty
    assert len(images) == 3  # one file has no view
    assert images["view"].value_counts().to_dict() == {"CC": 2, "MLO": 1}
    images = images.set_index(["side", "view", "age_bin"])
    assert images.loc[("R", "MLO", "40-49"), ["mass", "calcification"]].tolist() == [1, 1]
    assert images.loc[("L", "CC", "50-59"), ["mass", "calcification"]].tolist() == [1, 0]
    # The other breast is unknown.
    assert images.loc[("L", "CC", "40-49"), ["mass", "calcification"]].isna().all()


def test_a_patient_of_cmmd_without_files_is_counted(cmmd, tmp_path):
    path = cmmd / "CMMD_clinicaldata_revision.csv"
    path.write_text(path.read_text().replace("D2-0002", "D2-0009"))
    build_and_convert(CmmdCohort(source=str(cmmd), shards=1), cmmd, tmp_path / "out")
    counts = read_json(tmp_path / "out" / "summary.json")["counts"]
    assert counts["patients_without_images"] == 1


# VinDr-Mammo


@pytest.fixture
def vindr(tmp_path) -> Path:
    folder = tmp_path / "vindr"
    images = [("s1", "i1", "L", "CC"), ("s1", "i2", "L", "MLO"), ("s2", "i3", "R", "CC")]
    breasts = [
        "study_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split"
    ]
    for number, (study, image, side, view) in enumerate(images):
        write(folder / "images" / study / f"{image}.dicom", breast(number, side), side, view)
        breasts.append(f"{study},{image},{side},{view},60,40,BI-RADS 4,DENSITY B,training")
    (folder / "breast-level_annotations.csv").write_text("\n".join(breasts) + "\n")
    (folder / "finding_annotations.csv").write_text(
        "image_id,finding_categories,xmin,ymin,xmax,ymax\n"
        "i1,\"['Mass', 'Suspicious Calcification']\",5,20,15,30\n"
        "i2,['No Finding'],,,,\n"
        "i3,['Mass'],30.5,-2,55,20\n"
    )
    (folder / "metadata.csv").write_text(
        "SOP Instance UID,Patient's Age,Manufacturer\ni1,053Y,ACME\ni2,053Y,ACME\ni3,,Other\n"
    )
    return folder


def test_vindr(vindr, tmp_path):
    settings = VindrCohort(source=str(vindr), shards=1)
    images, findings, reader = build_and_convert(settings, vindr, tmp_path / "out")
    assert images["patient_id"].nunique() == 2
    one = images.loc[image_id("i1")]
    assert one[["mass", "suspicious_calcification", "density"]].tolist() == [1, 1, "B"]
    boxes = findings.set_index("image_id").loc[image_id("i3"), ["xmin", "ymin", "xmax", "ymax"]]
    assert boxes.tolist() == [30.5, 0, 40, 20]
    # The right breast is mirrored, and its box with it.
    columns = np.flatnonzero(reader.region_masks([image_id("i3")])[0, 0].any(axis=0))
    assert (columns[0], columns[-1]) == (0, 9)


# RSNA


@pytest.fixture
def rsna(tmp_path) -> Path:
    folder = tmp_path / "rsna"
    lines = [
        "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,"
        "density,machine_id,difficult_negative_case"
    ]
    for number, (patient, side, view) in enumerate(
        ((7, "L", "CC"), (7, "R", "MLO"), (8, "L", "CC"), (8, "L", "AT"))
    ):
        site, density = (1, "C") if patient == 7 else (2, "")
        ids, rest = f"{site},{patient},{number}", f"0,0,1.0,0,{density},49,False"
        lines.append(f"{ids},{side},{view},61.0,{patient - 7},{rest}")
        write(folder / "train_images" / str(patient) / f"{number}.dcm", breast(number, side), side)
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_rsna(rsna, tmp_path):
    settings = RsnaCohort(source=str(rsna), shards=1, validation_share=0.3)
    images, findings, _ = build_and_convert(settings, rsna, tmp_path / "out")
    assert findings.empty
    assert sorted(images["view"]) == ["CC", "CC", "MLO"]
    # Site and implant are columns by default, as candidate confounders.
    images = images.sort_values(["site", "view"])
    assert images["site"].tolist() == [1, 1, 2]
    assert images["implant"].tolist() == [0, 0, 0]
    assert images["cancer"].tolist() == [0, 0, 1]
    assert images["density"].isna().tolist() == [False, False, True]


# A table of your own


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    for number, (name, side) in enumerate((("a/1.dcm", "L"), ("b/1.dcm", "R"))):
        write(folder / name, breast(number, side), side)
    (folder / "images.csv").write_text(
        "file,patient_id,split,view,side,mass,density,scanner\n"
        "a/1.dcm,a,training,CC,L,1,B,north\nb/1.dcm,b,test,CC,R,0,,south\n"
    )
    (folder / "findings.csv").write_text(
        "file,finding,xmin,ymin,xmax,ymax\na/1.dcm,mass,5,20,15,30\na/1.dcm,mass,-3,50,4,70\n"
        "a/1.dcm,mass,41,0,44,4\n"
    )
    (folder / "key").write_text("an unguessable secret")
    return folder


def own_settings(folder: Path) -> TableCohort:
    return TableCohort(
        source=str(folder), key_file=str(folder / "key"), shards=1, concepts={"mass": "mass"}
    )


def test_a_table_of_your_own(own, tmp_path):
    images, findings, reader = build_and_convert(own_settings(own), own, tmp_path / "out")
    pseudonym = load_pseudonyms(str(own / "key")).image("a/1.dcm")
    assert images.loc[pseudonym, ["mass", "density", "age_bin"]].tolist() == [1, "B", "60-69"]
    assert sorted(findings["xmax"]) == [4, 15]
    assert reader.region_masks([pseudonym])[0, 0].sum() == 100 + 4 * 10


# All of them

SETTINGS = {
    "vindr": lambda folder: VindrCohort(source=str(folder), shards=1),
    "rsna": lambda folder: RsnaCohort(source=str(folder), shards=1),
    "cbis": lambda folder: CbisDdsmCohort(source=str(folder), shards=1),
    "inbreast": lambda folder: InbreastCohort(source=str(folder), shards=1),
    "embed": lambda folder: EmbedCohort(source=str(folder), shards=1),
    "cmmd": lambda folder: CmmdCohort(source=str(folder), shards=1),
    "own": own_settings,
}
CLINICAL = "tables/EMBED_OpenData_clinical.csv"
METADATA = "tables/EMBED_OpenData_metadata.csv"
MASSES = "mass_case_description_train_set.csv"
BREASTS = "CMMD_clinicaldata_revision.csv"
MALFORMED = [
    ("vindr", "finding_annotations.csv", ",5,20", ",5,inf", r"line 2, column 'ymin' is 'inf'"),
    (
        "vindr",
        "finding_annotations.csv",
        "['Mass'],",
        "[['Mass']],",
        r"line 4, .*'finding_cat",
    ),
    ("vindr", "breast-level_annotations.csv", "60,40", "60,4O", r"line 2, column 'width' is '4O'"),
    ("vindr", "metadata.csv", "053Y", "old", r"line 2, column \"Patient's Age\" is malformed"),
    ("rsna", "train.csv", "7,1,R", "7,1,B", r"line 3, column 'laterality' is 'B'"),
    ("rsna", "train.csv", "61.0,1", "61.0,yes", r"line 4, column 'cancer' is 'yes'"),
    ("rsna", "train.csv", "61.0", "inf", r"line 2, column 'age' is malformed"),
    ("rsna", "train.csv", "1.0,0,C", "7.0,0,C", r"line 2, column 'BIRADS' is '7.0'"),
    ("rsna", "train.csv", "0,C,", "0,E,", r"line 2, column 'density' is 'E'"),
    ("rsna", "train.csv", "2,8,2", "2,,2", r"line 4, column 'patient_id' is empty"),
    ("cbis", MASSES, "LEFT,CC", "left,CC", r"line 2, column 'left or right breast' is 'left'"),
    ("cbis", MASSES, "P_2,3,LEFT,CC", "P_2,3,LEFT,ML", r"line 3, column 'image view' is 'ML'"),
    ("cbis", MASSES, ",3,", ",5,", r"line 2, column 'breast_density' is '5'"),
    ("cbis", MASSES, "mass,4", "mass,7", r"line 2, column 'assessment' is '7'"),
    ("cbis", MASSES, "mass,4", "lump,4", r"line 2, column 'abnormality type' is 'lump'"),
    ("cbis", MASSES, "4,BENIGN", "4,MAYBE", r"line 3, column 'pathology' is 'MAYBE'"),
    ("cbis", MASSES, ",Mass-Tr", ",/Mass-Tr", r"line 2, column 'image file path' must be a path"),
    ("inbreast", "INbreast.csv", ";2;4a", ";2;9", r"line 2, column 'Bi-Rads' is '9'"),
    ("inbreast", "INbreast.csv", ";R;CC", ";R;XX", r"line 3, column 'View' is 'XX'"),
    ("inbreast", "INbreast.csv", "20001;", "20009;", r"line 3, column 'File Name' has 0 images"),
    ("inbreast", "AllXML/20000.xml", "(18, 25)", "(18 25)", r"line 2, .* are malformed: contour 1"),
    ("inbreast", "AllXML/20000.xml", "<dict>", "", r"line 2, .* can't be read as a list"),
    ("embed", CLINICAL, "L,S,3.0", "Q,S,3.0", r"line 2, column 'side' is 'Q'"),
    ("embed", CLINICAL, "L,S,3.0", "L,SS,3.0", r"line 2, column 'asses' is 'SS'"),
    ("embed", CLINICAL, "S,3.0", "S,9.0", r"line 2, column 'tissueden' is '9.0'"),
    ("embed", CLINICAL, "61.2,O", "inf,O", r"line 2, column 'age_at_study' is malformed"),
    ("embed", CLINICAL, "O,,,0.0", "O,,,x", r"line 2, column 'path_severity' is 'x'"),
    ("embed", METADATA, "((20, 5, 30, 15),)", "5", r"line 2, column 'ROI_coords' is '5'"),
    ("embed", METADATA, "/mnt/NAS2/mammo/anon_dicom/", "../", r"line 2, .*'anon_dicom_path' must"),
    ("cmmd", BREASTS, ",R,44", ",B,44", r"line 2, column 'LeftRight' is 'B'"),
    ("cmmd", BREASTS, ",44,", ",old,", r"line 2, column 'Age' is malformed"),
    ("cmmd", BREASTS, "mass,Benign", "lump,Benign", r"line 3, column 'abnormality' is 'lump'"),
    ("cmmd", BREASTS, "mass,Benign", "mass,Bad", r"line 3, column 'classification' is 'Bad'"),
    ("own", "images.csv", "CC,L,1", "CC,L,yes", r"line 2, column 'mass' is 'yes'"),
    ("own", "images.csv", "b/1.dcm", "/b/1.dcm", r"line 3, column 'file' must be a path inside"),
    ("own", "findings.csv", "-3,50", "nan,50", r"line 3, column 'xmin' is empty"),
    ("own", "findings.csv", "-3,50", "inf,50", r"line 3, column 'xmin' is 'inf'"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), MALFORMED)
def test_a_malformed_row_is_named_and_takes_no_other_with_it(
    request, tmp_path, name, file, old, new, message
):
    folder = request.getfixturevalue(name)
    settings = SETTINGS[name](folder)
    before = cohort_of(settings, folder, tmp_path / "before")
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    after, _, _ = build_and_convert(settings, folder, tmp_path / "out")
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["counts"]["malformed_rows"] == len(summary["malformed_rows"])
    said = [str(LeftOut(**row)) for row in summary["malformed_rows"]]
    table = "INbreast.csv" if file.endswith(".xml") else file
    assert any(re.search(rf"^{re.escape(table)}: {message}", row) for row in said), said
    assert str(folder) not in "".join(said)
    assert len(before) - 1 <= len(after) <= len(before)
    for image, row in after.drop(columns=["split"]).iterrows():
        for column, value in row.items():
            # Only values that the files lack become unknown; nothing else differs.
            assert pd.isna(value) or value == before.loc[image, column], (image, column)
    changed = [image for image in after.index if not after.loc[image].equals(before.loc[image])]
    assert len(changed) <= (2 if name in {"cmmd", "embed"} else 1)


def cohort_of(settings, folder: Path, out: Path) -> pd.DataFrame:
    run_cohort(settings, folder, out)
    tables = out / "images.parquet", out / "findings.parquet"
    return read_table(tables[0]).set_index("image_id")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("vindr", (3, 1, 0)),
        ("own", (2, 1, 1)),
        ("inbreast", (2, 1, 0)),
        ("embed", (1, 1, 0)),
    ],
)
def test_boxes_beyond_their_image_are_clipped_and_counted(request, tmp_path, name, counts):
    folder = request.getfixturevalue(name)
    if name == "inbreast":
        path = folder / "AllXML/20000.xml"
        path.write_text(path.read_text().replace("(18, 25)", "(48, 25)"))
    if name == "embed":
        path = folder / METADATA
        path.write_text(path.read_text().replace("((20, 5, 30, 15),)", "((20, -5, 30, 15),)"))
    _, findings, _ = build_and_convert(SETTINGS[name](folder), folder, tmp_path / "out")
    found = read_json(tmp_path / "out" / "summary.json")["counts"]
    names = ("boxes", "boxes_clipped", "boxes_outside_dropped")
    assert tuple(found[name] for name in names) == counts
    assert len(findings) == counts[0]
    assert findings[["xmin", "ymin"]].min().min() >= 0
    assert findings["xmax"].max() <= COLUMNS
    assert findings["ymax"].max() <= ROWS


AWKWARD = (
    *("nan", "inf", "-inf", "-1", "1e999", "0x10", "9999999999999999999", "0.0", "1.5"),
    *("[]", "[[]]", "(1,)", "((1,2,3),)", "{}", "['Mass']", "[1]", "''"),
    *("None", "True", "A", "B", "L", "R", "CC", "../x", "/", "."),
)
CELLS = st.one_of(
    st.text(max_size=12).filter(lambda text: not set(text) & set('"\r\n\0,;')),
    st.sampled_from(AWKWARD),
)


@pytest.mark.parametrize("name", SETTINGS)
def test_any_text_in_any_cell_is_taken_or_refused_by_file_row_and_column(
    request, tmp_path_factory, name
):
    folder = request.getfixturevalue(name)
    settings = SETTINGS[name](folder)
    separator = ";" if name == "inbreast" else ","
    tables = {
        path: list(csv.reader(path.open(newline=""), delimiter=separator))
        for path in sorted(folder.rglob("*.csv"))
    }

    @given(data=st.data(), text=CELLS)
    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    def check(data, text):
        path = data.draw(st.sampled_from([p for p, rows in tables.items() if len(rows) > 1]))
        rows = [list(row) for row in tables[path]]
        row = data.draw(st.integers(1, len(rows) - 1))
        rows[row][data.draw(st.integers(0, len(rows[row]) - 1))] = text
        with path.open("w", newline="") as stream:
            csv.writer(stream, delimiter=separator).writerows(rows)
        try:
            run_cohort(settings, folder, tmp_path_factory.mktemp("out"))
        except InputError as error:
            assert path.name in str(error) or str(error).startswith(("images table: ", "image "))
        finally:
            with path.open("w", newline="") as stream:
                csv.writer(stream, delimiter=separator).writerows(tables[path])

    check()


@pytest.mark.parametrize("kind", [CbisDdsmCohort, EmbedCohort, CmmdCohort])
def test_an_unknown_category_is_refused(kind, tmp_path):
    settings = kind(source=str(tmp_path), concepts={"lump": "Lump"})
    with pytest.raises(InputError, match=r"concepts: 'Lump' is not one of mass"):
        build.run(settings, [tmp_path], *(tmp_path / n for n in ("a.parquet", "b.parquet", "s")))


@pytest.mark.parametrize("name", ["cbis", "embed", "cmmd"])
def test_every_category_that_the_message_names_is_taken(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    settings = SETTINGS[name](folder)
    count = len(cohort_of(settings, folder, tmp_path / "before"))
    with pytest.raises(InputError) as refused:
        run_cohort(settings.model_copy(update={"concepts": {"c": "Lump"}}), folder, tmp_path / "a")
    categories = str(refused.value).partition("is not one of ")[2].split(", ")
    assert len(categories) > 2
    for category in categories:
        own = settings.model_copy(update={"concepts": {"c": category}})
        labels = cohort_of(own, folder, tmp_path / category)["c"]
        assert len(labels) == count
        assert set(labels.dropna()) <= {0, 1}


def test_images_are_read_where_the_source_is_corrected(own, tmp_path):
    settings = SETTINGS["own"](own)
    count = len(cohort_of(settings, own, tmp_path / "before"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for table in own.glob("*.csv"):
        shutil.copy(table, elsewhere)
    wrong = settings.model_copy(update={"source": str(elsewhere)})
    with pytest.raises(InputError, match=r"can be read in .*elsewhere; .*correct cohort\.source"):
        run_cohort(wrong, elsewhere, tmp_path / "wrong")
    right = wrong.model_copy(update={"source": str(own)})
    assert len(cohort_of(right, own, tmp_path / "right")) == count


def as_png(folder: Path) -> None:
    """Replace every DICOM file by a 16-bit PNG, and change its name in the table."""
    for path in [*folder.rglob("*.dcm"), *folder.rglob("*.dicom")]:
        pixels = pydicom.dcmread(path).pixel_array
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        path.unlink()
    for name in ("images.csv", "findings.csv"):
        if (folder / name).is_file():
            text = (folder / name).read_text().replace(".dcm", ".png")
            (folder / name).write_text(text)


@pytest.mark.parametrize("name", ["vindr", "rsna", "cbis", "inbreast", "embed", "own"])
def test_a_dataset_is_the_same_as_png(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    settings = SETTINGS[name](folder)
    images, findings, reader = build_and_convert(settings, folder, tmp_path / "dicom")
    before, strays = archive_state(settings, [folder]), Sources(settings.kind, [folder]).strays()
    as_png(folder)
    assert archive_state(settings, [folder]) != before
    again, boxes, png = build_and_convert(settings, folder, tmp_path / "png")
    assert len(Sources(settings.kind, [folder]).strays()) == len(strays)
    assert set(png.facts(png.image_ids)["transfer_syntax"]) == {"PNG"}
    if name in {"embed", "own"}:  # where the file's name is the image's id
        assert len(again) == len(images)
        assert sorted(boxes["xmin"]) == sorted(findings["xmin"])
        return
    columns = ["patient_id", "split", "view", "side", *settings.concepts, "rows", "columns"]
    pd.testing.assert_frame_equal(again[columns], images[columns])
    pd.testing.assert_frame_equal(boxes, findings)
    ids = reader.image_ids
    np.testing.assert_array_equal(png.pixels(ids), reader.pixels(ids))
    np.testing.assert_array_equal(png.region_masks(ids), reader.region_masks(ids))


def test_the_copy_of_cbis_ddsm_as_jpeg_is_read(cbis, tmp_path):
    settings = CbisDdsmCohort(source=str(cbis), shards=1)
    images, findings, _ = build_and_convert(settings, cbis, tmp_path / "dicom")
    copy = tmp_path / "copy"
    (copy / "csv").mkdir(parents=True)
    uids: dict[str, str] = {}
    for table in cbis.glob("*.csv"):
        # The number of the series is the third part of the tables' paths.
        lines = table.read_text().splitlines()
        for case in sorted({path.name for path in cbis.iterdir() if path.is_dir()}, key=len):
            uids.setdefault(case, f"1.3.6.{len(uids)}")
            lines = [
                re.sub(rf"(?<=,){case}/[^/,]*/[^/,]*/", f"{case}/1.2/{uids[case]}/", line)
                for line in lines
            ]
        (copy / "csv" / table.name).write_text("\n".join(lines) + "\n")
    for path in cbis.rglob("*.dcm"):
        pixels = pydicom.dcmread(path).pixel_array
        target = copy / "jpeg" / uids[path.relative_to(cbis).parts[0]] / f"{path.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        Image.fromarray(eight).save(target, quality=95)
    again, boxes, _ = build_and_convert(settings, copy, tmp_path / "jpeg")
    columns = ["patient_id", "split", "view", "side", *settings.concepts, "rows", "columns"]
    pd.testing.assert_frame_equal(again[columns], images[columns])
    pd.testing.assert_frame_equal(boxes, findings)
    assert len(boxes) == 3


@pytest.mark.parametrize(
    "place",
    ["train_images_png/{0}/{1}.png", "train_images_512/{0}_{1}.png", "{0}/{1}.png", "{0}_{1}.jpg"],
)
def test_rsna_is_read_from_where_copies_have_its_files(rsna, tmp_path, place):
    settings = RsnaCohort(source=str(rsna), shards=1)
    expected = build_and_convert(settings, rsna, tmp_path / "dicom")[0]
    for path in (rsna / "train_images").rglob("*.dcm"):
        pixels = pydicom.dcmread(path).pixel_array
        target = rsna / place.format(path.parent.name, path.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels >> 8).astype(np.uint8)).save(target)
    shutil.rmtree(rsna / "train_images")
    found = build_and_convert(settings, rsna, tmp_path / "copy")[0]
    columns = ["patient_id", "split", "view", "side", "cancer", "rows", "columns"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])


def test_the_folds_of_mammo_clips_table_of_rsna_are_its_split(rsna, tmp_path):
    lines = (rsna / "train.csv").read_text().splitlines()
    folds = ["fold", *("0" if line.split(",")[1] == "8" else "2" for line in lines[1:])]
    (rsna / "train_folds.csv").write_text(
        "".join(f"{line},{fold}\n" for line, fold in zip(lines, folds, strict=True))
    )
    (rsna / "train.csv").unlink()
    settings = RsnaCohort(source=str(rsna), shards=1, test_share=0.9)
    images, _, _ = build_and_convert(settings, rsna, tmp_path / "out")
    assert images.set_index("site")["split"].to_dict() == {1: "training", 2: "test"}


@pytest.mark.parametrize("name", ["rsna", "cbis", "embed", "own"])
def test_the_error_about_missing_images_names_the_expected_places(request, tmp_path, name):
    folder = request.getfixturevalue(name)
    for path in folder.rglob("*.dcm"):
        path.unlink()
    where = re.escape(reader_class(SETTINGS[name](folder).kind).pattern)
    sentence = rf"none of the \d+ images that the tables name can be read .*{where}.*PNG"
    with pytest.raises(InputError, match=sentence):
        run_cohort(SETTINGS[name](folder), folder, tmp_path)
    with pytest.raises(InputError, match=sentence):
        check_tables(SETTINGS[name](folder), [folder], "state", tmp_path / "kept")
