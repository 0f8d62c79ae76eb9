"""Step: draw a concept's top latents: the images that activate each, its numbers and its verdict.

The latents have the best AUROC ranks in the discovery split. The images are of the confirmation
split, which did not take part in the ranking. No image is chosen by eye. Each row has the images
with the highest activation, a typical positive image and the negative image with the highest
activation.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from mammo_sae.analysis.cases import labelled_images, labels, read_cases
from mammo_sae.analysis.verdict import INSUFFICIENT, SUSPECT, UNASSOCIATED, overall
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import InputError, counted
from mammo_sae.report import overlay, style
from mammo_sae.report.settings import LatentSheetSettings
from mammo_sae.report.verdicts import OFF, ON, UNCLEAR, location
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table

# Sizes of the figure's parts, in inches.
TEXT = 2.85
IMAGE = 1.1  # the report has many such figures; the atlas has the images in full resolution
ROW = 2.2  # least height of a row, for its text
GAP = 0.06
GROUP_GAP = 0.16
CAPTION = 0.2
HEADER = 0.98
FOOTER = 0.42
MARGIN = 0.12
LOCATION_COLOURS = {
    ON: style.VERDICT_COLOURS["concept-aligned"],
    OFF: style.VERDICT_COLOURS["confounded"],
    UNCLEAR: style.FAINT,
}


@dataclass(frozen=True)
class Example:
    """An image to show: its position in the codes, its label and the latent's activation there."""

    position: int
    positive: bool
    activation: float


@dataclass(frozen=True)
class Examples:
    """The images shown for one latent. The last two are None if the split has no such image."""

    highest: list[Example]
    typical: Example | None
    false_alarm: Example | None


def run(
    settings: LatentSheetSettings,
    *,
    images: Path,
    image_stores: Sequence[Path],
    codes: Path,
    latents: Path,
    alignment: Path,
    confounds: Path,
    concept: str,
    split: str,
    output: Path,
    chosen: Sequence[int] = (),
    naming: Sequence[Path] = (),
) -> list[Path]:
    """Draw the top latents of one SAE and concept, or the chosen ones.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifest of the SAE's codes.
    latents, alignment, confounds
        Tables of the same SAE, written by these steps.
    concept
        Column of the image table.
    split
        The confirmation split, whose images are shown.
    output
        PNG to write.
    chosen
        Latents to draw. If empty, those with the best AUROC ranks in the discovery split.
    naming
        Table of the SAE's names, of the step `naming`. Without it, no names are shown.

    Raises
    ------
    InputError
        If the SAE has no such latent.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases = read_cases(images, reader.image_ids)
    table = read_table(latents)
    concepts = sorted(table["concept"].unique())
    rows = pick_latents(table[table["concept"] == concept], settings.latents, chosen)
    known = labelled_images(cases, concept, split)
    if not len(known):
        title, _ = _titles(rows, concept, split, known, np.zeros(0, bool), chosen)
        reason = f"no image of the {split} split has a label for {style.words(concept)}"
        style.absent(output, title, f"{reason}; so there is none to show")
        return [output]
    if rows.empty:
        title, _ = _titles(rows, concept, split, known, np.zeros(0, bool), chosen)
        why = style.reasons(table[table["concept"] == concept])
        style.absent(output, title, f"no latent could be ranked. {why}")
        return [output]
    truth = labels(cases, concept, known)
    patients = cases["patient_id"].to_numpy()[known]
    ids = [reader.image_ids[i] for i in known]
    scores = reader.pooled(table["score"].iloc[0], ids, rows["latent"].to_numpy(np.int64))

    details = _details(read_table(alignment), read_table(confounds), concept)
    names = _names([read_table(path) for path in naming])
    columns = settings.examples + 2
    width = TEXT + columns * (IMAGE + GAP) + 2 * GROUP_GAP + 2 * MARGIN
    height = HEADER + len(rows) * row_height(store) + FOOTER
    palette = style.colours(concepts, style.CONCEPT_COLOURS)
    with style.figure(output, width, height) as fig:
        title, subtitle = _titles(rows, concept, split, known, truth, chosen)
        style.heading(fig, title, subtitle)
        canvas = _Canvas(fig, store, reader, palette, concept, settings.examples)
        _draw_header(canvas)
        for number, (_, row) in enumerate(rows.iterrows()):
            column = scores[:, number]
            examples = pick_examples(column, truth, patients, settings.examples, known)
            name = names.get(int(row["latent"]), "")
            _draw_row(canvas, number, row, name, details, examples, float(column.max(initial=0)))
        _draw_legend(canvas)
    return [output]


def pick_latents(rows: pd.DataFrame, count: int, chosen: Sequence[int] = ()) -> pd.DataFrame:
    """Return the rows of one concept's `chosen` latents, or of its `count` best ones.

    Chosen latents come in the given order, the best ones by discovery AUROC.

    Raises
    ------
    InputError
        If a chosen latent has no row.
    """
    if chosen:
        by_latent = rows.set_index("latent", drop=False)
        for latent in chosen:
            if latent not in by_latent.index:
                raise InputError(
                    f"no latent {latent}; this SAE has latents 0 to {int(rows['latent'].max())}"
                )
        return by_latent.loc[list(chosen)].reset_index(drop=True)
    return rows[rows["rank_auroc"] <= count].sort_values("rank_auroc", ignore_index=True)


def pick_examples(
    scores: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    count: int,
    positions: np.ndarray | None = None,
) -> Examples:
    """Choose the images to show for one latent. Equal scores keep the order of the images.

    Parameters
    ----------
    scores : [n]
        Activation of each image.
    truth : [n] bool
    patients : [n]
    count
        Number of images with the highest activation, of any label, one per patient. Images in which
        the latent is inactive are left out.
    positions : [n], optional
        Positions to return for the images; 0 to n - 1 if None.

    Returns
    -------
    Examples
        The images of highest activation; the positive image of median activation; and the negative
        image of highest activation, among patients not shown yet.
    """
    positions = np.arange(len(scores)) if positions is None else positions

    def example(i: int) -> Example:
        return Example(int(positions[i]), bool(truth[i]), float(scores[i]))

    order = np.argsort(-scores, kind="stable")
    chosen: list[int] = []
    seen: set[object] = set()
    for i in order:
        if len(chosen) == count or scores[i] <= 0:
            break
        if patients[i] not in seen:
            chosen.append(int(i))
            seen.add(patients[i])
    positive = order[truth[order]]
    alarms = [i for i in order if not truth[i] and scores[i] > 0 and patients[i] not in seen]
    return Examples(
        highest=[example(i) for i in chosen],
        typical=example(int(positive[len(positive) // 2])) if len(positive) else None,
        false_alarm=example(int(alarms[0])) if alarms else None,
    )


def picture_height(store: ImageReader) -> float:
    """Return the height of a picture of the store, in inches."""
    return IMAGE * store.height / store.width


def row_height(store: ImageReader) -> float:
    """Return the height of a latent's row, in inches: that of its pictures or of its text."""
    return max(ROW, picture_height(store) + CAPTION + 0.12)


@dataclass(frozen=True)
class _Canvas:
    """Positions of the figure's parts, and the readers that the pictures come from."""

    fig: Figure
    store: ImageReader
    codes: CodesReader
    palette: dict[str, str]
    concept: str
    examples: int

    @property
    def picture(self) -> float:
        """Height of a picture, inches."""
        return picture_height(self.store)

    def left(self, column: int) -> float:
        """Left edge of a column of pictures, inches."""
        gaps = max(0, column - self.examples + 1)
        return MARGIN + TEXT + column * (IMAGE + GAP) + GROUP_GAP * gaps

    def top(self, row: int) -> float:
        """Upper edge of a row of pictures, inches from the figure's top."""
        return HEADER + row * row_height(self.store)

    def x(self, inches: float) -> float:
        """Figure fraction of a distance from the left."""
        return inches / self.fig.get_figwidth()

    def y(self, inches: float) -> float:
        """Figure fraction of a distance from the top."""
        return 1 - inches / self.fig.get_figheight()

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes at inches from the upper left corner."""
        fig_width, fig_height = self.fig.get_size_inches()
        return self.fig.add_axes(
            (left / fig_width, self.y(top + height), width / fig_width, height / fig_height)
        )

    def text(self, left: float, top: float, text: str, **style_: Any) -> None:
        """Write text. `left` and `top` are the distances of its upper left corner, in inches."""
        self.fig.text(self.x(left), self.y(top), text, **{"va": "top", **style_})


def _titles(
    rows: pd.DataFrame,
    concept: str,
    split: str,
    known: np.ndarray,
    truth: np.ndarray,
    chosen: Sequence[int],
) -> tuple[str, str]:
    run = rows.iloc[0] if len(rows) else None
    of = "" if run is None else f" · {run['encoder']} · {run['layer']} · SAE {run['sae']}"
    seed = "" if run is None else f" seed {run['seed']}"
    return (
        f"{'Latents and' if chosen else 'Top latents for'} {style.words(concept)}{of}{seed}",
        f"{'Chosen latents' if chosen else 'Ranked by AUROC in the discovery split'}; "
        f"all numbers and images are of the {split} split "
        f"({int(truth.sum())} of {len(known)} images with {style.words(concept)})",
    )


def _details(
    alignment: pd.DataFrame, confounds: pd.DataFrame, concept: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    aligned = alignment[(alignment["concept"] == concept) & (alignment["selection"] == "ranked")]
    verdicts = overall(confounds[confounds["concept"] == concept])
    return aligned.set_index("latent"), verdicts.set_index("latent")


def _names(tables: Sequence[pd.DataFrame]) -> dict[int, str]:
    """Return latent -> what the figure says of its name."""
    if not tables:
        return {}
    table = pd.concat(tables)
    said = table["name"].where(table["name"] == "", "“" + table["name"] + "”")
    return dict(zip(table["latent"], said.where(said != "", "no name"), strict=True))


def _draw_header(canvas: _Canvas) -> None:
    top = HEADER - 0.26
    examples = canvas.examples
    spans = [
        (0, examples - 1, "highest activation, one image per patient"),
        (examples, examples, "median positive"),
        (examples + 1, examples + 1, "highest negative"),
    ]
    for first, last, name in spans:
        left = canvas.left(first)
        right = canvas.left(last) + IMAGE
        canvas.text(left, top, name, size=8.5, weight="bold")
        canvas.fig.add_artist(
            Line2D(
                [canvas.x(left), canvas.x(right)],
                [canvas.y(HEADER - 0.06)] * 2,
                color=style.RULE,
                linewidth=1,
            )
        )


def _draw_row(
    canvas: _Canvas,
    number: int,
    row: pd.Series,
    name: str,
    details: tuple[pd.DataFrame, pd.DataFrame],
    examples: Examples,
    top: float,
) -> None:
    _draw_text(canvas, canvas.top(number), row, name, *details)
    digits = 0 if top >= 100 else 1 if top >= 10 else 2
    shown: list[Example | None] = [*examples.highest]
    shown += [None] * (canvas.examples - len(shown))
    shown += [examples.typical, examples.false_alarm]
    absent = ["no other image\nactivates it"] * canvas.examples
    absent += ["no positive image", "no other negative\nimage activates it"]
    for column, (example, why) in enumerate(zip(shown, absent, strict=True)):
        left, upper = canvas.left(column), canvas.top(number)
        ax = canvas.axes(left, upper, IMAGE, canvas.picture)
        if example is None:
            overlay.frame(ax, canvas.store.height, canvas.store.width)
            ax.set_facecolor("#F3F5F7")
            ax.text(
                0.5,
                0.5,
                why,
                transform=ax.transAxes,
                ha="center",
                va="center",
                size=7,
                color=style.FAINT,
            )
            continue
        _draw_example(canvas, ax, int(row["latent"]), example, top)
        label = "positive" if example.positive else "negative"
        colour = canvas.palette[canvas.concept] if example.positive else style.FAINT
        caption = upper + canvas.picture + 0.04
        canvas.text(left, caption, label, size=7, color=colour, weight="bold")
        canvas.text(
            left + IMAGE,
            caption,
            f"{example.activation:.{digits}f}",
            size=7,
            color=style.FAINT,
            ha="right",
        )


def _draw_example(canvas: _Canvas, ax: Axes, latent: int, example: Example, top: float) -> None:
    image = [canvas.codes.image_ids[example.position]]
    overlay.draw_image(ax, canvas.store.pixels(image)[0])
    activation = canvas.codes.maps([example.position], [latent])[0, 0]
    overlay.draw_map(ax, activation, top, canvas.codes.grid)
    overlay.frame(ax, canvas.store.height, canvas.store.width)
    for region, mask in zip(canvas.store.regions, canvas.store.region_masks(image)[0], strict=True):
        if region in canvas.palette:
            main = region == canvas.concept
            overlay.outline(ax, mask, canvas.palette[region], width=1.2 if main else 0.7)
        else:
            overlay.box(ax, mask, overlay.ARTEFACT)


def _draw_text(
    canvas: _Canvas,
    top: float,
    row: pd.Series,
    name: str,
    aligned: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> None:
    latent = int(row["latent"])
    canvas.text(MARGIN, top, f"Latent {latent}", size=11, weight="bold")
    top += 0.25
    for line in textwrap.wrap(name, 42)[:2]:
        # A dollar sign of a phrase is no mark of a formula.
        canvas.text(MARGIN, top - 0.05, line, size=8, style="italic", parse_math=False)
        top += 0.15
    top = _badges(canvas, top, latent, aligned, verdicts)
    lines = [("AUROC", style.estimate(row["auroc"], row["auroc_low"], row["auroc_high"]))]
    if pd.notna(row["q"]):
        lines.append(("q", "< 0.01" if row["q"] < 0.01 else f"{row['q']:.2f}"))
    if latent in aligned.index:
        scores = aligned.loc[latent]
        if pd.isna(scores["energy_lift"]):
            lines.append(("On lesion", "not estimable:"))
            lines += [("", line) for line in textwrap.wrap(scores["reason"], 30)]
        else:
            lift = style.estimate(
                scores["energy_lift"], scores["energy_lift_low"], scores["energy_lift_high"], 1
            )
            others = [
                f"×{scores[f'{kind}_energy_lift']:.1f} {words}"
                for kind, words in (("matched", "matched latents"), ("shuffled", "shuffled masks"))
                if pd.notna(scores[f"{kind}_energy_lift"])
            ]
            lines += [
                ("Energy lift", f"×{lift}"),
                ("", ", ".join(others)),
                (
                    "Pointing",
                    f"{scores['pointing']:.0%}, within 1 cell {scores['pointing_near']:.0%}",
                ),
            ]
            if pd.notna(scores["shuffled_pointing"]):
                near = f"{scores['shuffled_pointing_near']:.0%} shuffled masks"
                lines.append(("", f"{scores['shuffled_pointing']:.0%}, {near}"))
    else:
        lines.append(("On lesion", "not tested"))
    lines.append(("Fires in", f"{row['firing_rate']:.1%} of cells"))
    for name, value in lines:
        canvas.text(MARGIN, top, name, size=7.5, color=style.FAINT)
        size, colour = (7.5, style.INK) if name else (6.5, style.FAINT)  # no name: a baseline
        canvas.text(MARGIN + 0.68, top, value, size=size, color=colour)
        top += 0.155


def _badges(
    canvas: _Canvas, top: float, latent: int, aligned: pd.DataFrame, verdicts: pd.DataFrame
) -> float:
    """Draw a latent's verdict and location as badges; return where the text below them starts."""
    word, names, verb = "not tested", [], "by"
    if latent in verdicts.index:
        word = verdicts.loc[latent, "verdict"]
        if word in SUSPECT:
            names = verdicts.loc[latent, "confounders"].split(", ")
        elif word == UNASSOCIATED and verdicts.loc[latent, "discriminates"]:
            names, verb = verdicts.loc[latent, "discriminates"].split(", "), "discriminates"
    faint = word in {INSUFFICIENT, UNASSOCIATED, "not tested"}
    fill = style.VERDICT_COLOURS.get(word, style.RULE)
    _badge(canvas, top, word, style.INK if faint else "white", fill, "none")
    top += 0.24
    for line in _confounder_lines(names, verb):
        canvas.text(MARGIN, top, line, size=7)
        top += 0.14
    where = location(aligned.loc[latent]) if latent in aligned.index else ""
    if where:
        top += 0.03 * bool(names)
        _badge(canvas, top, where, style.INK, "white", LOCATION_COLOURS[where])
        top += 0.24
    return top + 0.04


def _confounder_lines(names: Sequence[str], verb: str) -> list[str]:
    """Return `verb` and the confounders in at most two lines that fit next to the pictures."""
    if not names:
        return []
    for shown in range(len(names), 0, -1):
        more = f" and {len(names) - shown} more" if shown < len(names) else ""
        lines = textwrap.wrap(f"{verb} " + style.words(", ".join(names[:shown])) + more, 42)
        if len(lines) <= 2:
            return lines
    return [f"{verb} {counted(len(names), 'confounder')}"]


def _badge(canvas: _Canvas, top: float, text: str, colour: str, fill: str, edge: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": edge, "linewidth": 1.1}
    canvas.text(MARGIN + 0.06, top + 0.035, text, size=7.5, weight="bold", color=colour, bbox=box)


def _draw_legend(canvas: _Canvas) -> None:
    top = canvas.fig.get_figheight() - FOOTER + 0.12
    left = canvas.left(0)
    bar = canvas.axes(left, top + 0.02, 1.0, 0.11)
    bar.imshow(overlay.HEAT(np.linspace(0, 1, 256))[None], aspect="auto", extent=(0, 1, 0, 1))
    bar.set_axis_off()
    canvas.text(
        left + 1.06, top, "activation: from low to the latent's highest in the split", size=7.5
    )
    left += 3.95
    entries: list[tuple[str, LineStyleType, str]] = [
        (canvas.palette[region], "solid", style.words(region))
        for region in canvas.store.regions
        if region in canvas.palette
    ]
    if any(region not in canvas.palette for region in canvas.store.regions):
        entries.append((overlay.ARTEFACT, overlay.DASHES, "artefact"))
    for colour, dashes, name in entries:
        canvas.fig.add_artist(
            Line2D(
                [canvas.x(left), canvas.x(left + 0.22)],
                [canvas.y(top + 0.075)] * 2,
                color=colour,
                linestyle=dashes,
                linewidth=1.6,
            )
        )
        canvas.text(left + 0.28, top, name, size=7.5)
        left += 0.42 + 0.06 * len(name)
