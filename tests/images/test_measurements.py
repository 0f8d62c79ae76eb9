from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from mammo_sae.cohorts import build
from mammo_sae.cohorts.settings import PhantomCohort
from mammo_sae.images import convert, measurements
from mammo_sae.images.measurements import MEASUREMENTS, measure
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings
from mammo_sae.statistics import auroc
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import read_table

HEIGHT, WIDTH = 384, 256


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> pd.DataFrame:
    """Measurements of the 120 canonical images of a phantom of the default size, with its truth."""
    root = tmp_path_factory.mktemp("measured")
    part = PhantomSettings(seed=5, patients=PatientCounts(training=60)).part("training")
    archive.run(part, root / "training", root / "training.json")
    tables = [root / name for name in ("images.parquet", "findings.parquet", "summary.json")]
    build.run(PhantomCohort(), [root / "training"], *tables)
    shards = []
    for shard in range(2):
        manifest = root / f"{shard}.json"
        settings = ConversionSettings(shards=2)
        convert.run(settings, [root / "training"], shard, root / f"{shard}.zarr", manifest)
        shards.append(root / f"{shard}.parquet")
        assert measurements.run(image_stores=[manifest], output=shards[-1]) == [shards[-1]]
    measured = pd.concat([read_table(path) for path in shards])
    cohort = read_table(tables[0])
    assert len(measured) == len(cohort) == 120
    return cohort.merge(measured, on="image_id", validate="1:1")


def _auroc(table: pd.DataFrame, name: str, truth: pd.Series) -> float:
    return float(auroc(table[[name]].to_numpy(), truth.to_numpy(bool))[0])


def test_every_phantom_image_is_measured(phantom):
    assert phantom[list(MEASUREMENTS)].notna().all(axis=None)
    assert (phantom["reason"] == "").all()


@pytest.mark.parametrize(
    ("name", "artefact"), [("marker_area", "marker"), ("edge_brightness", "paddle")]
)
def test_an_artefact_is_measured_where_the_phantom_has_it_and_no_other_is(phantom, name, artefact):
    assert _auroc(phantom, name, phantom[artefact] == 1) >= 0.95
    other = {"marker": "paddle", "paddle": "marker"}[artefact]
    assert _auroc(phantom, name, phantom[other] == 1) == pytest.approx(0.5, abs=0.15)


def test_an_image_without_a_marker_has_an_area_of_zero(phantom):
    without = phantom[phantom["marker"] == 0]
    assert (without["marker_area"] == 0).mean() >= 0.95
    assert (phantom.loc[phantom["marker"] == 1, "marker_area"] > 0).mean() >= 0.95


def test_the_density_estimate_follows_the_category(phantom):
    rho = spearmanr(phantom["density_estimate"], phantom["density"].map("ABCD".index))[0]
    assert rho > 0.85
    medians = phantom.groupby("density")["density_estimate"].median()
    assert medians.is_monotonic_increasing


def test_the_noisier_vendor_has_noisier_images(phantom):
    noisy = phantom["manufacturer"] == "Brightwater Medical"
    assert _auroc(phantom, "noise", noisy) >= 0.95


def test_a_lesion_is_neither_noise_nor_sharpness(phantom):
    """Otherwise a detector of the lesion would be said to detect the scanner's focus."""
    for name in ("noise", "sharpness", "edge_brightness"):
        score = _auroc(phantom, name, phantom["suspicious_calcification"] == 1)
        assert score == pytest.approx(0.5, abs=0.15), name


def _ellipse(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Half an ellipse at the left edge, as a breast."""
    y, x = np.mgrid[:height, :width]
    return ((y - 0.45 * height) / (0.4 * height)) ** 2 + (x / (0.6 * width)) ** 2 < 1


def _textured(breast: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=breast.shape), 6)
    texture *= 20 / texture.std()
    fine = rng.normal(0, 2, breast.shape)
    return np.where(breast, 110 + texture + fine, 8)


def _uint8(grey: np.ndarray) -> np.ndarray:
    return np.rint(grey).clip(0, 255).astype(np.uint8)


def test_the_area_of_an_ellipse_is_the_number_of_its_pixels():
    breast = _ellipse()
    values, reasons = measure(_uint8(_textured(breast)), breast)
    assert values["breast_area"] == breast.sum()
    assert values["breast_area"] == pytest.approx(np.pi * 0.4 * HEIGHT * 0.6 * WIDTH / 2, rel=0.01)
    assert reasons == []


def test_the_mean_grey_is_that_of_the_breast_alone():
    breast = _ellipse()
    values, _ = measure(np.where(breast, 120, 9).astype(np.uint8), breast)
    assert values["mean_grey"] == 120


@pytest.mark.parametrize("deviation", [2.0, 4.0, 8.0])
def test_noise_is_the_standard_deviation_that_was_added(deviation):
    breast = _ellipse()
    noise = np.random.default_rng(1).normal(0, deviation, breast.shape)
    values, _ = measure(_uint8(np.where(breast, 120, 10) + noise), breast)
    # Rounding to grey levels adds a variance of 1/12.
    assert values["noise"] == pytest.approx(np.sqrt(deviation**2 + 1 / 12), rel=0.02)


def test_specks_and_smooth_tissue_are_no_noise():
    breast = _ellipse()
    grey = _textured(breast)
    plain, _ = measure(_uint8(grey), breast)
    for y in range(100, 200, 10):
        grey[y : y + 2, 60:62] += 100
    specks, _ = measure(_uint8(grey), breast)
    assert plain["noise"] == pytest.approx(np.sqrt(4 + 1 / 12), rel=0.03)
    assert specks["noise"] == pytest.approx(plain["noise"], rel=0.02)
    assert specks["sharpness"] == pytest.approx(plain["sharpness"], rel=0.05)


def test_sharpness_falls_with_every_blur():
    breast = _ellipse()
    grey = _textured(breast)
    found = [
        measure(_uint8(ndimage.gaussian_filter(grey, sigma)), breast)[0]["sharpness"]
        for sigma in (0, 0.5, 1, 2)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[1]
    assert found[1] > 2 * found[2]


def test_sharpness_does_not_change_with_contrast():
    breast = _ellipse()
    pixels = _uint8(_textured(breast) / 2)
    one, _ = measure(pixels, breast)
    twice, _ = measure(2 * pixels, breast)
    assert twice["sharpness"] == pytest.approx(one["sharpness"])


def test_a_marker_is_measured_by_its_pixels_and_a_hot_pixel_is_none():
    breast = _ellipse()
    grey = _textured(breast)
    grey[350, 230] = 255
    assert measure(_uint8(grey), breast)[0]["marker_area"] == 0
    grey[30:40, 200:210] = 240
    grey[30:40, 214:220] = 240  # a second letter of the same word
    assert measure(_uint8(grey), breast)[0]["marker_area"] == 160
    grey[300:310, 200:210] = 240  # a smaller marker elsewhere
    assert measure(_uint8(grey), breast)[0]["marker_area"] == 160


def test_a_line_along_the_chest_wall_is_measured_by_its_brightness():
    breast = _ellipse()
    grey = np.where(breast, 110.0, 8.0)
    assert measure(_uint8(grey), breast)[0]["edge_brightness"] == 0
    for column, tilt in ((20, 0.0), (40, 0.02)):
        line = grey.copy()
        for y in range(HEIGHT):
            place = round(column + tilt * (y - HEIGHT / 2))
            line[y, place - 2 : place + 3] += 25 * breast[y, place - 2 : place + 3]
        found = measure(_uint8(line), breast)[0]["edge_brightness"]
        assert found == pytest.approx(25, rel=0.1)


def test_a_mass_on_the_chest_wall_is_no_line():
    breast = _ellipse()
    grey = np.where(breast, 110.0, 8.0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grey += 60 * ((y - 170) ** 2 + (x - 25) ** 2 < 20**2)
    assert measure(_uint8(grey), breast)[0]["edge_brightness"] < 1


def test_a_mirrored_image_gives_the_same_numbers(phantom_image):
    pixels, breast = phantom_image
    values, reasons = measure(pixels, breast)
    mirrored, same = measure(pixels[:, ::-1].copy(), breast[:, ::-1].copy())
    assert (mirrored, same) == (values, reasons)
    assert values["marker_area"] > 0
    assert values["edge_brightness"] > 10


@pytest.fixture
def phantom_image() -> tuple[np.ndarray, np.ndarray]:
    breast = _ellipse()
    grey = _textured(breast, seed=3)
    grey[30:44, 200:230] = 250
    grey[:, 24:29] += 25 * breast[:, 24:29]
    return _uint8(grey), breast


def test_what_can_not_be_measured_is_unknown_with_a_reason(tmp_path: Path):
    blank = np.zeros((96, 64), np.uint8)
    breast = _ellipse(96, 64)
    everywhere = np.ones((96, 64), bool)
    sliver = np.zeros((96, 64), bool)
    sliver[:, 30] = True
    cases = [
        (blank, np.zeros((96, 64), bool), measurements.NO_BREAST, set(MEASUREMENTS)),
        (blank, breast, measurements.FLAT, {"sharpness", "density_estimate"}),
        (_uint8(_textured(everywhere)), everywhere, measurements.NO_BACKGROUND, {"marker_area"}),
        (
            _uint8(_textured(sliver)),
            sliver,
            f"{measurements.NO_EDGE}; {measurements.NO_INSIDE}",
            {"edge_brightness", "noise", "sharpness", "density_estimate"},
        ),
    ]
    paths = tmp_path / "0.zarr", tmp_path / "0.json"
    ids = [f"i{n}" for n in range(len(cases))]
    with create_image_store(*paths, image_ids=ids, height=96, width=64, regions=[]) as writer:
        for n, (pixels, mask, *_) in enumerate(cases):
            record = ImageRecord(pixels, mask, np.empty((0, 96, 64)), np.eye(2, 3), False, 0.1)
            writer.write(n, record)
    measurements.run(image_stores=[paths[1]], output=tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet").set_index("image_id")
    for image_id, (_, _, reason, unknown) in zip(ids, cases, strict=True):
        row = table.loc[image_id]
        assert row["reason"] == reason
        assert {name for name in MEASUREMENTS if np.isnan(row[name])} == unknown


def test_a_shard_without_images_has_an_empty_table(tmp_path: Path):
    paths = tmp_path / "0.zarr", tmp_path / "0.json"
    with create_image_store(*paths, image_ids=[], height=96, width=64, regions=[]):
        pass
    measurements.run(image_stores=[paths[1]], output=tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet")
    assert len(table) == 0
    assert table.columns.tolist() == ["image_id", *MEASUREMENTS, "reason"]
