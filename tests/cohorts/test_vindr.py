from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.cohorts.vindr import VindrReader
from mammo_sae.errors import InputError

CONCEPTS = {"mass": "Mass", "suspicious_calcification": "Suspicious Calcification"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_labels_come_from_lists_of_categories(vindr_folder):
    source = VindrReader(vindr_folder).annotations(CONCEPTS, {})
    images = source.images.set_index("source_image")
    assert images["mass"].to_dict() == {"i1": 1, "i2": 1, "i3": 0, "i4": 0}
    assert images["suspicious_calcification"].to_dict() == {"i1": 1, "i2": 0, "i3": 0, "i4": 0}
    boxes = source.findings
    assert list(boxes["source_image"] + " " + boxes["category"]) == [
        "i1 Mass",
        "i1 Suspicious Calcification",
        "i2 Mass",
        "i3 Focal Asymmetry",
    ]
    assert boxes.loc[0, ["xmin", "ymin", "xmax", "ymax"]].tolist() == [10.5, 20.0, 40.25, 60.0]
    # A mass without a box on i2 is a label; the asymmetry of i3 is no concept, but a region.
    assert source.counts == {
        "findings_without_box": 1,
        "images_without_metadata": 0,
        "images_without_row_of_findings": 0,
    }


def test_columns_are_read_from_their_three_files(vindr_folder):
    images = VindrReader(vindr_folder).annotations(CONCEPTS, {}).images.set_index("source_image")
    first = images.loc["i1"]
    assert first[["source_patient", "split", "view", "side", "density"]].tolist() == [
        "s1",
        "training",
        "CC",
        "L",
        "B",
    ]
    assert (first["rows"], first["columns"], first["birads"]) == (300, 200, 4)
    assert (first["manufacturer"], first["model"]) == ("ACME", "Mark 1")
    assert first["pixel_spacing_mm"] == pytest.approx(0.085)
    bins = images["age_bin"]
    assert bins.drop("i3").to_dict() == {"i1": "50-59", "i2": "<40", "i4": ">=70"}
    assert pd.isna(bins["i3"])
    assert pd.isna(images.loc["i4", "density"])
    assert pd.isna(images.loc["i3", "pixel_spacing_mm"])


def test_covariates_are_found_in_any_file_and_keep_their_type(vindr_folder):
    (vindr_folder / "truth.csv").write_text("image_id,marker\ni1,1\ni2,0\ni3,1\ni4,0\n")
    images = (
        VindrReader(vindr_folder)
        .annotations(
            CONCEPTS,
            {"marker": "marker", "window": "Window Center", "maker": "Manufacturer"},
        )
        .images
    )
    assert images["marker"].tolist() == [1, 0, 1, 0]
    assert images["window"].tolist() == [100.5, 200, 300, 400]
    assert images["maker"].tolist() == ["ACME", "ACME", "Other", "Other"]
    with pytest.raises(InputError, match=r"no column 'paddle' in truth.csv, metadata.csv"):
        VindrReader(vindr_folder).annotations(CONCEPTS, {"paddle": "paddle"})


def test_a_class_of_density_or_birads_is_a_concept_against_the_other_classes(vindr_folder):
    concepts = {"density_b": "DENSITY B", "density_c": "DENSITY C", "birads_4": "BI-RADS 4"}
    images = VindrReader(vindr_folder).annotations(concepts, {}).images.set_index("source_image")
    assert images.loc["i1", list(concepts)].tolist() == [1, 0, 1]
    assert images.loc["i4", ["density_b", "density_c"]].isna().all()


def test_files_are_located_by_study_and_image(vindr_folder):
    files = VindrReader(vindr_folder).files()
    assert files["i3"].dicom == vindr_folder / "images" / "s2" / "i3.dicom"
    assert files["i3"].mask is None
    (vindr_folder / "truth.json").write_text('{"bit_planes": {"mass": 0, "marker": 2}}')
    files = VindrReader(vindr_folder).files()
    assert files["i3"].mask == vindr_folder / "masks" / "i3.png"
    assert files["i3"].mask_bits == {"Mass": 0, "marker": 2}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("finding", "10.5", "ten", r"finding_annotations.csv: line 2, column 'xmin' is 'ten'"),
        ("finding", "['Mass', 'Susp", "[Mass, 'Susp", r"line 2, column 'finding_categories'"),
        ("finding", "['Mass']", "['Moss']", r"line 3, column 'finding_categories'"),
        ("finding", "s1,i2", "s1,i9", r"line 3, column 'image_id' names an image that is not in"),
        ("finding", "40.25", "4.25", r"line 2, column 'xmax' gives no box"),
        ("breast", "s1,x,i2,L,MLO", "s1,x,i2,L,ML", r"line 3, column 'view_position' is 'ML'"),
        (
            "breast",
            "s1,x,i2,L",
            "s1,x,i2,B",
            r"line 3, column 'laterality' is 'B'; expected L or R",
        ),
        ("breast", "s1,x,i2", "s1,x,", r"line 3, column 'image_id' is empty"),
        ("breast", "s1,x,i2", "s1,x,i1", r"line 3, column 'image_id' occurs a second time"),
        ("breast", "MLO,300", "MLO,many", r"line 3, column 'height' is 'many'"),
        ("breast", "DENSITY B,training", "DENSITY B,dev", r"line 2, column 'split' is 'dev'"),
        ("breast", "DENSITY B,training", "DENSITY E,training", r"line 2, column 'breast_density'"),
        ("breast", ",training\ns1", "\ns1", r"line 2 has 9 cells; the header row has 10"),
        ("metadata", "039Y", "old", r"metadata.csv: line 3, column \"Patient's Age\" is malformed"),
        ("metadata", "\ni2", "\ni1", r"line 3, column 'SOP Instance UID' occurs a second time"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_column(vindr_folder, file, old, new, message):
    path = next(vindr_folder.glob(f"{file}*.csv"))
    edit(path, old, new)
    said = [str(row) for row in left_out(VindrReader(vindr_folder).annotations(CONCEPTS, {}))]
    assert any(re.search(message, row) for row in said), said


def left_out(source) -> list:
    return [row for sheet in source.sheets for row in sheet.left_out.values()]


def test_all_that_is_missing_is_named_at_once(vindr_folder):
    edit(vindr_folder / "breast-level_annotations.csv", "height,width", "hight,widht")
    edit(vindr_folder / "metadata.csv", "SOP Instance", "SOP")
    (vindr_folder / "finding_annotations.csv").unlink()
    with pytest.raises(InputError) as error:
        VindrReader(vindr_folder).annotations(CONCEPTS, {})
    for part in (
        "breast-level_annotations.csv: columns 'height', 'width' are missing; it has study_id",
        "finding_annotations.csv is missing",
        "metadata.csv: column 'SOP Instance UID' is missing",
    ):
        assert part in str(error.value)
    assert str(vindr_folder) not in str(error.value)


def test_an_image_of_an_unreadable_finding_is_left_out_and_not_called_healthy(vindr_folder):
    edit(vindr_folder / "finding_annotations.csv", "i2,['Mass']", "i2,['Moss']")
    source = VindrReader(vindr_folder).annotations(CONCEPTS, {})
    assert source.images["source_image"].to_list() == ["i1", "i3", "i4"]
    assert "i2" not in set(source.findings["source_image"])


def test_rows_with_one_id_are_left_out_unless_they_are_equal(vindr_folder):
    path = vindr_folder / "breast-level_annotations.csv"
    text = path.read_text()
    path.write_text(text + text.splitlines()[1] + "\n")
    source = VindrReader(vindr_folder).annotations(CONCEPTS, {})
    assert source.images["source_image"].to_list() == ["i1", "i2", "i3", "i4"]
    assert [str(row) for row in left_out(source)] == [
        f"{path.name}: line 6, column 'image_id' repeats line 2"
    ]
    path.write_text(text + text.splitlines()[1].replace(",L,", ",R,") + "\n")
    source = VindrReader(vindr_folder).annotations(CONCEPTS, {})
    assert source.images["source_image"].to_list() == ["i2", "i3", "i4"]


@pytest.mark.parametrize(
    "name", ["breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv"]
)
def test_a_missing_file_is_named(vindr_folder, name):
    (vindr_folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        VindrReader(vindr_folder).annotations(CONCEPTS, {})


def test_a_row_with_too_many_cells_is_left_out_and_an_empty_file_refused(vindr_folder):
    path = vindr_folder / "metadata.csv"
    path.write_text(path.read_text() + "i5,a,b,c,d,e,f,g\n")
    (row,) = left_out(VindrReader(vindr_folder).annotations(CONCEPTS, {}))
    assert str(row) == "metadata.csv: line 6 has 8 cells; the header row has 6"
    path.write_text("")
    with pytest.raises(InputError, match=r"metadata.csv can't be read as CSV: it is empty"):
        VindrReader(vindr_folder).annotations(CONCEPTS, {})


def test_an_unknown_category_in_the_settings_lists_the_known_ones(vindr_folder):
    with pytest.raises(InputError, match=r"'Tumour' is neither a finding category.*Mass"):
        VindrReader(vindr_folder).annotations({"tumour": "Tumour"}, {})


@pytest.mark.parametrize("text", ['{"bit_planes": {"mass": 9}}', "{}", '{"bit_planes": [1]}'])
def test_malformed_mask_bits_are_refused(vindr_folder, text):
    (vindr_folder / "truth.json").write_text(text)
    with pytest.raises(InputError, match=r"truth.json: key bit_planes"):
        VindrReader(vindr_folder).files()


def test_a_folder_of_mammo_clips_pngs_is_refused_with_the_kind_that_reads_it(vindr_folder):
    (vindr_folder / "images_png").mkdir()
    with pytest.raises(InputError, match=r"kind mammo_clip and images\.preprocessing as_is"):
        VindrReader(vindr_folder).annotations({"mass": "Mass"}, {})
