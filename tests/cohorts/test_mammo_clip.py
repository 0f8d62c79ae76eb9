"""VinDr-Mammo in Mammo-CLIP's layout: PNGs, and one table with a row per finding."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo_clip_form import FINDINGS, published_box, write_mammo_clip_form
from mammo_sae.cohorts import build, mammo_clip, vindr
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import MammoClipCohort
from mammo_sae.cohorts.state import archive_state
from mammo_sae.dicom.settings import AsIsSettings, MammoClipSettings
from mammo_sae.errors import InputError
from mammo_sae.images import convert
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings
from mammo_sae.stores.images import ImageReader

CONCEPTS = {"mass": "Mass", "calcification": "Suspicious Calcification"}
HEIGHT, WIDTH = 95, 57  # a sixteenth of 1520 x 912


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """The test part of a small phantom: a folder with VinDr-Mammo's layout."""
    folder = tmp_path_factory.mktemp("phantom") / "test"
    settings = PhantomSettings(
        height=260, width=170, patients=PatientCounts(training=1, test=5, external=1)
    )
    archive.run(settings.part("test"), folder, folder.with_name("test.json"))
    return folder


@pytest.fixture(scope="module")
def written(phantom, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_mammo_clip_form(phantom, folder, height=HEIGHT, width=WIDTH)
    return folder


def converted(kind: str, folder: Path, out: Path, images) -> ImageReader:
    settings = ConversionSettings(kind=kind, images=images)
    convert.run(settings, [folder], 0, out / "0.zarr", out / "0.json")
    return ImageReader([out / "0.json"])


def test_labels_and_facts_are_those_of_the_same_images_as_dicom(phantom, written):
    ours, theirs = (
        Sources(kind, [folder]).annotations(CONCEPTS, {}).images.set_index("source_image")
        for kind, folder in (("mammo_clip", written), ("vindr", phantom))
    )
    assert len(ours) == 10
    columns = ["source_patient", "split", "view", "side", "density", "birads", *CONCEPTS]
    pd.testing.assert_frame_equal(
        ours[columns].astype("string"), theirs.loc[ours.index, columns].astype("string")
    )
    assert (ours["rows"] == HEIGHT).all()
    assert (ours["columns"] == WIDTH).all()
    assert ours[["manufacturer", "model", "pixel_spacing_mm", "age_bin"]].isna().all(axis=None)


def test_images_as_they_are_agree_with_the_conversion_of_the_dicom_files(
    phantom, written, tmp_path
):
    size = {"height": HEIGHT, "width": WIDTH}
    ours = converted("mammo_clip", written, tmp_path / "png", AsIsSettings(**size))
    theirs = converted("phantom", phantom, tmp_path / "dicom", MammoClipSettings(**size))
    assert ours.image_ids == theirs.image_ids
    difference = ours.pixels().astype(int) - theirs.pixels()
    assert np.abs(difference).max() <= 1
    boxes, expected = ours.region_masks(), _boxes_of(phantom, tmp_path, size)
    assert expected.any(axis=(2, 3)).sum() >= 4
    np.testing.assert_array_equal(boxes, expected)


def _boxes_of(phantom: Path, tmp_path: Path, size: dict) -> np.ndarray:
    """The regions that follow from boxes alone. The phantom's own masks are not used."""
    (phantom / "truth.json").rename(phantom / "aside.json")
    try:
        store = converted("phantom", phantom, tmp_path / "boxes", MammoClipSettings(**size))
        return store.region_masks()
    finally:
        (phantom / "aside.json").rename(phantom / "truth.json")


def row(image: str = "i1", **cells: object) -> dict[str, object]:
    found = cells.get("finding_categories", "['Mass']")
    return {
        "patient_id": "p1",
        "image_id": f"{image}.png",
        "laterality": "L",
        "view": "CC",
        "height": 3518,
        "width": 2800,
        "breast_birads": "BI-RADS 4",
        "breast_density": "DENSITY C",
        "finding_categories": found,
        "split": "training",
        **dict.fromkeys(("xmin", "ymin", "xmax", "ymax")),
        **dict.fromkeys(mammo_clip.RESIZED),
        "fold": 1,
        **{name.replace(" ", "_"): int(f"'{name}'" in str(found)) for name in FINDINGS},
        "density": 2,
        **cells,
    }


def folder_of(tmp_path: Path, *rows: dict, size: tuple[int, int] = (1520, 912)) -> Path:
    pd.DataFrame(rows).to_csv(tmp_path / mammo_clip.FOLDS, index=False)
    for found in rows:
        path = tmp_path / "images_png" / str(found["patient_id"]) / str(found["image_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size[::-1], 7).save(path)
    return tmp_path


def read(folder: Path, concepts=CONCEPTS, **more):
    return mammo_clip.READER(folder).annotations(concepts, {}, **more)


def test_rows_of_findings_are_counted_per_image_and_concept(tmp_path):
    folder = folder_of(
        tmp_path,
        row("i1"),
        row("i1", finding_categories="['Mass', 'Suspicious Calcification']"),
        row("i1", finding_categories="['Asymmetry']"),
        row("i2", finding_categories="['No Finding']"),
    )
    found = read(folder)
    assert found.images.set_index("source_image")["mass"].to_dict() == {"i1": 1, "i2": 0}
    counted = found.finding_rows.set_index(["source_image", "concept"])
    assert counted.loc[("i1", "mass")].to_list() == [3, 2]
    assert counted.loc[("i1", "calcification")].to_list() == [3, 1]
    assert counted.loc[("i2", "mass")].to_list() == [1, 0]


@pytest.mark.parametrize("category", ["DENSITY C", "BI-RADS 4"])
def test_classes_are_concepts_too(tmp_path, category):
    folder = folder_of(
        tmp_path, row("i1"), row("i1"), row("i2", breast_density=None, breast_birads=None)
    )
    found = read(folder, {"c": category})
    assert found.images["c"].fillna(-1).to_list() == [1, -1]
    counted = found.finding_rows.set_index("source_image")[["rows", "positive"]]
    assert counted.loc["i1"].to_list() == [2, 2]
    assert counted.loc["i2"].to_list() == [0, 0]


RESIZED = dict(zip(mammo_clip.RESIZED, (100, 200, 300, 500), strict=True))
ORIGINAL = dict(zip(("xmin", "ymin", "xmax", "ymax"), (10, 20, 30, 40), strict=True))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1520, 912), [100, 200, 300, 500]),
        ((380, 228), [25, 50, 75, 125]),
        ((3518, 2800), [10, 20, 30, 40]),
    ],
)
def test_boxes_are_in_pixels_of_the_file(tmp_path, size, expected):
    folder = folder_of(tmp_path, row(**RESIZED, **ORIGINAL), size=size)
    found = read(folder)
    assert found.findings[["xmin", "ymin", "xmax", "ymax"]].to_numpy().tolist() == [expected]
    assert found.counts == {"findings_without_box": 0, "boxes_completed": 0}


@pytest.mark.parametrize("box", [(300, 2000, 700, 3100), (300, 2900, 700, 3100)])
def test_a_box_that_the_published_script_cuts_short_is_completed(tmp_path, box):
    # In the second box the minimum exceeds the maximum, because it begins below the limit, the
    # number of columns.
    inner, crop = (3508, 2790), (12, 101, 1893, 3307)
    published = published_box([float(v) for v in box], inner, crop)
    assert published[3] < (box[3] - 5 - 101) * 1520 / 3206 - 1
    cells = dict(zip(mammo_clip.RESIZED, published, strict=True))
    cells |= dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    found = read(folder_of(tmp_path, row(**cells)))
    left, top, right, bottom = (v - 5 for v in box)
    across, down = 912 / 1881, 1520 / 3206
    np.testing.assert_allclose(
        found.findings[["xmin", "ymin", "xmax", "ymax"]].to_numpy()[0],
        [(left - 12) * across, (top - 101) * down, (right - 12) * across, (bottom - 101) * down],
    )
    assert found.counts == {"findings_without_box": 0, "boxes_completed": 1}


def test_the_published_script_cuts_short_the_boxes_that_the_docs_say():
    docs = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text()
    assert "`ymax > width - 5`" in docs
    assert "`ymin > width - 5`" in docs
    random = np.random.default_rng(2)
    height, width = 400, 250
    crop = (0, 0, width - 10, height - 10)
    short, inverted = 0, 0
    for _ in range(300):
        xmin, xmax = sorted(random.integers(5, width - 5, 2))
        ymin, ymax = np.sort(random.choice(np.arange(5, height - 5), 2, replace=False))
        got = published_box([xmin, ymin, xmax, ymax], (height - 10, width - 10), crop)
        down = 1520 / (height - 10)
        assert (got[3] < (ymax - 5) * down - 1e-6) == (ymax > width - 5)
        assert (got[1] > got[3]) == (ymin > width - 5)
        short, inverted = short + (ymax > width - 5), inverted + (ymin > width - 5)
    assert 0 < inverted < short < 300


def test_a_box_that_was_not_cut_short_is_left_as_it_is(tmp_path):
    # Low in the image, but mapped by a script without the error.
    top, bottom = 2000.0, 3100.0
    down = 1520 / 3206
    resized = (100.0, (top - 106) * down, 300.0, (bottom - 106) * down)
    cells = dict(zip(mammo_clip.RESIZED, resized, strict=True))
    cells |= dict(zip(("xmin", "ymin", "xmax", "ymax"), (300.0, top, 700.0, bottom), strict=True))
    found = read(folder_of(tmp_path, row(**cells)))
    np.testing.assert_allclose(
        found.findings[["xmin", "ymin", "xmax", "ymax"]].to_numpy()[0], resized
    )
    assert found.counts["boxes_completed"] == 0


def test_a_finding_without_a_known_box_is_counted(tmp_path):
    found = read(folder_of(tmp_path, row(), row("i2", **dict.fromkeys(mammo_clip.RESIZED, 0))))
    assert found.findings.empty
    assert found.counts["findings_without_box"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(view="MLO")], r"line 3, column 'view' differs from an earlier row"),
        ([row(), row(patient_id="p2")], r"line 3, column 'image_id' is an image of two patients"),
        ([row(Mass=0)], r"line 2, column 'Mass' contradicts the row's finding_categories"),
        ([row(Mass="yes")], r"line 2, column 'Mass' is 'yes'; expected 0 or 1"),
        ([row(split="train")], r"line 2, column 'split' is 'train'"),
        ([row(finding_categories="['Cyst']")], r"column 'finding_categories' is"),
        ([row(**{**RESIZED, "resized_xmax": "x"})], r"column 'resized_xmax' is 'x'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, rows, message):
    (sheet,) = read(folder_of(tmp_path, *rows, row("i9", patient_id="p9"))).sheets
    said = [str(one) for one in sheet.named()]
    assert any(re.search(message, one) for one in said), said


def test_a_folder_without_a_table_is_refused_with_what_it_needs(tmp_path):
    with pytest.raises(InputError, match=r"neither vindr_detection_v1_folds\.csv nor clip_vindr"):
        read(tmp_path)


FINAL = """\
patient_id,laterality,split,image,view,CC,MLO,CC_FINDING,MLO_FINDING,fold
p1,L,test,"['a.png', 'b.png']","['CC', 'MLO']",['a.png'],['b.png'],"[[], ""[['Mass', 'Skin \
Thickening']]"", [], ['Asymmetry']]","[[], [['No Finding']], [], []]",0
p1,R,test,"['c.png', None]","['CC', 'MLO']",['c.png'],[],"[['Mass'], [], [], []]","[[], [], [], \
[]]",0
"""


def test_the_table_with_a_row_per_breast_is_read_without_boxes(tmp_path):
    (tmp_path / mammo_clip.FINAL).write_text(FINAL)
    found = read(tmp_path)
    images = found.images.set_index("source_image")
    assert images["mass"].to_dict() == {"a": 1, "c": 1, "b": 0}
    assert images["view"].to_dict() == {"a": "CC", "c": "CC", "b": "MLO"}
    assert images["side"].to_dict() == {"a": "L", "c": "R", "b": "L"}
    assert set(images["split"]) == {"test"}
    assert found.finding_rows is None
    assert found.counts == {"findings_without_box": 2}
    with pytest.raises(InputError, match=r"has no 'DENSITY A'; use .*vindr_detection"):
        read(tmp_path, {"dense": "DENSITY A"})
    with pytest.raises(InputError, match=r"has no column 'height'; set cohort\.covariates to {}"):
        mammo_clip.READER(tmp_path).annotations(CONCEPTS, {"matrix_rows": "height"})
    assert len(mammo_clip.READER(tmp_path).annotations(CONCEPTS, {}).images) == 3
    columns = {"fold": "fold"}
    assert len(mammo_clip.READER(tmp_path).annotations(CONCEPTS, columns).images) == 3


def test_a_class_is_read_from_the_table_that_the_message_names(tmp_path):
    (tmp_path / mammo_clip.FINAL).write_text(FINAL)
    with pytest.raises(InputError) as refused:
        read(tmp_path, {"dense": "DENSITY C"})
    table = re.search(r"use the table with a row per finding, (\S+)$", str(refused.value))
    folder_of(tmp_path, row("i1"), row("i2", breast_density=None))
    assert (tmp_path / table[1]).is_file()
    found = read(tmp_path, {"dense": "DENSITY C"})
    assert found.images["dense"].fillna(-1).to_list() == [1, -1]


def test_images_of_its_form_are_read_by_the_kind_that_the_reader_of_dicom_names(written, tmp_path):
    with pytest.raises(InputError) as refused:
        Sources("vindr", [written]).files(load_pseudonyms(None))
    said = re.search(r"cohort\.kind (\w+) and images\.preprocessing (\w+)", str(refused.value))
    assert said[2] == "as_is"
    images = AsIsSettings(height=HEIGHT, width=WIDTH)
    assert images.preprocessing == said[2]
    assert len(converted(said[1], written, tmp_path, images)) == 10


def test_pseudonyms_are_those_of_the_same_images_as_dicom(phantom, written):
    ours, theirs = (
        {load_pseudonyms(None).image(i) for i in reader.READER(folder).files()}
        for reader, folder in ((mammo_clip, written), (vindr, phantom))
    )
    assert ours == theirs


def test_changes_are_detected_and_files_without_annotation_are_listed(tmp_path):
    folder = folder_of(tmp_path, row(), row("i2", patient_id="p2"))
    settings = MammoClipCohort(source=str(folder), concepts=CONCEPTS, shards=1, covariates={})
    before = archive_state(settings, [folder])
    assert archive_state(settings, [folder]) == before
    Image.new("L", (912, 1520), 8).save(folder / "images_png" / "p1" / "i1.png", optimize=False)
    (folder / "images_png" / "p1" / "i1.png").touch()
    touched = archive_state(settings, [folder])
    assert touched.shards != before.shards
    text = (folder / mammo_clip.FOLDS).read_text().replace("DENSITY C", "DENSITY B", 1)
    (folder / mammo_clip.FOLDS).write_text(text)
    assert archive_state(settings, [folder]).tables != touched.tables
    (folder / "images_png" / "p1" / "other.png").write_bytes(b"")
    (folder / "images_png" / "p1" / "notes.txt").write_bytes(b"")
    assert Sources("mammo_clip", [folder]).strays() == ["images_png/p1/other.png"]


def test_its_tables_are_checked_without_the_images(written, tmp_path):
    settings = MammoClipCohort(source=str(written), concepts=CONCEPTS)
    check_tables(settings, [written], "state", tmp_path / "kept")
    assert (tmp_path / "kept").is_file()


def test_a_cohort_is_built_from_it(written, tmp_path):
    settings = MammoClipCohort(source=str(written), concepts=CONCEPTS)
    out = [tmp_path / name for name in ("i.parquet", "f.parquet", "summary.json")]
    build.run(settings, [written], *out)
    images, findings = (pd.read_parquet(path) for path in out[:2])
    assert len(images) == 10
    # The size of the original matrix is a covariate.
    assert set(images["matrix_rows"]) == {260}
    assert set(images["matrix_columns"]) == {170}
    assert (findings["xmax"] <= WIDTH).all()
    assert (findings["ymax"] <= HEIGHT).all()
    assert not images["image_id"].str.endswith(".png").any()


def test_the_form_is_written_by_the_published_formula():
    inner, crop = (3508, 2790), (12, 101, 1893, 3307)
    box = published_box([300.0, 400.0, 700.0, 900.0], inner, crop)
    np.testing.assert_allclose(
        box, [283 * 912 / 1881, 294 * 1520 / 3206, 683 * 912 / 1881, 794 * 1520 / 3206]
    )
