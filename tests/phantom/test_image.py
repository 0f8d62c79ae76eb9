from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mammo_sae.phantom.anatomy import FAT_SHARE, MU_FAT, MU_GLANDULAR, THICKNESS_CM
from mammo_sae.phantom.image import BIT_PLANES, render
from mammo_sae.phantom.plan import VIEWS, plan_patient, switched
from mammo_sae.phantom.settings import ARTEFACTS, COMPONENTS, PhantomSettings


def test_an_image_is_the_same_every_time(training, afflicted):
    patient = afflicted(training)
    first, again = (render(training, patient, patient.sides[0], "CC") for _ in range(2))
    assert np.array_equal(first.display, again.display)
    assert np.array_equal(first.bit_planes, again.bit_planes)
    assert first.planted == again.planted


def test_seed_part_patient_and_view_each_make_another_image(training, afflicted):
    patient = afflicted(training)
    side = patient.sides[0]
    base = render(training, patient, side, "CC").display
    others = [
        render(training.model_copy(update={"seed": 1}), patient, side, "CC"),
        render(training, dataclasses.replace(patient, part="test"), side, "CC"),
        render(training, dataclasses.replace(patient, number=999), side, "CC"),
        render(training, patient, side, "MLO"),
    ]
    for other in others:
        assert not np.array_equal(base, other.display)


def test_switching_twice_gives_the_patient_as_it_was_planned(training):
    for number in range(30):
        patient = plan_patient(training, number)
        for component in COMPONENTS:
            other = switched(training, patient, component)
            assert other.has(component) != patient.has(component)
            assert all(other.has(c) == patient.has(c) for c in COMPONENTS if c != component)
            assert switched(training, other, component) == patient


@pytest.mark.parametrize("component", list(BIT_PLANES))
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", ["full_size", "training"])
def test_masks_are_exactly_the_pixels_that_the_counterfactual_changes(
    request, afflicted, component, view, size
):
    settings = request.getfixturevalue(size)
    patient = afflicted(settings)
    if component in ARTEFACTS:
        patient = dataclasses.replace(patient, artefacts=patient.artefacts | {component})
    side = patient.sides[0]
    image = render(settings, patient, side, view)
    without = render(settings, switched(settings, patient, component), side, view)
    mask = image.regions[component]
    changed = image.display != without.display
    assert mask.any()
    assert not without.regions[component].any()
    assert not (changed & ~mask).any()
    if component == "suspicious_calcification":
        # Its region is the hull of the specks, so every side of its box touches one.
        for axis in (0, 1):
            hull, specks = np.flatnonzero(mask.any(axis)), np.flatnonzero(changed.any(axis))
            assert (hull[0], hull[-1]) == (specks[0], specks[-1])
    else:
        assert (changed & mask).sum() >= 0.98 * mask.sum()
    others = [name for name in BIT_PLANES if name != component]
    for name in others:
        assert np.array_equal(image.regions[name], without.regions[name])


def test_artefacts_over_the_breast_brighten_it_and_a_dead_column_is_black(full_size, afflicted):
    patient = afflicted(full_size)
    for name in ("skin_fold", "wire", "implant", "dead_column"):
        with_it = render(full_size, switched(full_size, patient, name), patient.sides[0], "CC")
        without = render(full_size, patient, patient.sides[0], "CC")
        mask = with_it.regions[name]
        assert (mask & with_it.inside).sum() == mask.sum() > 50
        change = (with_it.display - without.display)[mask]
        if name == "dead_column":
            assert (with_it.display[mask] == 0).all()
        else:
            assert (change >= 0).all()
            assert change.max() > 0.03


def test_lesions_brighten_and_lie_in_the_breast_but_the_marker_beside_it(full_size, afflicted):
    for skip in range(4):
        patient = afflicted(full_size, skip)
        for view in VIEWS:
            image = render(full_size, patient, patient.sides[0], view)
            for name in ("mass", "suspicious_calcification", "paddle"):
                other = switched(full_size, patient, name)
                without = render(full_size, other, patient.sides[0], view)
                assert (image.display >= without.display).all()
                assert image.inside[image.regions[name]].all()
            assert not (image.inside & image.regions["marker"]).any()
            assert image.display[image.regions["marker"]].max() > 0.75


def test_the_vendor_changes_greys_and_noise_but_no_structure(full_size, afflicted):
    patient = afflicted(full_size)
    side = patient.sides[0]
    second = render(full_size, patient, side, "CC")
    other = switched(full_size, patient, "vendor")
    first = render(full_size, other, side, "CC")
    assert second.vendor.manufacturer != first.vendor.manufacturer
    assert np.array_equal(second.bit_planes, first.bit_planes)
    inside = first.inside
    undone = second.display ** (1 / second.vendor.gamma)
    assert np.corrcoef(undone[inside], first.display[inside])[0, 1] > 0.98
    assert second.display[inside].mean() > first.display[inside].mean() + 0.02

    quiet = full_size.model_copy(update={"noise": 0.0})
    deviation = []
    for drawn in (patient, other):
        noisy, clean = (
            image.display ** (1 / image.vendor.gamma)
            for image in (render(s, drawn, side, "CC") for s in (full_size, quiet))
        )
        fat = inside & (clean > 0.25) & (clean < 0.28)
        deviation.append((noisy - clean)[fat].std())
    assert deviation[0] / deviation[1] == pytest.approx(1.6, rel=0.05)
    # Fat transmits more photons than the half glandular tissue for which the setting is defined.
    thinner = 0.5 * (MU_GLANDULAR - MU_FAT) * THICKNESS_CM[patient.density]
    expected = full_size.noise * math.exp(-0.5 * thinner)
    assert deviation[1] == pytest.approx(expected, rel=0.1)


def test_views_share_the_findings_artefacts_and_density(training, afflicted):
    patient = afflicted(training)
    side = patient.sides[0]
    cc, mlo = (render(training, patient, side, view) for view in VIEWS)
    assert cc.vendor is mlo.vendor
    for name in BIT_PLANES:
        assert cc.regions[name].any() == mlo.regions[name].any() == patient.has(name)
    assert cc.planted["dense_share"] == pytest.approx(mlo.planted["dense_share"], abs=0.06)


def test_a_mass_is_as_large_and_as_deep_in_both_views(full_size, afflicted):
    areas, depths = [], []
    for skip in range(12):
        patient = dataclasses.replace(afflicted(full_size, skip), artefacts=frozenset())
        mass = dataclasses.replace(patient.mass, kind="oval")
        patient = dataclasses.replace(patient, mass=mass)
        masks = [
            render(full_size, patient, patient.sides[0], view).regions["mass"] for view in VIEWS
        ]
        areas.append([mask.sum() for mask in masks])
        columns = [np.nonzero(mask)[1].mean() for mask in masks]
        depths.append([256 - x if patient.sides[0] == "R" else x for x in columns])
    areas, depths = np.array(areas), np.array(depths)
    assert (np.abs(np.log(areas[:, 0] / areas[:, 1])) < 0.6).all()
    assert np.corrcoef(depths.T)[0, 1] > 0.5


@pytest.mark.parametrize("view", VIEWS)
def test_density_raises_the_dense_share_step_by_step(full_size, afflicted, view):
    patient = afflicted(full_size)
    shares, brightness = [], []
    for density in "ABCD":
        image = render(
            full_size, dataclasses.replace(patient, density=density), patient.sides[0], view
        )
        shares.append(image.planted["dense_share"])
        brightness.append(image.display[image.inside].mean())
    assert shares == sorted(shares)
    assert brightness == sorted(brightness)
    assert shares == pytest.approx([1 - FAT_SHARE[density] for density in "ABCD"], abs=0.02)


def test_the_right_breast_is_against_the_other_edge_with_a_readable_marker(full_size, afflicted):
    settings = full_size.model_copy(update={"breasts": "both"})
    patient = dataclasses.replace(afflicted(settings), artefacts=frozenset({"marker"}))
    left, right = (render(settings, patient, side, "CC") for side in ("L", "R"))
    assert left.inside[:, 0].any()
    assert not left.inside[:, -1].any()
    assert right.inside[:, -1].any()
    assert not right.inside[:, 0].any()
    # The gap after the side's letter comes first in `R CC` as it does in `L CC`.
    for image in (left, right):
        drawn = image.regions["marker"].any(axis=0)
        columns = np.flatnonzero(drawn)
        gaps = np.flatnonzero(~drawn[columns[0] : columns[-1]])
        assert gaps.mean() < 0.5 * (columns[-1] - columns[0])


def test_only_the_oblique_view_shows_the_pectoral_muscle(full_size, afflicted):
    patient = dataclasses.replace(
        afflicted(full_size), density="A", mass=None, cluster=None, artefacts=frozenset()
    )
    cc, mlo = (render(full_size, patient, patient.sides[0], view) for view in VIEWS)
    wall = slice(0, 20) if patient.sides[0] == "L" else slice(-20, None)
    corner = mlo.display[:40, wall]
    assert corner.mean() > 1.5 * np.median(mlo.display[mlo.inside])
    assert np.quantile(cc.display[:, wall][cc.inside[:, wall]], 0.9) < 0.8 * corner.mean()


def test_tissue_has_the_power_spectrum_of_the_settings():
    slopes = []
    for exponent in (2.2, 3.2):
        settings = PhantomSettings(texture_exponent=exponent, noise=0.0).part("training")
        slopes.append(_spectral_slope(settings))
    assert slopes[1] > slopes[0] + 0.3
    assert 2.3 < _spectral_slope(PhantomSettings().part("training")) < 3.7


def _spectral_slope(settings) -> float:
    """Return beta of 1 / f^beta over the middle of breasts without findings (2 to 14 cycles)."""
    power = np.zeros((96, 96))
    for number in range(12):
        patient = dataclasses.replace(
            plan_patient(settings, number),
            density="C",
            mass=None,
            cluster=None,
            sides=("L",),
            artefacts=frozenset(),
        )
        patch = render(settings, patient, "L", "CC").display[144:240, 16:112]
        window = np.outer(np.hanning(96), np.hanning(96))
        power += np.abs(np.fft.fft2((patch - patch.mean()) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(96) * 96, np.fft.fftfreq(96) * 96))
    rings = np.arange(2, 15)
    mean = [power[(radius >= r - 0.5) & (radius < r + 0.5)].mean() for r in rings]
    return -np.polyfit(np.log(rings), np.log(mean), 1)[0]
