"""One phantom image: breast, findings, distractors, artefacts and noise, with exact masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mammo_sae.phantom.anatomy import (
    MU_FAT,
    MU_GLANDULAR,
    THICKNESS_CM,
    Breast,
    draw_breast,
)
from mammo_sae.phantom.artefacts import (
    draw_dead_column,
    draw_implant,
    draw_marker,
    draw_paddle,
    draw_skin_fold,
    draw_wire,
)
from mammo_sae.phantom.lesions import (
    draw_cluster,
    draw_island,
    draw_mass,
    draw_speck,
    draw_vessels,
    vessel_path,
)
from mammo_sae.phantom.plan import Patient, Side, View
from mammo_sae.phantom.settings import Artefact, PhantomPartSettings
from mammo_sae.phantom.stamps import Stamp
from mammo_sae.phantom.streams import random_stream
from mammo_sae.phantom.vendors import VENDORS, Vendor

# Region -> its bit in the mask files. `PhantomImage.regions` has the same order.
BIT_PLANES = {
    "mass": 0,
    "suspicious_calcification": 1,
    "marker": 2,
    "paddle": 3,
    "skin_fold": 4,
    "wire": 5,
    "dead_column": 6,
    "implant": 7,
}


@dataclass(frozen=True)
class PhantomImage:
    """An image as an archive contains it: a right breast is mirrored, the marker's text is not."""

    display: np.ndarray  # [H, W] float32, 0 black to 1 white: the image that a viewer should show
    regions: dict[str, np.ndarray]  # by name in BIT_PLANES, bool [H, W]; all False if not present
    inside: np.ndarray  # bool [H, W]: breast
    vendor: Vendor
    planted: dict[str, float]  # strengths and counts of what was drawn, and the dense share

    @property
    def stored(self) -> np.ndarray:
        """Return the stored values of the vendor's files, uint16 [H, W]."""
        return self.vendor.stored(self.display)

    @property
    def bit_planes(self) -> np.ndarray:
        """Return all regions in one uint8 [H, W], one bit each."""
        planes = np.zeros(self.display.shape, np.uint8)
        for region, bit in BIT_PLANES.items():
            planes |= self.regions[region].astype(np.uint8) << bit
        return planes


def render(
    settings: PhantomPartSettings,
    patient: Patient,
    side: Side,
    view: View,
) -> PhantomImage:
    """Draw one image of a patient.

    Parameters
    ----------
    settings
        The settings with which `patient` was planned.
    patient
        A patient from `plan_patient`.
    side, view
        Which of the patient's images to draw.

    Each finding and artefact has a random stream of its own. If `plan.switched` adds or removes
    one of them, only the pixels inside the mask of that finding or artefact change. The vendor has
    no mask and changes the whole image.
    """

    def stream(component: str) -> np.random.Generator:
        return random_stream(settings.seed, patient.part, patient.number, side, view, component)

    shape = settings.height, settings.width
    breast = draw_breast(settings, patient, side, view)
    grey = breast.grey.copy()
    regions = {name: np.zeros(shape, bool) for name in BIT_PLANES}

    planted = _add_distractors(settings, breast, grey, stream("distractors"))

    mass = patient.breast_mass(side)
    if mass is not None:
        site = breast.outline.place(mass.site.depth, mass.site.offsets[view], mass.radius)
        stamp = draw_mass(mass, site, stream("mass"), shape)
        regions["mass"] = _add(stamp, breast, grey)

    cluster = patient.breast_cluster(side)
    if cluster is not None:
        site = breast.outline.place(cluster.site.depth, cluster.site.offsets[view], cluster.radius)
        blur = speck_blur(settings)
        stamp, region = draw_cluster(cluster, site, blur, stream("cluster"), shape)
        _add(stamp, breast, grey)
        regions["suspicious_calcification"] = region & breast.inside

    _add_artefacts(settings, patient, breast, grey, regions, planted, stream)
    vendor = VENDORS["vendor" in patient.artefacts]
    grey += _noise(settings, patient, breast, stream("noise")) * vendor.noise
    if "dead_column" in patient.artefacts:
        column = draw_dead_column(breast, stream("dead_column"), settings.scale)
        grey[column.window] *= 1 - column.grey
        regions["dead_column"] = column.mask(shape)

    inside = breast.inside
    if side == "R":
        grey, inside = grey[:, ::-1].copy(), inside[:, ::-1].copy()
        regions = {name: region[:, ::-1].copy() for name, region in regions.items()}
    if "marker" in patient.artefacts:
        stamp, level = draw_marker(breast, side, view, stream("marker"), settings.scale)
        behind = grey[stamp.window].clip(0)
        grey[stamp.window] = behind + stamp.grey * (level - behind)
        regions["marker"] = stamp.mask(shape)
        planted["marker_grey"] = level

    planted["dense_share"] = float(breast.dense[breast.inside].mean())
    return PhantomImage(vendor.display(grey), regions, inside, vendor, planted)


def _add_artefacts(
    settings: PhantomPartSettings,
    patient: Patient,
    breast: Breast,
    grey: np.ndarray,
    regions: dict[str, np.ndarray],
    planted: dict[str, float],
    stream: Callable[[str], np.random.Generator],
) -> None:
    """Add the patient's artefacts over the breast to `grey`, `regions` and `planted`."""
    scale = settings.scale
    draw: dict[Artefact, Callable[[np.random.Generator], tuple[Stamp, float]]] = {
        "implant": lambda rng: draw_implant(breast, rng),
        "skin_fold": lambda rng: draw_skin_fold(breast, rng, scale),
        "wire": lambda rng: draw_wire(breast, rng, scale),
        "paddle": lambda rng: draw_paddle(breast, rng, scale),
    }
    for name, drawn in draw.items():
        if name in patient.artefacts:
            stamp, planted[f"{name}_contrast"] = drawn(stream(name))
            regions[name] = _add(stamp, breast, grey)


def speck_blur(settings: PhantomPartSettings) -> float:
    """Return the standard deviation of a speck in pixels: scaled, and at least 0.6."""
    return max(settings.calcification.blur * settings.scale, 0.6)


def _add(stamp: Stamp, breast: Breast, grey: np.ndarray) -> np.ndarray:
    """Add a stamp inside the breast to `grey`; return the changed pixels, bool [H, W]."""
    window = stamp.window
    inside = breast.inside[window]
    grey[window] += stamp.grey * inside
    mask = np.zeros(grey.shape, bool)
    mask[window] = inside & (stamp.grey > 0)
    return mask


def _add_distractors(
    settings: PhantomPartSettings, breast: Breast, grey: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    distractors, outline, scale = settings.distractors, breast.outline, settings.scale
    islands, vessels, specks = (
        int(rng.poisson(mean))
        for mean in (distractors.islands, distractors.vessels, distractors.specks)
    )
    for _ in range(islands):
        radius = rng.uniform(*settings.mass.radius) * scale
        site = outline.place(rng.uniform(0.15, 0.8), rng.uniform(-0.7, 0.7), 0.8 * radius)
        contrast = rng.uniform(*distractors.island_contrast)
        _add(draw_island(site, radius, contrast, rng, grey.shape), breast, grey)
    for _ in range(specks):
        site = outline.place(rng.uniform(0.05, 0.9), rng.uniform(-0.8, 0.8), 4 * scale)
        contrast = rng.uniform(*settings.calcification.contrast)
        _add(draw_speck(site, speck_blur(settings), contrast, grey.shape), breast, grey)
    if vessels:
        paths, contrasts = [], []
        for _ in range(vessels):
            start = outline.place(0.0, rng.uniform(-0.75, 0.75), 3 * scale)
            end = outline.place(rng.uniform(0.6, 0.92), rng.uniform(-0.45, 0.45), 3 * scale)
            paths.append(vessel_path(start, end, rng))
            contrasts.append(rng.uniform(0.05, 0.11))
        width = max(1.1 * scale, 0.6)
        grey += draw_vessels(paths, width, contrasts, grey.shape) * breast.inside
    return {"islands": islands, "vessels": vessels, "single_specks": specks}


def _noise(
    settings: PhantomPartSettings, patient: Patient, breast: Breast, rng: np.random.Generator
) -> np.ndarray:
    """Return the quantum noise of the log signal, [H, W].

    The standard deviation grows as exp(A / 2), where A is the attenuation: the number of photons
    I = I0 exp(-A) has the standard deviation sqrt(I), so -ln I has the standard deviation
    1 / sqrt(I). `settings.noise` is the standard deviation at full thickness where half of the
    tissue is glandular.
    """
    middle = 0.5 * (MU_FAT + MU_GLANDULAR) * THICKNESS_CM[patient.density]
    deviation = settings.noise * np.exp(0.5 * (breast.attenuation - middle))
    normal = rng.standard_normal(breast.grey.shape, dtype=np.float32)
    return normal * deviation * breast.inside
