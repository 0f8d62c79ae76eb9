"""Step: count the cohort's patients and images per split, and draw a contact sheet of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import counted
from mammo_sae.report import overlay, style
from mammo_sae.report.settings import CohortSheetSettings
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

COUNTED = ("view", "density", "manufacturer", "marker", "paddle")
TEXT, IMAGE, GAP, HEADER = 2.1, 1.1, 0.06, 0.98


def run(
    settings: CohortSheetSettings,
    *,
    images: Path,
    image_stores: Sequence[Path],
    concepts: Sequence[str],
    output: Path,
    counts: Path,
) -> list[Path]:
    """Draw the contact sheet and write the table of counts.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    concepts
        Columns of the image table.
    output
        PNG to write.
    counts
        Table (.csv) to write, one row per split: patients, images, images positive, negative and
        unknown for each concept, and images of each view, density and other covariates.
    """
    table = read_table(images)
    store = ImageReader(image_stores, concept_regions(images))
    converted = set(store.image_ids)
    table = table[table["image_id"].isin(converted)].reset_index(drop=True)
    write_table(count(table, concepts), counts)
    splits = style.splits_of(table["split"])
    palette = style.colours(concepts, style.CONCEPT_COLOURS)
    groups = [*sorted(concepts), "none"]
    columns = settings.examples * len(groups)
    picture = IMAGE * store.height / store.width
    width = TEXT + columns * (IMAGE + GAP) + 0.14 * len(groups) + 0.1
    height = HEADER + len(splits) * (picture + 0.16) + 0.34
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            "The cohort",
            "Canonical images, drawn at random, one per patient; outlines: lesions and artefacts",
        )
        _heads(fig, groups, settings.examples, palette)
        for number, split in enumerate(splits):
            top = HEADER + number * (picture + 0.16)
            rows = table[table["split"] == split]
            _describe(fig, rows, split, concepts, top)
            for g, group in enumerate(groups):
                chosen = draw(rows, concepts, group, settings.examples, settings.seed)
                for i, image in enumerate(chosen):
                    left = _left(g * settings.examples + i, g)
                    ax = fig.add_axes(
                        (
                            left / width,
                            1 - (top + picture) / height,
                            IMAGE / width,
                            picture / height,
                        )
                    )
                    _draw(ax, store, image, palette)
        _legend(fig, store, palette)
    return [output, counts]


def count(table: pd.DataFrame, concepts: Sequence[str]) -> pd.DataFrame:
    """Return one row per split with counts of patients and images."""
    rows = []
    for split in style.SPLITS:
        here = table[table["split"] == split]
        if here.empty:
            continue
        row: dict[str, object] = {
            "split": split,
            "patients": here["patient_id"].nunique(),
            "images": len(here),
        }
        for concept in concepts:
            for name, value in (("positive", 1), ("negative", 0)):
                row[f"{concept}_{name}"] = int((here[concept] == value).sum())
            row[f"{concept}_unknown"] = int(here[concept].isna().sum())
        for column in COUNTED:
            if column not in table:
                continue
            for level in sorted(table[column].dropna().unique(), key=str):
                row[f"{column}_{level}"] = int((here[column] == level).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def draw(
    rows: pd.DataFrame, concepts: Sequence[str], group: str, count: int, seed: int
) -> list[str]:
    """Return the ids of at most `count` random images, one per patient.

    The images are positive for the concept `group`. If `group` is "none", they are negative for all
    concepts.
    """
    wanted = (
        (rows[list(concepts)] == 0).fillna(False).all(axis=1)
        if group == "none"
        else rows[group] == 1
    )
    chosen = rows[wanted.fillna(False).to_numpy(dtype=bool)].sort_values("image_id")
    order = np.random.default_rng(seed).permutation(len(chosen))
    return chosen.iloc[order].drop_duplicates("patient_id")["image_id"].head(count).tolist()


def _left(column: int, group: int) -> float:
    return TEXT + column * (IMAGE + GAP) + 0.14 * group


def _heads(fig: Figure, groups: list[str], count: int, palette: dict[str, str]) -> None:
    width, height = fig.get_size_inches()
    for g, group in enumerate(groups):
        left, right = _left(g * count, g), _left((g + 1) * count - 1, g) + IMAGE
        name = f"with {style.words(group)}" if group != "none" else "without findings"
        colour = palette.get(group, style.FAINT)
        fig.text(
            left / width, 1 - (HEADER - 0.28) / height, name, va="top", weight="bold", color=colour
        )
        line = [1 - (HEADER - 0.07) / height] * 2
        fig.add_artist(Line2D([left / width, right / width], line, color=colour, linewidth=1.2))


def _describe(
    fig: Figure, rows: pd.DataFrame, split: str, concepts: Sequence[str], top: float
) -> None:
    width, height = fig.get_size_inches()
    lines = [
        counted(rows["patient_id"].nunique(), "patient"),
        counted(len(rows), "image"),
        *(
            f"{int((rows[concept] == 1).sum())} with {style.words(concept)}"
            for concept in sorted(concepts)
        ),
    ]
    fig.text(0.12 / width, 1 - top / height, split, va="top", size=11, weight="bold")
    for i, line in enumerate(lines):
        fig.text(0.12 / width, 1 - (top + 0.26 + 0.17 * i) / height, line, va="top", size=8)


def _draw(ax: Axes, store: ImageReader, image: str, palette: dict[str, str]) -> None:
    overlay.draw_image(ax, store.pixels([image])[0])
    for region, mask in zip(store.regions, store.region_masks([image])[0], strict=True):
        if region in palette:
            overlay.outline(ax, mask, palette[region])
        else:
            overlay.box(ax, mask, overlay.ARTEFACT)


def _legend(fig: Figure, store: ImageReader, palette: dict[str, str]) -> None:
    regions = [region for region in store.regions if region not in palette]
    handles = [
        Line2D([], [], color=palette[c], label=style.words(c))
        for c in store.regions
        if c in palette
    ]
    if regions:
        name = "artefacts: " + ", ".join(map(style.words, regions))
        handles.append(Line2D([], [], color=overlay.ARTEFACT, linestyle=overlay.DASHES, label=name))
    if handles:
        fig.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(TEXT / fig.get_figwidth(), 0.02 / fig.get_figheight()),
            ncols=len(handles),
            borderpad=0,
        )
