from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mammo_sae.images.landmarks import LANDMARKS, landmarks
from mammo_sae.phantom.anatomy import draw_outline
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import plan_patient
from mammo_sae.phantom.settings import PhantomSettings

PATIENTS = 12
SETTINGS = PhantomSettings(seed=3).part("training")


@dataclasses.dataclass
class Case:
    """One image with the regions that were planted, and those that were found."""

    pixels: np.ndarray
    inside: np.ndarray
    planted: dict[str, np.ndarray]
    found: dict[str, np.ndarray]
    nipple: tuple[float, float]


def case_of(number, view, artefacts):
    patient = dataclasses.replace(plan_patient(SETTINGS, number), artefacts=frozenset(artefacts))
    side = patient.sides[number % len(patient.sides)]
    image = render(SETTINGS, patient, side, view)
    pixels = np.rint(255 * image.display.clip(0, 1)).astype(np.uint8)
    outline = draw_outline(SETTINGS, patient, side, view)
    planted = dict(image.regions)
    height, width = pixels.shape
    if view == "MLO":
        y, x = np.mgrid[:height, :width].astype(np.float32)
        muscle = outline.muscle_depth(y, x) > 0
        planted["pectoral"] = image.inside & (muscle[:, ::-1] if side == "R" else muscle)
    tip = width - 1 - outline.reach if side == "R" else outline.reach
    found = landmarks(pixels, image.inside, view)
    return Case(pixels, image.inside, planted, found, (outline.axis, tip))


@pytest.fixture(scope="module")
def cases():
    return [case_of(number, "MLO", {"marker", "paddle"}) for number in range(PATIENTS)]


def overlap(cases, found, planted):
    """Intersection over union of a region that was found and one that was planted, per image."""
    nothing = np.zeros_like(cases[0].inside)
    both = [(c.found.get(found, nothing), c.planted[planted]) for c in cases]
    return np.array([(a & b).sum() / (a | b).sum() for a, b in both])


@pytest.mark.parametrize(
    ("found", "planted", "least", "median"),
    [
        ("marker", "marker", 0.6, 0.75),
        ("edge_line", "paddle", 0.4, 0.6),
        ("pectoral", "pectoral", 0.4, 0.7),
    ],
)
def test_regions_lie_where_the_phantom_planted_them(cases, found, planted, least, median):
    scores = overlap(cases, found, planted)
    assert scores.min() > least
    assert np.median(scores) > median


def test_the_nipple_is_within_a_twentieth_of_the_width(cases):
    for case in cases:
        place = np.argwhere(case.found["nipple"]).mean(axis=0)
        assert np.hypot(*(place - case.nipple)) < case.inside.shape[1] / 20


def test_without_marker_and_paddle_no_marker_is_found_and_mostly_no_edge_line():
    found = [case_of(number, "CC", ()).found for number in range(PATIENTS)]
    assert not any("marker" in one for one in found)
    assert sum("edge_line" in one for one in found) <= 1
    assert not any("pectoral" in one for one in found)


def test_the_outside_is_background_or_marker_and_the_skin_line_is_inside(cases):
    for case in cases:
        outside = case.found["background"] | case.found["marker"]
        np.testing.assert_array_equal(outside, ~case.inside)
        assert not (case.found["background"] & case.found["marker"]).any()
        assert (case.inside | ~case.found["skin_line"]).all()
        assert set(case.found) <= set(LANDMARKS)


def test_a_mirrored_image_has_mirrored_regions(cases):
    case = cases[0]
    mirrored = landmarks(case.pixels[:, ::-1], case.inside[:, ::-1], "MLO")
    assert mirrored.keys() == case.found.keys()
    for name, mask in case.found.items():
        np.testing.assert_array_equal(mirrored[name], mask[:, ::-1])


def test_an_image_without_a_breast_has_no_regions():
    assert landmarks(np.zeros((96, 64), np.uint8), np.zeros((96, 64), bool), "MLO") == {}
