"""The breast without findings: outline, thickness, tissue, muscle.

Images are drawn as left breasts: chest wall at column 0, nipple to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

from mammo_sae.phantom.plan import Patient, Side, View
from mammo_sae.phantom.settings import REFERENCE_HEIGHT, Density, PhantomPartSettings
from mammo_sae.phantom.streams import random_stream

# Share of fat in the tissue's volume, and compressed thickness (cm), per BI-RADS category.
FAT_SHARE: dict[Density, float] = {"A": 0.95, "B": 0.85, "C": 0.66, "D": 0.40}
THICKNESS_CM: dict[Density, float] = {"A": 6.0, "B": 5.5, "C": 4.5, "D": 3.5}
# Linear attenuation at mammographic energies, per cm.
MU_FAT = 0.45
MU_GLANDULAR = 0.80


# Display units: the grey of fat, and how much brighter glandular tissue of full thickness is.
FAT_GREY = 0.26
GLANDULAR_GREY = 0.38
# Presentation processing removes this share of the decrease in grey towards the skin.
PERIPHERAL_EQUALISATION = 0.72
# Blur of the tissue by focal spot and detector: standard deviation, pixels at reference height.
SYSTEM_BLUR = 0.8
# Width of the step from fat to glandular tissue, in standard deviations of the tissue's texture.
SOFTNESS = 0.75


@dataclass(frozen=True)
class Outline:
    """A half-superellipse against the chest wall, with a nipple at its tip. Units are pixels.

    (x / reach)^n + |(y - axis) / half|^n = 1. `half` and n differ between the halves of the breast
    above and below the axis.
    """

    reach: float
    axis: float
    above: float
    below: float
    exponent_above: float
    exponent_below: float
    nipple: float  # radius
    # x where the muscle's edge meets the top of the image, y where it meets the chest wall
    muscle: tuple[float, float] | None

    def level(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the level (1 at the skin, less inside) and the distance to the skin in pixels.

        `y` and `x` broadcast. The level of a point is the point's distance from the origin
        (chest wall, axis), divided by the distance of the skin in the same direction. The distance
        to the skin is approximated to first order, (1 - level) / |gradient of level|. It is exact
        at the skin and positive inside.
        """
        upper = y < self.axis
        half = np.where(upper, self.above, self.below).astype(np.float32)
        n = np.where(upper, self.exponent_above, self.exponent_below).astype(np.float32)
        u = np.maximum(x / self.reach, 1e-3)
        v = np.maximum(np.abs(y - self.axis) / half, 1e-3)
        power = u**n + v**n
        level = power ** (1 / n)
        gradient = np.hypot(u ** (n - 1) / self.reach, v ** (n - 1) / half) * level / power
        return level, (1 - level) / gradient

    def muscle_depth(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the depth in the pectoral muscle.

        It is 0 at the muscle's edge, 1 in the upper corner at the chest wall, and negative outside
        the muscle.
        """
        assert self.muscle is not None
        top, wall = self.muscle
        # The edge bulges a little towards the nipple.
        return 1 - (np.maximum(x, 0) / top) ** 1.15 - np.maximum(y, 0) / wall

    def place(self, depth: float, offset: float, margin: float) -> tuple[float, float]:
        """Return (y, x) of a site, in pixels, moved towards the middle of the breast until it fits.

        `depth` is the distance from the chest wall as a share of the reach. `offset` is the
        distance below the axis as a share of that half of the breast. A site fits if the skin and
        the pectoral muscle are more than `margin` pixels away. If no site fits, the middle is
        returned.
        """
        half = self.above if offset < 0 else self.below
        pull = np.linspace(1, 0, 21, dtype=np.float32)
        y = self.axis + pull * offset * half
        x = self.reach * (0.45 + pull * (depth - 0.45))
        fits = self.level(y, x)[1] > margin
        if self.muscle is not None:
            fits &= -self.muscle_depth(y, x) * min(self.muscle) > margin
        chosen = int(np.argmax(fits)) if fits.any() else -1
        return float(y[chosen]), float(x[chosen])


@dataclass(frozen=True)
class Breast:
    """A breast in one view; arrays are [H, W] float32 unless a comment says otherwise."""

    outline: Outline
    inside: np.ndarray  # bool
    dense: np.ndarray  # glandular share of the tissue along the ray, 0 to 1, without the muscle
    attenuation: np.ndarray  # line integral of linear attenuation, without unit; 0 outside
    grey: np.ndarray  # linear grey without lesions, before `Vendor.display`; -1 outside


def draw_outline(
    settings: PhantomPartSettings, patient: Patient, side: Side, view: View
) -> Outline:
    """Draw the breast's outline. Both views share the patient's size, and add a small variation."""
    height, width = settings.height, settings.width
    common = random_stream(settings.seed, patient.part, patient.number, "size")
    size = common.uniform(0.78, 1.0)
    own = random_stream(settings.seed, patient.part, patient.number, side, view, "outline")
    reach = size * own.uniform(0.80, 0.86) * width
    exponents = own.uniform(2.0, 2.5, size=2)
    muscle = None
    if view == "CC":
        above, below = size * own.uniform(0.43, 0.48, size=2) * height
        axis = own.uniform(0.47, 0.53) * height
    else:
        above = own.uniform(0.70, 0.80) * height
        below = size * own.uniform(0.34, 0.38) * height
        axis = own.uniform(0.56, 0.61) * height
        wall = own.uniform(0.45, 0.65) * height
        angle = math.radians(own.uniform(20, 32))
        muscle = (min(wall * math.tan(angle), 0.55 * reach), wall)
    return Outline(
        reach=reach,
        axis=axis,
        above=above,
        below=below,
        exponent_above=exponents[0],
        exponent_below=exponents[1],
        nipple=own.uniform(5.0, 7.5) * settings.scale,
        muscle=muscle,
    )


def draw_breast(settings: PhantomPartSettings, patient: Patient, side: Side, view: View) -> Breast:
    """Draw the breast of a patient in one view, without findings, distractors or artefacts."""
    height, width, scale = settings.height, settings.width, settings.scale
    outline = draw_outline(settings, patient, side, view)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    _, depth = outline.level(y, x)

    nipple = outline.nipple - np.hypot(y - outline.axis, x - outline.reach + 0.6 * outline.nipple)
    depth = np.maximum(depth, nipple)
    inside = depth > 0

    rng = random_stream(settings.seed, patient.part, patient.number, side, view, "tissue")
    field, fine, strands = _textures(
        rng, (height, width), settings.texture_exponent, (outline.axis, outline.reach)
    )

    # Glandular tissue lies in a cone behind the nipple. Fat lies under the skin and at the chest
    # wall.
    u = x / outline.reach
    half = np.where(y < outline.axis, outline.above, outline.below).astype(np.float32)
    shift = -0.12 if view == "MLO" else 0.0
    v = (y - outline.axis) / half - shift
    cone = -2.4 * (u - 0.52) ** 2 / 0.30 - 2.4 * v**2 / (0.25 + 0.35 * (1 - u).clip(0))
    skin_fat = -4.0 * np.exp(-depth.clip(0) / (9 * scale))
    field = 0.8 * field + 0.45 * fine + 0.3 * strands + cone + skin_fat
    threshold = _threshold(field[::4, ::4][inside[::4, ::4]], 1 - FAT_SHARE[patient.density])
    dense = _sigmoid((field - threshold) / SOFTNESS)

    tissue = dense
    if outline.muscle is not None:
        muscle = outline.muscle_depth(y, x).clip(0)
        share = 0.45 + 0.35 * muscle + 0.04 * fine
        tissue = np.maximum(dense, (muscle / 0.16).clip(0, 1) * share)

    full = THICKNESS_CM[patient.density]
    thickness = full * _roll_off(depth, 0.30 * outline.reach)
    attenuation = thickness * (MU_FAT + (MU_GLANDULAR - MU_FAT) * tissue)

    # FOR PRESENTATION: linear in the attenuation, less a part of the decrease towards the skin.
    slope = GLANDULAR_GREY / ((MU_GLANDULAR - MU_FAT) * full)
    equalised = attenuation + PERIPHERAL_EQUALISATION * MU_FAT * (full - thickness)
    grey = FAT_GREY + slope * (equalised - MU_FAT * full)
    lobules = 0.018 * fine + 0.025 * strands
    skin = 0.07 * np.exp(-((depth / (2.2 * scale) - 0.6) ** 2))
    grey = grey + (lobules * (thickness / full) + skin + 0.06 * (nipple > 0)) * inside
    return Breast(
        outline=outline,
        inside=inside,
        dense=(dense * inside).astype(np.float32),
        attenuation=attenuation.astype(np.float32),
        grey=np.where(inside, grey, -1.0).astype(np.float32),
    )


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _threshold(field: np.ndarray, share: float) -> float:
    """Return q such that the mean of sigmoid((field - q) / SOFTNESS) is `share`, by bisection."""
    low, high = float(field.min()) - 5.0, float(field.max()) + 5.0
    for _ in range(16):
        middle = (low + high) / 2
        if _sigmoid((field - middle) / SOFTNESS).mean() > share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _roll_off(depth: np.ndarray, width: float) -> np.ndarray:
    """Return thickness divided by full thickness: sqrt(1 - (1 - min(depth / width, 1))^2)."""
    return np.sqrt(1 - (1 - (depth / width).clip(0, 1)) ** 2)


def _textures(
    rng: np.random.Generator,
    shape: tuple[int, int],
    exponent: float,
    nipple: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three textures [H, W]: tissue, fine structure of unit variance, and strands.

    The tissue has the power spectrum 1 / f^exponent, and its structures are elongated towards the
    nipple. For this, three fields of one spectrum are elongated along -45, 0 and 45 degrees, and
    are blended by the direction to the nipple. Strands have values from 0 to 1. They are thin
    curved lines along the zero crossings of another field, like Cooper's ligaments.
    """
    height, width = shape
    bins = (height, width // 2 + 1)
    spectrum = _complex_normal(rng, bins)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    slope = ((y - nipple[0]) / np.maximum(nipple[1] + 0.15 * width - x, 1)).clip(-1, 1)
    weights = ((-slope).clip(0), 1 - np.abs(slope), slope.clip(0))
    total = np.zeros(shape, np.float32)
    for angle, weight in zip((45, 0, -45), weights, strict=True):
        part = fft.irfft2(spectrum * _amplitude(shape, exponent, 2, angle), s=shape)
        total += weight * (part / part.std())
    total /= np.sqrt(sum(weight**2 for weight in weights))

    fine = fft.irfft2(_complex_normal(rng, bins) * _amplitude(shape, 3.0, 5), s=shape)
    fine /= fine.std()
    ridge = fft.irfft2(_complex_normal(rng, bins) * _amplitude(shape, 4.0, 4), s=shape)
    strands = np.exp(-((ridge / (0.14 * ridge.std())) ** 2))
    return total, fine, strands


def _complex_normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


@lru_cache(maxsize=16)
def _amplitude(
    shape: tuple[int, int], exponent: float, lowest: float, angle: float | None = None
) -> np.ndarray:
    """Return f^(-exponent / 2) over the real spectrum of an image, float32 [H, W // 2 + 1].

    f is in cycles per image height. The amplitude includes the blur of `SYSTEM_BLUR`. Below the
    frequency `lowest` it is 0, because structures of that size are drawn as anatomy. If an `angle`
    (degrees) is given, structures are elongated along this direction.
    """
    height, width = shape
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.rfftfreq(width)[None, :] * height
    if angle is None:
        frequency = np.hypot(fx, fy)
    else:
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        stretch = 1.5
        frequency = np.hypot(
            stretch * (cosine * fx + sine * fy), (cosine * fy - sine * fx) / stretch
        )
    blur = np.exp(-2 * (math.pi * SYSTEM_BLUR * np.hypot(fx, fy) / REFERENCE_HEIGHT) ** 2)
    amplitude = np.maximum(frequency, lowest) ** (-exponent / 2) * blur
    return np.where(frequency < lowest, 0, amplitude).astype(np.float32)
