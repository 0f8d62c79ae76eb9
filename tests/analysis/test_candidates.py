from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.candidates import (
    unsaid,
    why_unknown,
    with_acquisition,
    with_measurements,
)
from mammo_sae.analysis.columns import candidates
from mammo_sae.images.measurements import MEASUREMENTS
from mammo_sae.stores.images import ImageReader, ImageRecord, create_image_store

IDS = [f"i{n}" for n in range(6)]


@pytest.fixture
def store(tmp_path) -> ImageReader:
    """Six images: two transfer syntaxes, one implant, and bits, which are missing in the first."""
    with create_image_store(
        tmp_path / "0.zarr", tmp_path / "0.json", image_ids=IDS, height=4, width=4, regions=[]
    ) as writer:
        blank = np.zeros((4, 4), np.uint8)
        for n in range(6):
            facts = {
                "transfer_syntax": "ab"[n % 2],
                "triage": "implant;mirrored" if n == 3 else "",
                "notices": "malformed;spacing" if n == 4 else "",
            }
            if n:
                facts["bits_stored"] = "12"
            writer.write(n, ImageRecord(blank, blank, blank[:0], np.eye(2, 3), False, 0.1, facts))
    return ImageReader([tmp_path / "0.json"])


@pytest.fixture
def cases() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": IDS,
            "split": ["training"] * 3 + ["test"] * 2 + ["external"],
            "rows": [100, 100, 200, 100, 200, 300],
            "columns": [80, 80, 160, 80, 160, 240],
            "density": ["A", None, "B", "B", "A", "A"],
            "birads": [1] * 6,
            "age_bin": [None] * 6,
            "manufacturer": ["x", "x", "y", "x", "y", "z"],
            "model": ["1", "1", "2", "1", "2", "3"],
            "pixel_spacing_mm": [0.1] * 6,
            "mass": [0, 1] * 3,
            "site": [1, 2, 3, 1, 2, 3],
        }
    )


def test_facts_of_a_file_and_their_absence_become_columns(cases, store):
    table, names = with_acquisition(cases, store, ["mass"])
    assert names[:4] == ["site", "manufacturer", "model", "pixel_spacing_mm"]
    assert set(names[4:]) == {
        "image_size", "density_missing", "transfer_syntax", "bits_stored", "implant", "mirrored"
    }  # fmt: skip
    assert table["image_size"].tolist()[:3] == ["100x80", "100x80", "200x160"]
    assert table["density_missing"].tolist() == [0, 1, 0, 0, 0, 0]
    assert table["implant"].tolist() == [0, 0, 0, 1, 0, 0]
    assert pd.isna(table["bits_stored"].iloc[0])
    assert table["transfer_syntax"].tolist() == list("ababab")


def test_candidates_vary_and_no_two_are_the_same(cases, store):
    table, names = with_acquisition(cases, store, ["mass"])
    kept = candidates(table, names, ("training", "test"), 6)
    # Model and size divide the images in the same way as the manufacturer. The spacing is constant.
    assert kept == [
        "site", "manufacturer", "density_missing", "transfer_syntax", "implant"
    ]  # fmt: skip


def test_a_cohort_of_one_make_has_no_candidate_of_it(cases, store):
    table, names = with_acquisition(cases.assign(manufacturer="x"), store, [])
    assert "manufacturer" not in candidates(table, names, ("training", "test"), 6)


@pytest.fixture
def write_store(tmp_path):
    """Six images of files of these kinds."""

    def write(kinds: list[str]) -> ImageReader:
        paths = tmp_path / "kinds.zarr", tmp_path / "kinds.json"
        with create_image_store(*paths, image_ids=IDS, height=4, width=4, regions=[]) as writer:
            blank = np.zeros((4, 4), np.uint8)
            for n, kind in enumerate(kinds):
                facts = {"transfer_syntax": kind, "voi": "" if kind == "PNG" else "LINEAR"}
                record = ImageRecord(blank, blank, blank[:0], np.eye(2, 3), False, 0.1, facts)
                writer.write(n, record)
        return ImageReader([paths[1]])

    return write


def test_values_that_a_png_lacks_are_unknown_and_no_level_of_a_confounder(cases, write_store):
    kinds = ["PNG", "JPEGLossless"] * 3
    none = pd.Series([None] * 6, dtype="string")
    table = cases.assign(
        manufacturer=none.where([True] * 6).mask([kind != "PNG" for kind in kinds], "x"),
        model=none,
        pixel_spacing_mm=[None, 0.1, 0.1, 0.1, None, None],
        age_bin=none,
    )
    table, names = with_acquisition(table, write_store(kinds), ["mass"])
    # A missing spacing counts as a candidate for DICOM files, but not for PNG files.
    assert "manufacturer_missing" not in table
    assert table["pixel_spacing_mm_missing"].fillna(-1).tolist() == [-1, 0, 0, 0, -1, 1]
    assert table["voi"].isna().tolist() == [True, False] * 3
    # The file type is known for all images, so it is a candidate.
    kept = candidates(table, names, ("training", "test", "external"), 6)
    assert "transfer_syntax" in kept
    assert unsaid(table, ("training", "test", "external")) == []


def test_a_cohort_of_pngs_names_confounders_that_are_not_testable(cases, write_store):
    none = pd.Series([None] * 6, dtype="string")
    table = cases.assign(manufacturer=none, model=none, pixel_spacing_mm=none)
    table, names = with_acquisition(table, write_store(["PNG"] * 6), ["mass"])
    assert "manufacturer" not in candidates(table, names, ("training", "test"), 6)
    assert unsaid(table, ("training", "test")) == ["manufacturer"]
    assert why_unknown(table, "manufacturer") == (
        "not testable: PNG files do not record manufacturer, model, pixel_spacing_mm"
    )
    assert why_unknown(table, "age_bin") == "not testable: age_bin is unknown for every image"


def _measured(n: int, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    drawn = {name: rng.permutation(n).astype(float) for name in MEASUREMENTS}
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], **drawn, "reason": ""})
    return table.assign(**columns)


def test_a_measurement_of_tissue_is_no_column_of_the_acquisition(cases):
    measured = _measured(6).sample(frac=1, random_state=0)
    table, names = with_measurements(cases, measured)
    assert names == ["marker_area", "edge_brightness", "mean_grey", "noise", "sharpness"]
    for name in MEASUREMENTS:
        expected = measured.set_index("image_id").loc[IDS, name].tolist()
        assert table[name].tolist() == expected


def test_a_covariate_of_the_same_name_as_a_measurement_is_kept(cases):
    table, names = with_measurements(cases.assign(noise="low"), _measured(6))
    assert set(table["noise"]) == {"low"}
    assert "noise" not in names


def test_two_measurements_that_differ_in_every_image_are_two_candidates():
    n = 40
    cases = pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], "split": "test"})
    measured = _measured(n)
    measured["sharpness"] = 3 * measured["noise"] + 1  # the same quarters of the images
    table, names = with_measurements(cases, measured)
    kept = candidates(table, names, ("test",), 6)
    assert kept == ["marker_area", "edge_brightness", "mean_grey", "noise"]


def test_a_measurement_of_no_image_is_named_with_its_reason(cases):
    measured = _measured(6, marker_area=np.nan, breast_area=np.nan, reason="no breast was found")
    table, _ = with_measurements(cases, measured)
    assert unsaid(table, ("training", "test")) == ["marker_area"]
    assert why_unknown(table, "marker_area") == (
        "not testable: marker_area could not be measured (no breast was found)"
    )
    assert why_unknown(table[:0], "marker_area") == (
        "not testable: marker_area is unknown for every image"
    )
    # Known of an image of another split, but of none that is tested.
    table.loc[5, "marker_area"] = 7.0
    assert unsaid(table, ("training", "test")) == ["marker_area"]
    assert unsaid(table, ("external",)) == []
