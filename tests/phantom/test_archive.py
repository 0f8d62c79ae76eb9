from __future__ import annotations

import ast
import filecmp
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from mammo_sae.errors import InputError
from mammo_sae.phantom import archive
from mammo_sae.phantom.header import dicom_dataset
from mammo_sae.phantom.image import BIT_PLANES, render
from mammo_sae.phantom.plan import plan_patient, switched
from mammo_sae.phantom.settings import PatientCounts, PhantomPartSettings, PhantomSettings
from mammo_sae.phantom.vendors import VENDORS
from mammo_sae.stores.publish import open_store, verify_store

BREAST_COLUMNS = [
    *("study_id", "series_id", "image_id", "laterality", "view_position", "height", "width"),
    *("breast_birads", "breast_density", "split"),
]
FINDING_COLUMNS = [
    *BREAST_COLUMNS[:-1],
    *("finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax", "split"),
]


def _write(settings: PhantomPartSettings, folder: Path, **options) -> Path:
    manifest = folder / f"{settings.part}.json"
    archive.run(settings, folder / settings.part, manifest, **options)
    return folder / settings.part


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory, training) -> Path:
    return _write(training, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def breasts(written) -> pd.DataFrame:
    return pd.read_csv(written / "breast-level_annotations.csv")


def _shown(data: pydicom.Dataset) -> np.ndarray:
    """Return a viewer's display, 0 to 1, by PS3.3 C.11.2.1.2.1 (first window) and C.11.6."""
    centres, widths = data["WindowCenter"], data["WindowWidth"]
    centre = centres.value[0] if centres.VM > 1 else centres.value
    width = widths.value[0] if widths.VM > 1 else widths.value
    values = data.pixel_array.astype(np.float64)
    shown = ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    return 1 - shown if data.PresentationLUTShape == "INVERSE" else shown


def test_the_archive_is_a_store_that_verifies(written, training):
    manifest = written.parent / "training.json"
    assert open_store(manifest, kind="archive").path == written
    assert verify_store(manifest) == []
    assert len(list(written.glob("images/*/*.dicom"))) == 2 * training.patients


def test_tables_have_the_columns_of_vindr_mammo(written, breasts, training):
    findings = pd.read_csv(written / "finding_annotations.csv")
    metadata = pd.read_csv(written / "metadata.csv")
    assert list(breasts.columns) == BREAST_COLUMNS
    assert list(findings.columns) == FINDING_COLUMNS
    assert len(breasts) == 2 * training.patients
    assert set(breasts["split"]) == {"training"}
    assert breasts["breast_birads"].str.fullmatch("BI-RADS [1-5]").all()
    assert breasts["breast_density"].str.fullmatch("DENSITY [A-D]").all()
    assert breasts["image_id"].str.fullmatch("[0-9a-f]{32}").all()
    assert set(findings["image_id"]) == set(breasts["image_id"])
    assert list(metadata["SOP Instance UID"]) == list(breasts["image_id"])
    assert metadata["Patient's Age"].str.fullmatch(r"\d{3}Y").all()


def test_boxes_bound_the_masks_and_other_images_have_no_finding(written, breasts):
    findings = pd.read_csv(written / "finding_annotations.csv")
    names = {"Mass": "mass", "Suspicious Calcification": "suspicious_calcification"}
    seen = set()
    for image, rows in findings.groupby("image_id"):
        planes = np.asarray(Image.open(written / "masks" / f"{image}.png"))
        found = set()
        for row in rows.itertuples():
            (category,) = ast.literal_eval(row.finding_categories)
            if category == "No Finding":
                assert np.isnan([row.xmin, row.ymin, row.xmax, row.ymax]).all()
                assert isinstance(row.finding_birads, float)
                continue
            y, x = np.nonzero(planes >> BIT_PLANES[names[category]] & 1)
            assert (row.xmin, row.ymin) == (x.min(), y.min())
            assert (row.xmax, row.ymax) == (x.max() + 1, y.max() + 1)
            found.add(names[category])
        drawn = {name for name in names.values() if (planes >> BIT_PLANES[name] & 1).any()}
        assert found == drawn
        seen |= found
    assert seen == set(names.values())
    assert set(findings["image_id"]) == set(breasts["image_id"])


def test_truth_lists_the_planted_confounders(written, training):
    truth = pd.read_csv(written / "truth.csv", keep_default_na=False).set_index("image_id")
    breasts = pd.read_csv(written / "breast-level_annotations.csv").set_index("image_id")
    row = 0
    for number in range(training.patients):
        patient = plan_patient(training, number)
        for view in ("CC", "MLO"):
            image, planted = truth.index[row], truth.iloc[row]
            row += 1
            assert breasts.loc[image, "view_position"] == view
            for name in ("marker", "vendor", "paddle"):
                assert planted[name] == (name in patient.artefacts)
            assert planted["mass"] == (patient.mass is not None)
            assert planted["mass_kind"] == (patient.mass.kind if patient.mass else "")
            assert planted["n_specks"] == (patient.cluster.specks if patient.cluster else 0)
            assert planted["density"] == patient.density
            planes = np.asarray(Image.open(written / "masks" / f"{image}.png"))
            for name in ("marker", "paddle"):
                assert (planes >> BIT_PLANES[name] & 1).any() == planted[name]
    described = json.loads((written / "truth.json").read_text())
    assert described["concept"] == "mass"
    assert described["bit_planes"] == {
        name: BIT_PLANES[name] for name in ("mass", "suspicious_calcification", "marker", "paddle")
    }
    assert described["confounders"]["marker"]["odds_ratio"] == 8
    assert described["settings"]["seed"] == training.seed


def test_files_read_back_as_the_image_that_was_drawn(written, breasts, training):
    row = 0
    for number in range(training.patients):
        patient = plan_patient(training, number)
        for view in ("CC", "MLO"):
            entry = breasts.iloc[row]
            row += 1
            image = render(training, patient, patient.sides[0], view)
            data = pydicom.dcmread(
                written / "images" / entry["study_id"] / f"{entry['image_id']}.dicom"
            )
            assert np.array_equal(data.pixel_array, image.stored)
            assert (data.ImageLaterality, data.ViewPosition) == (patient.sides[0], view)
            assert data.PatientAge == f"{patient.age:03d}Y"
            planes = Image.open(written / "masks" / f"{entry['image_id']}.png")
            assert np.array_equal(np.asarray(planes), image.bit_planes)


def test_both_vendors_files_show_the_display_that_was_drawn(written, breasts, training):
    seen = set()
    for number in range(training.patients):
        patient = plan_patient(training, number)
        entry = breasts.iloc[2 * number]
        image = render(training, patient, patient.sides[0], "CC")
        data = pydicom.dcmread(
            written / "images" / entry["study_id"] / f"{entry['image_id']}.dicom"
        )
        assert np.abs(_shown(data) - image.display).max() < 1e-3
        seen.add((data.Manufacturer, data.PhotometricInterpretation, data.PresentationLUTShape))
    assert seen == {
        ("Aldermoor Imaging", "MONOCHROME2", "IDENTITY"),
        ("Brightwater Medical", "MONOCHROME1", "INVERSE"),
    }


def test_vendors_agree_on_the_same_breast_once_their_look_up_tables_are_undone(training, afflicted):
    quiet = training.model_copy(update={"noise": 0.0})
    patient = afflicted(quiet)
    linear = []
    for drawn in (patient, switched(quiet, patient, "vendor")):
        image = render(quiet, drawn, patient.sides[0], "CC")
        data = dicom_dataset(quiet, patient, patient.sides[0], "CC", image)
        linear.append(_shown(data) ** (1 / image.vendor.gamma))
    assert np.abs(linear[0] - linear[1]).max() < 2e-3


def test_headers_have_all_required_elements_of_a_presentation_mammogram(written, training):
    fixed = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "PositionerType": "MAMMOGRAPHIC",
        "OrganExposed": "BREAST",
        "BodyPartExamined": "BREAST",
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "PixelRepresentation": 0,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "VOILUTFunction": "LINEAR",
        "LossyImageCompression": "00",
    }
    codes = {"CC": "399162004", "MLO": "399368009"}
    instances, studies = set(), {}
    for path in written.glob("images/*/*.dicom"):
        data = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword, value in fixed.items():
            assert data[keyword].value == value, keyword
        assert data.ViewCodeSequence[0].CodeValue == codes[data.ViewPosition]
        assert data.ViewCodeSequence[0].CodingSchemeDesignator == "SCT"
        assert data.AnatomicRegionSequence[0].CodeValue == "76752008"
        assert len(data.AcquisitionContextSequence) == 0
        assert data.HighBit == data.BitsStored - 1
        assert data.PatientOrientation[0] == {"L": "A", "R": "P"}[data.ImageLaterality]
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        magnification = float(data.EstimatedRadiographicMagnificationFactor)
        assert data.PixelSpacing[0] * magnification == pytest.approx(
            data.ImagerPixelSpacing[0], rel=1e-5
        )
        born, taken = int(data.PatientBirthDate), int(data.StudyDate)
        assert (taken - born) // 10_000 == int(data.PatientAge[:3])
        assert data.PatientName.family_name
        instances.add(data.SOPInstanceUID)
        studies.setdefault(path.parent.name, set()).add(
            (data.StudyInstanceUID, data.PatientID, str(data.PatientName), data.StudyDate)
        )
    assert len(instances) == 2 * training.patients
    assert len(studies) == training.patients
    assert all(len(identity) == 1 for identity in studies.values())
    assert len(set.union(*studies.values())) == training.patients


def test_pixel_spacing_grows_as_the_image_shrinks(tmp_path, training, full_size):
    found = {}
    for settings in (training, full_size):
        folder = tmp_path / str(settings.height)
        path = next(_write(settings.model_copy(update={"patients": 1}), folder).glob("images/*/*"))
        data = pydicom.dcmread(path)
        found[settings.height] = data.ImagerPixelSpacing[0] * data.Rows
        assert any(
            data.ImagerPixelSpacing[0] * settings.scale == pytest.approx(vendor.imager_spacing_mm)
            for vendor in VENDORS
        )
    assert found[96] == pytest.approx(found[384], rel=1e-4)


def test_the_same_bytes_come_out_again_and_with_more_processes(written, training, tmp_path):
    assert _files(_write(training, tmp_path, threads=2)) == _files(written)
    assert filecmp.cmp(written.parent / "training.json", tmp_path / "training.json", shallow=False)


def test_adding_patients_leaves_the_earlier_ones_bytes_alone(written, small, tmp_path):
    more = small.model_copy(update={"patients": PatientCounts(training=8, test=1, external=1)})
    larger = _files(_write(more.part("training"), tmp_path))
    for name, content in _files(written).items():
        if name.startswith(("images/", "masks/")):
            assert larger[name] == content
        elif name.endswith(".csv"):
            assert larger[name].startswith(content)


def test_parts_share_no_id(written, small, tmp_path):
    ids = set()
    for part in ("test", "external"):
        folder = _write(small.part(part), tmp_path)
        ids |= {path.name for path in folder.glob("images/*")}
        ids |= {path.stem for path in folder.glob("images/*/*")}
    for path in written.glob("images/*/*"):
        assert path.stem not in ids
        assert path.parent.name not in ids


def test_both_breasts_give_four_images_and_findings_in_one(tmp_path):
    settings = PhantomSettings(
        height=96,
        width=64,
        breasts="both",
        patients={"training": 3},
        prevalence={"mass": 0.999},
    ).part("training")
    folder = _write(settings, tmp_path)
    breasts = pd.read_csv(folder / "breast-level_annotations.csv")
    truth = pd.read_csv(folder / "truth.csv")
    assert len(breasts) == 12
    assert (breasts.groupby("study_id")["laterality"].value_counts() == 2).all()
    merged = breasts.merge(truth, on="image_id")
    assert (merged.groupby("study_id_x")["mass"].sum() == 2).all()
    assert (merged[merged["mass"] == 1].groupby("study_id_x")["laterality"].nunique() == 1).all()


def test_a_failed_run_leaves_nothing_behind(tmp_path, training, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(archive, "_write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        _write(training, tmp_path)
    assert not (tmp_path / "training").exists()
    assert not (tmp_path / "training.json").exists()


def test_no_threads_is_refused_with_a_sentence(tmp_path, training):
    with pytest.raises(InputError, match="threads is 0; give at least 1"):
        _write(training, tmp_path, threads=0)
    assert list(tmp_path.iterdir()) == []


def test_as_many_threads_as_the_message_gives_draw_the_images(tmp_path, training):
    with pytest.raises(InputError) as refused:
        _write(training, tmp_path, threads=0)
    least = int(str(refused.value).rpartition(" ")[2])
    folder = _write(training, tmp_path, threads=least)
    assert len(list(folder.rglob("*.dicom"))) == 2 * training.patients
