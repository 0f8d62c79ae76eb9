"""Findings (masses, calcification clusters) and benign structures that resemble them.

All but vessels are stamps around a centre (y, x) in pixels. A stamp's grey is above 0 exactly in
the pixels that belong to the finding or structure, so these pixels are the exact mask.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from mammo_sae.phantom.plan import Cluster, Mass
from mammo_sae.phantom.stamps import Stamp, patch_grid

Point = tuple[float, float]

# Where a profile is below this share of its peak, nothing is drawn. Otherwise the mask would
# contain pixels in which the lesion is invisible.
TAIL = 0.08


def draw_mass(mass: Mass, centre: Point, rng: np.random.Generator, shape: tuple[int, int]) -> Stamp:
    """Draw a mass with the margin r(theta) = B (1 + sum of a_k cos(k theta + phi_k)), k = 2 to 5.

    R is the radius of the mass. An oval mass has B = R and a sharp margin. A spiculated mass has
    B = 0.72 R, fades out, and has 12 to 30 tapering spicules that end between 1.1 and 2 R. The body
    of a mass is flattened to an axis ratio of 0.72 to 1.
    """
    spiculated = mass.kind == "spiculated"
    body = (0.72 if spiculated else 1.0) * mass.radius
    reach = (2.0 if spiculated else 1.3) * mass.radius
    top, left, y, x = patch_grid(centre, reach, shape)
    wobble = 0.09 if spiculated else 0.035
    distance = _relative_distance(y, x, body, rng, axis_ratio=(0.72, 1.0), wobble=wobble)
    grey = (1 - distance**2).clip(0) ** (0.9 if spiculated else 0.45)
    if spiculated:
        grey = np.maximum(grey, _spicules(y, x, mass.radius, rng))
    return Stamp(top, left, _without_tail(grey, mass.contrast))


def _spicules(y: np.ndarray, x: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(12, 31))
    angles = 2 * math.pi * (np.arange(count) + rng.uniform(-0.4, 0.4, count)) / count
    lengths = rng.uniform(1.1, 2.0, count) * radius
    bends = rng.uniform(-0.15, 0.15, count) / radius
    width = max(0.06 * radius, 0.5)
    grey = np.zeros(np.broadcast(y, x).shape, np.float32)
    for angle, length, bend in zip(angles, lengths, bends, strict=True):
        cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        along = cosine * x + sine * y
        across = cosine * y - sine * x - np.float32(bend) * along * along
        left = (1 - along / np.float32(length)).clip(0) * (along > 0)
        taper = np.float32(width) * (0.4 + left)
        np.maximum(grey, 0.7 * np.sqrt(left) * np.exp(-0.5 * (across / taper) ** 2), out=grey)
    return grey


def draw_cluster(
    cluster: Cluster, centre: Point, blur: float, rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[Stamp, np.ndarray]:
    """Draw a calcification cluster; return its stamp and its region, bool [H, W].

    The specks are spread over an ellipse. Its long half-axis is the radius of the cluster. The
    region is the convex hull of the specks' pixels, because a radiologist would outline the cluster
    and not single specks.
    """
    count = cluster.specks
    distance = cluster.radius * np.sqrt(rng.uniform(0, 1, count))
    angle = rng.uniform(0, 2 * math.pi, count)
    turn, squeeze = rng.uniform(0, math.pi), rng.uniform(0.5, 1.0)
    along, across = distance * np.cos(angle), squeeze * distance * np.sin(angle)
    dy = math.sin(turn) * along + math.cos(turn) * across
    dx = math.cos(turn) * along - math.sin(turn) * across
    peaks = rng.uniform(0.75, 1.0, count)
    top, left, y, x = patch_grid(centre, cluster.radius + 4 * blur, shape)
    squares = (y[None] - dy[:, None, None].astype(np.float32)) ** 2 + (
        x[None] - dx[:, None, None].astype(np.float32)
    ) ** 2
    specks = peaks[:, None, None] * np.exp(-squares / (2 * blur**2))
    stamp = Stamp(top, left, _without_tail(specks.max(axis=0), cluster.contrast))
    return stamp, _hull(stamp, shape)


def _hull(stamp: Stamp, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.nonzero(stamp.grey)
    # The hull of pixel corners has an area even if all pixel centres lie on one line.
    corners = np.concatenate(
        [np.stack([rows + dy, columns + dx], 1) for dy in (-0.5, 0.5) for dx in (-0.5, 0.5)]
    )
    faces = ConvexHull(corners).equations
    y, x = np.indices(stamp.grey.shape)
    region = np.ones(stamp.grey.shape, bool)
    for a, b, c in faces:
        region &= a * y + b * x + c <= 0
    mask = np.zeros(shape, bool)
    mask[stamp.window] = region
    return mask


def draw_island(
    centre: Point, radius: float, contrast: float, rng: np.random.Generator, shape: tuple[int, int]
) -> Stamp:
    """Draw an island of dense tissue: as large as a mass, fainter, without a sharp margin."""
    top, left, y, x = patch_grid(centre, 1.5 * radius, shape)
    distance = _relative_distance(y, x, radius, rng, axis_ratio=(0.5, 0.9), wobble=0.12)
    return Stamp(top, left, _without_tail((1 - distance**2).clip(0) ** 2, contrast))


def draw_speck(centre: Point, blur: float, contrast: float, shape: tuple[int, int]) -> Stamp:
    """Draw a single benign calcification, a Gaussian of standard deviation `blur` pixels."""
    top, left, y, x = patch_grid(centre, 4 * blur, shape)
    return Stamp(top, left, _without_tail(np.exp(-(y**2 + x**2) / (2 * blur**2)), contrast))


def draw_vessels(
    paths: list[np.ndarray], width: float, contrasts: list[float], shape: tuple[int, int]
) -> np.ndarray:
    """Draw vessels along `paths` (each [n, 2] of y, x); return their grey, [H, W] float32.

    A vessel has a Gaussian profile: `width` is the standard deviation in pixels, and the peak is
    its number in `contrasts`.
    """
    line = np.zeros(shape, np.float32)
    for path, contrast in zip(paths, contrasts, strict=True):
        step = np.hypot(*np.diff(path, axis=0).T).mean()
        base = np.floor(path).astype(int)
        part = path - base
        for dy in (0, 1):
            for dx in (0, 1):
                rows, columns = base[:, 0] + dy, base[:, 1] + dx
                share = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
                seen = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
                np.add.at(line, (rows[seen], columns[seen]), contrast * step * share[seen])
    # The blur gives a line of density 1 the peak 1 / (width sqrt(2 pi)). The factor cancels it.
    return ndimage.gaussian_filter(line, width, truncate=3) * (width * math.sqrt(2 * math.pi))


def vessel_path(start: Point, end: Point, rng: np.random.Generator) -> np.ndarray:
    """Return a winding path from `start` to `end`, [n, 2] of y, x, in steps of half a pixel."""
    chord = np.subtract(end, start)
    length = float(np.hypot(*chord))
    t = np.linspace(0, 1, max(int(2 * length), 8))
    sway = np.zeros_like(t)
    for order in (1, 2, 3, 5):
        sway += rng.normal(0, 0.09 / order) * length * np.sin(math.pi * order * t)
    normal = np.array([-chord[1], chord[0]]) / max(length, 1e-6)
    return np.asarray(start) + t[:, None] * chord + sway[:, None] * normal


def _relative_distance(
    y: np.ndarray,
    x: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    *,
    axis_ratio: tuple[float, float],
    wobble: float,
) -> np.ndarray:
    """Return the distance from the centre divided by that of the margin in the same direction."""
    turn, squeeze = rng.uniform(0, math.pi), rng.uniform(*axis_ratio)
    cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    along = cosine * x + sine * y
    across = (cosine * y - sine * x) / np.float32(squeeze)
    angle = np.arctan2(across, along)
    margin = np.ones_like(angle)
    for order in range(2, 6):
        size, phase = rng.normal(0, wobble), rng.uniform(0, 2 * math.pi)
        margin += np.float32(size) * np.cos(order * angle + np.float32(phase))
    return np.hypot(along, across) / (np.float32(radius) * margin.clip(0.4))


def _without_tail(profile: np.ndarray, contrast: float) -> np.ndarray:
    """Return `profile` (peak 1) scaled to the peak `contrast`, and 0 where it is below `TAIL`."""
    return (contrast / (1 - TAIL) * (profile - TAIL).clip(0)).astype(np.float32)
