"""A small run in real files: images, codes of latents with known meaning, and the tables that the
real analyses make of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from copied import copied
from mammo_sae.analysis import alignment, confounds, edits, interventions, truth
from mammo_sae.analysis import latents as latents_step
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.settings import (
    AlignmentSettings,
    ConfoundSettings,
    InterventionSettings,
    LatentSettings,
    TruthSettings,
)
from mammo_sae.analysis.thresholds import Thresholds
from mammo_sae.grids import LayerGrid
from mammo_sae.images import measurements
from mammo_sae.stores.codes import CodesReader, create_codes_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import read_table, write_table
from responding import write_responses

HEIGHT, WIDTH = 96, 64
CONCEPTS = ["mass", "suspicious_calcification"]
REGIONS = [*CONCEPTS, "marker"]
GRID = LayerGrid("head", 4, 12, 8, 8, -2.0, -1.0, 31)
PATIENTS = {"training": 70, "test": 50, "external": 40}
LATENTS = 24
MASS, BESIDE, MARKER, CALCIFICATION, TISSUE = range(5)
RESAMPLES = {"bootstrap_draws": 40, "permutation_draws": 199}


@dataclass(frozen=True)
class Run:
    """Paths of one synthetic run."""

    root: Path
    images: Path
    image_stores: list[Path]
    codes: Path
    identity: Identity

    def table(self, name: str) -> Path:
        return self.root / f"{name}.parquet"


def _cohort(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for split, count in PATIENTS.items():
        for _ in range(count):
            mass, calcification = (int(rng.random() < share) for share in (0.45, 0.35))
            odds = 0.7 if mass and split != "external" else 0.2
            marker = int(rng.random() < odds)
            vendor = "ABCD"[int(rng.integers(2))]
            density = "ABCD"[int(rng.integers(4))]
            patient = f"{len(rows) // 2:016x}"
            for view in ("CC", "MLO"):
                rows.append(
                    {
                        "image_id": f"{len(rows):016x}",
                        "patient_id": patient,
                        "split": split,
                        "shard": 0,
                        "view": view,
                        "side": "L",
                        "mass": mass,
                        "suspicious_calcification": calcification,
                        "density": density,
                        "manufacturer": vendor,
                        "marker": marker,
                        "paddle": int(rng.random() < 0.3),
                        "rows": 384,
                        "columns": 256,
                        "birads": 1,
                        "age_bin": "50-59",
                        "model": "one",
                        "pixel_spacing_mm": 0.1,
                    }
                )
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(CONCEPTS, "Int8"))


def _images(rng: np.random.Generator, table: pd.DataFrame, root: Path) -> np.ndarray:
    """Write the images; return each one's mass and calcification cell [n, 2, 2]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    breast = (x / 46) ** 2 + ((y - 48) / 42) ** 2 < 1
    places = np.stack(
        [np.stack([rng.integers(3, 9, len(table)), rng.integers(1, 4, len(table))], 1)] * 2, 1
    )
    places[:, 1] = np.stack([rng.integers(3, 9, len(table)), rng.integers(1, 4, len(table))], 1)
    with create_image_store(
        root / "0.zarr",
        root / "0.json",
        image_ids=table["image_id"].tolist(),
        height=HEIGHT,
        width=WIDTH,
        regions=REGIONS,
    ) as writer:
        for i, row in enumerate(table.to_dict("records")):
            tissue = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 3) * 1.2 + 0.42
            pixels = np.where(breast, tissue, 0.02)
            masks = np.zeros((len(REGIONS), HEIGHT, WIDTH), bool)
            for concept, (name, radius) in enumerate(zip(CONCEPTS, (6.0, 4.0), strict=True)):
                if row[name]:
                    cy = GRID.offset_y + (places[i, concept, 0] + 0.5) * GRID.stride
                    cx = GRID.offset_x + (places[i, concept, 1] + 0.5) * GRID.stride
                    masks[concept] = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
                    bright = masks[concept] if concept == 0 else rng.random(breast.shape) > 0.8
                    pixels = pixels + 0.3 * (masks[concept] & bright)
            if row["marker"]:
                masks[2, 4:12, 50:60] = True
                pixels[4:12, 50:60] = 0.95
            writer.write(
                i,
                ImageRecord(
                    pixels=np.clip(255 * pixels, 0, 255).astype(np.uint8),
                    breast=breast,
                    regions=masks,
                    affine=np.eye(2, 3),
                    flipped=False,
                    spacing_mm=0.5,
                ),
            )
    return places


def _codes(
    rng: np.random.Generator, table: pd.DataFrame, places: np.ndarray, root: Path
) -> np.ndarray:
    n = len(table)
    codes = np.zeros((n, GRID.rows, GRID.columns, LATENTS), np.float32)
    for i, row in enumerate(table.to_dict("records")):
        mass, calcification = places[i]
        if rng.random() < (0.9 if row["mass"] else 0.15):
            codes[i, mass[0], mass[1], MASS] = 1.5 + rng.random()
            codes[i, mass[0], mass[1] + 1, MASS] = rng.random()
            codes[i, mass[0] - 1, mass[1] + 1, BESIDE] = 1 + rng.random()
        if rng.random() < (0.95 if row["marker"] else 0.05):
            codes[i, 0:2, 6, MARKER] = 2 + rng.random(2)
        if rng.random() < (0.85 if row["suspicious_calcification"] else 0.1):
            codes[i, calcification[0], calcification[1], CALCIFICATION] = 1 + rng.random()
        codes[i, 2:10, 0:5, TISSUE] = 0.5 + rng.random((8, 5))
    fires = rng.random((n, GRID.rows, GRID.columns, LATENTS - 6)) < 0.02
    codes[..., 5:-1] = fires * rng.random(fires.shape)
    index = np.broadcast_to(np.arange(LATENTS), codes.shape)
    with create_codes_store(
        root / "codes.zarr",
        root / "codes.json",
        image_ids=table["image_id"].tolist(),
        grid=GRID,
        latents=LATENTS,
        k=LATENTS,
    ) as writer:
        pooled = {
            "mean": codes.mean(axis=(1, 2)),
            "max": codes.max(axis=(1, 2)),
            "active": (codes > 0).mean(axis=(1, 2), dtype=np.float32),
        }
        everywhere = {f"{name}_breast": values for name, values in pooled.items()}
        writer.write(range(n), np.where(codes > 0, index, 0), codes, pooled | everywhere)
    return codes


def _analyses(run: Run, rng: np.random.Generator) -> None:
    """Write the tables of the run with the real analyses."""
    common = {"identity": run.identity, "images": run.images, "codes": run.codes}
    made = {"latents": run.table("latents"), "concepts": CONCEPTS}
    latents_step.run(
        LatentSettings(**RESAMPLES), **common, concepts=CONCEPTS, output=run.table("latents")
    )
    alignment.run(
        AlignmentSettings(top_latents=8, bootstrap_draws=40, permutation_draws=999),
        **common,
        **made,
        image_stores=run.image_stores,
        output=run.table("alignment"),
        by_size=run.table("alignment_by_size"),
        regions=run.table("regions"),
    )
    measurements.run(image_stores=run.image_stores, output=run.table("measurements"))
    confounds.run(
        ConfoundSettings(top_latents=10, **RESAMPLES),
        **common,
        **made,
        image_stores=run.image_stores,
        measurements=[run.table("measurements")],
        output=run.table("confounds"),
    )
    responses = write_responses(
        run.table("responses"), run.table("confounds"),
        {MASS: {"mass": 1.9}, MARKER: {"marker": 2.0}},
    )  # fmt: skip
    truth.run(
        TruthSettings(planted={"marker": "marker"}, controls={"paddle": "paddle"}),
        identity=run.identity,
        responses=responses,
        confounds=run.table("confounds"),
        component="mass",
        output=run.table("truth"),
    )
    reader, table = CodesReader(run.codes), read_table(run.images)
    latents = read_table(run.table("latents"))
    settings = InterventionSettings(top_k=(0, 1, 2, 5, 10, 24), random_sets=5, bootstrap_draws=40)
    parts = []
    for latent, concept in ((MASS, "mass"), (CALCIFICATION, "suspicious_calcification")):
        effects = rng.normal(size=LATENTS) * 0.02
        effects[latent] = 40.0
        for split in ("test", "external"):
            rows = table[table["split"] == split]
            contributions = (
                reader.pooled("mean", rows["image_id"].tolist()).astype(np.float64) * effects
            )
            data = interventions.Edits(
                means=copied(contributions),
                weights=np.ones(LATENTS),
                offset=-1.0,
                original=contributions.sum(axis=1) + rng.normal(size=len(rows)) * 0.1,
                labels=rows[concept].to_numpy(dtype=int) == 1,
                patients=rows["patient_id"].to_numpy(),
                typical=np.zeros(LATENTS),
            )
            ranked = latents[latents["concept"] == concept]
            thresholds = Thresholds(data, "training")
            part = edits.intervention_table(settings, data, thresholds, ranked)
            part.insert(0, "concept", concept)
            part.insert(1, "split", split)
            parts.append(part)
    write_table(run.identity.label(pd.concat(parts)), run.table("interventions"))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def make_run(root: Path) -> Run:
    rng = np.random.default_rng(7)
    table = _cohort(rng)
    write_table(table, root / "images.parquet")
    places = _images(rng, table, root)
    _codes(rng, table, places, root)
    result = Run(
        root=root,
        images=root / "images.parquet",
        image_stores=[root / "0.json"],
        codes=root / "codes.json",
        identity=Identity("finetuned", "head", "topk", 0),
    )
    _analyses(result, rng)
    return result


@pytest.fixture(scope="session")
def is_figure():
    """Check that a PNG is a picture: large enough, and neither blank nor nearly so."""

    def check(path: Path) -> np.ndarray:
        from matplotlib.image import imread

        pixels = imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 300, pixels.shape
        assert pixels.std() > 0.05
        inked = (pixels < 0.9).any(axis=2)
        assert inked.mean() > 0.01
        # Every quarter has ink, so nothing has collapsed into a corner.
        h, w = inked.shape
        for part in (inked[: h // 2], inked[h // 2 :], inked[:, : w // 2], inked[:, w // 2 :]):
            assert part.any()
        return pixels

    return check


@pytest.fixture
def drawn_text(monkeypatch):
    """Draw a figure and return all its text, including legends and tick labels."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    found: list[str] = []
    save = Figure.savefig

    def remember(self, *arguments, **options):
        found.extend(" ".join(text.get_text().split()) for text in self.findobj(Text))
        return save(self, *arguments, **options)

    def draw(function, *arguments, **options) -> list[str]:
        found.clear()
        function(*arguments, **options)
        return [text for text in found if text]

    monkeypatch.setattr(Figure, "savefig", remember)
    return draw


@pytest.fixture
def drawn_figure(monkeypatch):
    """Draw a figure and return it after its layout."""
    from matplotlib.figure import Figure

    found: list[Figure] = []
    save = Figure.savefig

    def remember(self, *arguments, **options):
        self.canvas.draw()
        found.append(self)
        return save(self, *arguments, **options)

    def draw(function, *arguments, **options) -> Figure:
        found.clear()
        function(*arguments, **options)
        return found[-1]

    monkeypatch.setattr(Figure, "savefig", remember)
    return draw


@pytest.fixture
def collisions(drawn_figure):
    """Draw a figure and return its texts that are cut by its edge or overlap points or texts."""

    def draw(function, *arguments, **options) -> list[str]:
        fig = drawn_figure(function, *arguments, **options)
        texts = shown_texts(fig)
        boxes = [text.get_window_extent() for text in texts]
        points = np.concatenate([np.zeros((0, 2)), *map(shown_points, fig.axes)])
        found = []
        for text, box in zip(texts, boxes, strict=True):
            if min(box.x0, box.y0) < 0 or box.x1 > fig.bbox.x1 or box.y1 > fig.bbox.y1:
                found.append(f"cut: {text.get_text()}")
            inside = (points > [box.x0, box.y0]) & (points < [box.x1, box.y1])
            if inside.all(axis=1).any():
                found.append(f"over points: {text.get_text()}")
        for one, other in combinations(range(len(texts)), 2):
            if boxes[one].overlaps(boxes[other]):
                found.append(f"over: {texts[one].get_text()}, {texts[other].get_text()}")
        return found

    return draw


def shown_texts(fig) -> list:
    """Return the drawn texts of a figure. Matplotlib also keeps ticks beyond an axis."""
    from matplotlib.text import Text

    hidden = set()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not (ax.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
            hidden |= set() if ax.axison else {axis.label, axis.offsetText}
    texts = fig.findobj(Text)
    return [t for t in texts if t.get_visible() and t.get_text().strip() and t not in hidden]


def shown_points(ax) -> np.ndarray:
    """Return where the markers of axes lie, in pixels of the figure [n, 2]."""
    from matplotlib.collections import PathCollection

    scattered = [c for c in ax.collections if isinstance(c, PathCollection)]
    marked = [line for line in ax.lines if line.get_marker() not in ("None", "", " ", None)]
    places = [c.get_offset_transform().transform(c.get_offsets().filled(np.nan)) for c in scattered]
    places += [line.get_transform().transform(line.get_xydata()) for line in marked]
    return np.concatenate([np.zeros((0, 2)), *places])


@pytest.fixture(scope="session")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a run with two encoders and two layers, in a folder."""
    return make_whole(run, tmp_path_factory.mktemp("whole"))


def make_whole(run: Run, folder: Path) -> Path:
    rng = np.random.default_rng(3)
    runs = [(e, la) for e in ("finetuned", "pretrained") for la in ("blocks.10", "head")]
    for name in ("latents", "alignment", "confounds", "truth"):
        table = read_table(run.table(name))
        parts = [table.assign(encoder=encoder, layer=layer) for encoder, layer in runs]
        write_table(pd.concat(parts, ignore_index=True), folder / f"{name}.parquet")
    quality = []
    for encoder, layer in runs:
        row = {"encoder": encoder, "layer": layer, "sae": "topk", "seed": 0, "split": "test"}
        row |= {"explained_variance": 0.85 + 0.1 * rng.random(), "explained_variance_pca": 0.6}
        row |= {"l0": 16.0, "dead_share": 0.2 * rng.random()}
        for concept in CONCEPTS:
            lost = 0.01 * rng.random()
            row |= {
                f"auroc_lost_{concept}": lost,
                f"auroc_lost_{concept}_low": lost - 0.005,
                f"auroc_lost_{concept}_high": lost + 0.005,
            }
        quality.append(row)
    write_table(pd.DataFrame(quality), folder / "sae_quality.parquet")
    scores = []
    for encoder in ("finetuned", "pretrained"):
        for concept in CONCEPTS:
            for split in ("training", "test", "external"):
                row = {"encoder": encoder, "concept": concept, "split": split, "prevalence": 0.4}
                for metric in ("auroc", "auprc"):
                    value = 0.6 + 0.3 * rng.random()
                    row |= {metric: value, f"{metric}_low": value - 0.05}
                    row[f"{metric}_high"] = value + 0.05
                scores.append({**row, "reason": ""})
    scores[-1] |= {"auroc": np.nan, "auprc": np.nan, "reason": "2 positive images, fewer than 5"}
    write_table(pd.DataFrame(scores), folder / "encoders.parquet")
    for layer in ("blocks.10", "head"):
        steps = np.arange(10, 401, 10)
        history = pd.DataFrame({"step": steps, "loss": 5 / steps + 0.1})
        history["error"] = history["loss"] - np.where(steps > 200, 0.01, 0.0)
        history["explained_variance"] = 0.9 - 5 / steps
        history["dead_share"] = np.linspace(0, 0.1, len(steps))
        history["lr"] = 1e-3 * np.minimum(1, steps / 100)
        write_table(history, folder / f"{layer}.csv")
    return folder
