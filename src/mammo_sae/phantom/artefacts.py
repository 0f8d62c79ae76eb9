"""Artefacts with an exact mask: view marker, paddle, skin fold, wire, dead column and implant."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from mammo_sae.phantom.anatomy import Breast
from mammo_sae.phantom.plan import Side, View
from mammo_sae.phantom.stamps import Stamp

Stroke = tuple[tuple[float, float], ...]


def _arc(centre: tuple[float, float], radii: tuple[float, float], start: int, end: int) -> Stroke:
    """Return points (x, y) of an elliptic arc; angles in degrees, clockwise from the right."""
    count = max(abs(end - start) // 18, 2)
    angles = [math.radians(start + (end - start) * i / count) for i in range(count + 1)]
    return tuple(
        (centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles
    )


# Letter -> (width, strokes). A stroke is a line through points (x, y), y downwards. A letter has
# height 1.
LETTERS: dict[str, tuple[float, tuple[Stroke, ...]]] = {
    "C": (0.60, (_arc((0.32, 0.5), (0.30, 0.48), -48, -312),)),
    "L": (0.50, (((0.05, 0.0), (0.05, 1.0), (0.47, 1.0)),)),
    "M": (0.78, (((0.05, 1.0), (0.05, 0.0), (0.39, 0.68), (0.73, 0.0), (0.73, 1.0)),)),
    "O": (0.68, (_arc((0.34, 0.5), (0.31, 0.5), 0, 360),)),
    "R": (
        0.58,
        (
            ((0.05, 1.0), (0.05, 0.0), (0.27, 0.0)),
            _arc((0.27, 0.26), (0.24, 0.26), -90, 90),
            ((0.05, 0.52), (0.27, 0.52), (0.54, 1.0)),
        ),
    ),
    " ": (0.25, ()),
}
LETTER_GAP = 0.2


def marker_text(side: Side, view: View) -> str:
    """Return the marker's text, as on real images."""
    return f"{side} CC" if view == "CC" else f"{side}MLO"


def draw_marker(
    breast: Breast, side: Side, view: View, rng: np.random.Generator, scale: float
) -> tuple[Stamp, float]:
    """Draw the view marker as lead letters; return its opacity (0 to 1) as a stamp, and its grey.

    The marker is in the upper corner of the displayed image, on the side away from the chest wall.
    A right breast is mirrored for display, but the text is not.
    """
    height, width = breast.grey.shape
    size = rng.uniform(15, 19) * scale
    stroke = 0.085 * size + 0.2
    segments, length = _layout(marker_text(side, view))
    room = 0.27 * width / length
    size = min(size, room)
    pad = stroke + 2
    tilt = math.radians(rng.uniform(-4, 4))
    y0 = rng.uniform(8, 18) * scale + pad
    inset = rng.uniform(5, 12) * scale + pad
    x0 = inset if side == "R" else width - inset - length * size
    cosine, sine = math.cos(tilt), math.sin(tilt)
    ends = size * segments @ np.array([[cosine, sine], [-sine, cosine]]) + (x0, y0)
    low = np.maximum(np.floor(ends.min(axis=(0, 1)) - pad).astype(int), 0)
    high = np.minimum(np.ceil(ends.max(axis=(0, 1)) + pad).astype(int) + 1, (width, height))
    x = np.arange(low[0], high[0], dtype=np.float32)[None, :]
    y = np.arange(low[1], high[1], dtype=np.float32)[:, None]
    distance = np.full((y.size, x.size), np.inf, np.float32)
    for (ax, ay), (bx, by) in ends:
        dx, dy = bx - ax, by - ay
        along = (((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9)).clip(0, 1)
        np.minimum(distance, np.hypot(x - ax - along * dx, y - ay - along * dy), out=distance)
    opacity = (stroke + 0.5 - distance).clip(0, 1).astype(np.float32)
    return Stamp(int(low[1]), int(low[0]), opacity), rng.uniform(0.85, 1.1)


def _layout(text: str) -> tuple[np.ndarray, float]:
    """Return the segments of `text`, [n, 2 ends, (x, y)], and its length, in letter heights."""
    segments = []
    pen = 0.0
    for letter in text:
        advance, strokes = LETTERS[letter]
        for stroke in strokes:
            points = [(pen + px, py) for px, py in stroke]
            segments += list(pairwise(points))
        pen += advance + LETTER_GAP
    return np.array(segments), pen - LETTER_GAP


def draw_paddle(breast: Breast, rng: np.random.Generator, scale: float) -> tuple[Stamp, float]:
    """Draw the rim of the paddle near the chest wall; return its stamp and its contrast.

    The rim is a thin bright line, almost parallel to the chest wall. It is visible only over the
    breast: elsewhere the image is black with or without the paddle.
    """
    height, width = breast.grey.shape
    contrast = rng.uniform(0.12, 0.18)
    half_width = max(rng.uniform(2.2, 3.2) * scale, 1.0)
    place = rng.uniform(0.06, 0.14) * width
    tilt = math.tan(math.radians(rng.uniform(-1.2, 1.2)))
    y = np.arange(height, dtype=np.float32)[:, None]
    right = min(int(place + half_width + abs(tilt) * height / 2) + 2, width)
    x = np.arange(right, dtype=np.float32)[None, :]
    offset = (x - place - tilt * (y - height / 2)) / half_width
    grey = contrast * (1 - offset**2).clip(0) * breast.inside[:, :right]
    return Stamp(0, 0, grey.astype(np.float32)), contrast


def draw_skin_fold(breast: Breast, rng: np.random.Generator, scale: float) -> tuple[Stamp, float]:
    """Draw a skin fold at the lower end of the breast; return its stamp and its contrast.

    The fold is a bright curved band from the chest wall towards the skin.
    """
    outline = breast.outline
    contrast = rng.uniform(0.10, 0.16)
    start, end = rng.uniform(0.50, 0.65), rng.uniform(0.60, 0.75)
    bend = rng.uniform(0.05, 0.12)
    along = np.linspace(0, 1, 25)
    x = (0.02 + 0.40 * along) * outline.reach
    share = start + (end - start) * along - bend * np.sin(np.pi * along)
    y = outline.axis + share * outline.below
    return _band(np.stack([y, x], 1), rng.uniform(3.0, 4.5) * scale, contrast, breast), contrast


def draw_wire(breast: Breast, rng: np.random.Generator, scale: float) -> tuple[Stamp, float]:
    """Draw a metal wire on the skin over a scar; return its stamp and its contrast.

    The wire is a thin, slightly bent and very bright line over the middle of the breast.
    """
    outline = breast.outline
    contrast = rng.uniform(0.35, 0.5)
    middle = np.array(outline.place(rng.uniform(0.3, 0.6), rng.uniform(-0.4, 0.4), 10 * scale))
    angle = rng.uniform(0, np.pi)
    length, bend = rng.uniform(28, 44) * scale, rng.uniform(-5, 5) * scale
    along = np.linspace(-1, 1, 25)
    direction = np.array([np.sin(angle), np.cos(angle)])
    normal = np.array([direction[1], -direction[0]])
    path = middle + np.outer(along * length / 2, direction) + np.outer(bend * along**2, normal)
    return _band(path, max(1.1 * scale, 0.8), contrast, breast), contrast


def draw_dead_column(breast: Breast, rng: np.random.Generator, scale: float) -> Stamp:
    """Return the stamp of a dead column of the detector: 1 in the pixels that it makes black."""
    width = max(round(1.5 * scale), 1)
    left = int(rng.uniform(0.15, 0.6) * breast.outline.reach)
    return Stamp(0, left, breast.inside[:, left : left + width].astype(np.float32))


def draw_implant(breast: Breast, rng: np.random.Generator) -> tuple[Stamp, float]:
    """Draw an implant against the chest wall; return its stamp and its contrast.

    The stamp is added to the grey of the tissue, so a lesion in front of the implant stays visible.
    """
    outline = breast.outline
    contrast = rng.uniform(0.20, 0.28)
    height, width = breast.grey.shape
    y = np.arange(height, dtype=np.float32)[:, None] - outline.axis
    x = np.arange(width, dtype=np.float32)[None, :]
    half = rng.uniform(0.45, 0.55) * min(outline.above, outline.below)
    reach = rng.uniform(0.28, 0.36) * outline.reach
    depth = 1 - (x / reach) ** 2 - (y / half) ** 2
    grey = contrast * (4 * depth).clip(0, 1) * breast.inside
    return Stamp(0, 0, grey.astype(np.float32)), contrast


def _band(path: np.ndarray, half_width: float, contrast: float, breast: Breast) -> Stamp:
    """Return a band along a path of points (y, x), [n, 2].

    The grey is `contrast` on the path and falls to 0 at `half_width` pixels from it.
    """
    height, width = breast.grey.shape
    low = np.maximum(np.floor(path.min(axis=0) - half_width).astype(int), 0)
    high = np.minimum(np.ceil(path.max(axis=0) + half_width).astype(int) + 1, (height, width))
    y = np.arange(low[0], high[0], dtype=np.float32)[:, None]
    x = np.arange(low[1], high[1], dtype=np.float32)[None, :]
    distance = np.full((y.size, x.size), np.inf, np.float32)
    for start, end in pairwise(path):
        step = end - start
        along = ((y - start[0]) * step[0] + (x - start[1]) * step[1]) / (step @ step)
        along = along.clip(0, 1)
        nearest = np.hypot(y - start[0] - along * step[0], x - start[1] - along * step[1])
        np.minimum(distance, nearest, out=distance)
    grey = contrast * (1 - (distance / half_width) ** 2).clip(0)
    grey *= breast.inside[low[0] : high[0], low[1] : high[1]]
    return Stamp(int(low[0]), int(low[1]), grey.astype(np.float32))
