"""Step: measure whether latents fire on the lesion, from their maps and the lesion masks.

The images are those of the confirmation split that are positive for a concept and have a mask of
it. The weight of a cell is the cell's area inside the breast. The positive part of this weight is
the area that the mask covers. So every score equals the score over pixels of a map that is constant
inside each cell.

- ``auprc``: average precision over breast pixels, mask against rest.
- ``pooled_iou``: intersection over union, summed over images, of the mask and the cells above a
  threshold. The cells above the threshold hold the share `quantile` of all breast area (Network
  Dissection, Bau et al. 2017).
- ``energy_lift``: mean share of an image's activation inside the mask, divided by the mean share of
  the breast that the mask covers, over images in which the latent fires (energy-based pointing
  game, Wang et al. 2020).
- ``pointing``: share of images whose highest cell touches the mask (pointing game, Zhang et al.
  2016); ``pointing_near`` also accepts the cell's eight neighbours. An image without activation is
  a miss.

Every score has up to three baselines:

- ``chance_*``: the expected score of a map that does not depend on the mask;
- ``shuffled_*``: the mean score after masks are exchanged between patients' images of the same
  view. These exchanges also give the p-value;
- ``matched_*``: the mean score of random latents with a similar firing rate.

The matched latents (``selection`` = matched) and a map of lesion locations in the discovery split
(``selection`` = prior) also have rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells, exchange
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import AlignmentSettings

MEASURES = ("auprc", "pooled_iou", "energy_lift", "pointing", "pointing_near")
# The first of these columns would always be 1. The other two are not computed.
_NO_BASELINE = ("chance_energy_lift", "chance_pooled_iou", "shuffled_auprc")
_MATCHED_AMONG = 4  # number of candidates for each matched latent that is drawn


def run(
    settings: AlignmentSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    codes: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Compare latents' maps with the lesions' masks, against chance and random latents.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifest of the SAE's codes.
    latents
        Latents table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per concept and latent.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases = case.read_cases(images, reader.image_ids)
    table = read_table(latents)
    parts = [
        concept_rows(settings, reader, store, cases, table[table["concept"] == concept], concept)
        for concept in concepts
    ]
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


@dataclass(frozen=True)
class Scene:
    """The masks of the positive images on a layer's grid.

    Attributes
    ----------
    breast, mask : [n, R, C]
        Area in pixels of the breast, and of the mask inside the breast, in each cell.
    moved : [n, R, C]
        Share of each cell that the mask covers, for masks moved onto another image's breast.
    patients, views : [n]
    """

    breast: np.ndarray
    mask: np.ndarray
    moved: np.ndarray
    patients: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.breast)


def scene(breast: np.ndarray, region: np.ndarray, patients: Any, views: Any, area: float) -> Scene:
    """Return the scene of the areas `breast` and `region` [n, R, C], for cells of size `area`."""
    return Scene(
        breast=breast,
        mask=np.minimum(region, breast),
        moved=region / np.float32(area),
        patients=np.asarray(patients),
        views=np.asarray(views),
    )


def concept_rows(
    settings: AlignmentSettings,
    reader: CodesReader,
    store: ImageReader,
    cases: pd.DataFrame,
    table: pd.DataFrame,
    concept: str,
) -> pd.DataFrame:
    """Return one concept's rows: its ranked latents, their matched latents, and the prior map."""
    ranked = case.top_latents(table, concept, settings.rankings, settings.top_latents)
    matched = matched_latents(table, ranked, settings.matched_latents, settings.seed)
    chosen = np.unique(np.concatenate([ranked, matched.ravel()]))
    rows = pd.DataFrame({"concept": concept, "latent": pd.array(chosen, "Int32")})
    rows["selection"] = np.where(np.isin(chosen, ranked), "ranked", "matched")
    if concept not in store.regions:
        return _missing(rows, f"no mask or box of {concept} in the images")
    every = case.labelled_images(cases, concept, settings.confirmation)
    positive = every[case.labels(cases, concept, every)]
    grid = reader.grid
    ids = cases["image_id"].to_numpy()
    breast, region = cells.image_areas(store, ids[positive], [concept], grid)
    has_mask = np.minimum(region[:, 0], breast).sum(axis=(1, 2)) > 0
    patients = cases["patient_id"].to_numpy()[positive]
    reason = _too_few(len(np.unique(patients[has_mask])), concept)
    if reason:
        return _missing(rows, reason)
    positive = positive[has_mask]
    here = scene(
        breast[has_mask],
        region[has_mask, 0],
        patients[has_mask],
        cases["view"].to_numpy()[positive],
        grid.stride**2,
    )
    maps, thresholds = _maps_and_thresholds(settings, reader, store, ids, every, positive, chosen)
    scores = _score_maps(settings, here, maps, thresholds)
    prior = _prior(settings, store, cases, here, concept, grid)
    scores = pd.concat([scores, _score_prior(settings, here, prior)], ignore_index=True)
    rows.loc[len(rows)] = [concept, pd.NA, "prior"]
    rows = pd.concat([rows, scores], axis=1)
    # If no latent fires in enough images, no measure exists and its columns are added here.
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *MEASURES, "p"])))
    _add_matched(rows, ranked, matched)
    tested = rows["selection"] == "ranked"
    rows.loc[tested, "q"] = st.benjamini_hochberg(rows.loc[tested, "p"])
    return _complete(rows)


def matched_latents(table: pd.DataFrame, ranked: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return [len(ranked), count] random latents with a similar firing rate, none of them ranked.

    Row i holds the latents drawn for ``ranked[i]``, from those that are nearest to it in the
    logarithm of the firing rate. If fewer than `count` latents can be drawn, there are fewer
    columns.
    """
    rng = np.random.default_rng(seed)
    rate = table.set_index("latent")["firing_rate"]
    free = rate[(rate > 0) & ~rate.index.isin(ranked)]
    count = min(count, len(free))
    result = np.empty((len(ranked), count), dtype=np.int64)
    for row, latent in enumerate(ranked):
        if not count:
            break
        distance = np.abs(np.log(free.to_numpy()) - np.log(max(rate[latent], 1e-12)))
        near = np.argsort(distance, kind="stable")[: _MATCHED_AMONG * count]
        result[row] = free.index.to_numpy()[rng.choice(near, count, replace=False)]
    return result


def _maps_and_thresholds(
    settings: AlignmentSettings,
    reader: CodesReader,
    store: ImageReader,
    ids: np.ndarray,
    every: np.ndarray,
    positive: np.ndarray,
    chosen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of positive images [m, n, R, C] and each latent's threshold [m]."""
    grid = reader.grid
    maps = np.zeros((len(chosen), len(positive), grid.rows, grid.columns), np.float32)
    place = {int(image): i for i, image in enumerate(positive)}
    latent, value, area = [], [], []
    total = 0.0
    for rows, part in cells.stream_maps(reader, every, chosen):
        breast, _ = cells.image_areas(store, ids[every[rows]], [], grid)
        total += float(breast.sum(dtype=np.float64))
        for local, image in enumerate(every[rows]):
            if int(image) in place:
                maps[:, place[int(image)]] = part[local]
        part *= breast[:, None] > 0
        image, which, row, column = np.nonzero(part)
        latent.append(which)
        value.append(part[image, which, row, column])
        area.append(breast[image, row, column])
    which, values, areas = (np.concatenate(x) for x in (latent, value, area))
    thresholds = np.zeros(len(chosen), np.float32)
    for m in range(len(chosen)):
        mine = which == m
        thresholds[m] = upper_quantile(values[mine], areas[mine], settings.quantile * total)
    return maps, thresholds


def upper_quantile(values: np.ndarray, areas: np.ndarray, kept: float) -> float:
    """Return the smallest threshold at which at most the area `kept` has values above it."""
    order = np.argsort(-values, kind="stable")
    above = np.cumsum(areas[order], dtype=np.float64)
    beyond = int(np.searchsorted(above, kept, side="right"))
    return float(values[order][beyond]) if beyond < len(values) else 0.0


def _score_maps(
    settings: AlignmentSettings, here: Scene, maps: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    weights = st.patient_weights(here.patients, settings.bootstrap_draws, settings.seed)
    moves = exchange.patient_exchanges(
        here.patients, settings.permutation_draws, settings.seed, within=here.views
    )
    rows = [
        score_map(here, one, float(threshold), weights, moves)
        for one, threshold in zip(maps, thresholds, strict=True)
    ]
    return pd.DataFrame(rows)


def score_map(
    here: Scene,
    activation: np.ndarray,
    threshold: float,
    weights: np.ndarray,
    moves: np.ndarray,
) -> dict[str, Any]:
    """Return one latent's row, from its maps `activation` [n, R, C] of the images in `here`.

    `weights` [n, draws] belong to the bootstrap, `moves` [draws, n] to the permutations.
    """
    n = len(here)
    z = np.where(here.breast > 0, activation, 0).reshape(n, -1).astype(np.float64)
    breast = here.breast.reshape(n, -1).astype(np.float64)
    mask = here.mask.reshape(n, -1).astype(np.float64)
    moved = here.moved.reshape(n, -1).astype(np.float64)
    energy = (z * breast).sum(1)
    fires = energy > 0
    row: dict[str, Any] = {
        "images": n,
        "fires": float(fires.mean()),
        "reason": _too_rare(len(np.unique(here.patients[fires]))),
    }
    if row["reason"]:
        return row
    row["auprc"], row["auprc_low"], row["auprc_high"] = _auprc(z, mask, breast, weights)
    row["chance_auprc"] = mask.sum() / breast.sum()

    on = z > threshold
    inter, area = (on * mask).sum(1), (on * breast).sum(1) + mask.sum(1)
    row["pooled_iou"] = inter.sum() / (area - inter).sum()
    row["pooled_iou_low"], row["pooled_iou_high"] = st.interval(
        (inter @ weights) / ((area - inter) @ weights)
    )
    crossed = (on * breast) @ moved.T
    drawn = _paired(crossed, moves).sum(1)
    row["shuffled_pooled_iou"] = float((drawn / (area.sum() - drawn)).mean())

    share = np.divide((z * mask).sum(1), energy, out=np.zeros(n), where=fires)
    extent = np.where(fires, mask.sum(1) / breast.sum(1), 0.0)
    row["energy_inside"] = share[fires].mean()
    row["energy_lift"] = share.sum() / extent.sum()
    drawn_weights = extent @ weights
    row["energy_lift_low"], row["energy_lift_high"] = st.interval(
        np.divide(
            share @ weights,
            drawn_weights,
            out=np.full(weights.shape[1], np.nan),
            where=drawn_weights > 0,
        )
    )
    scale = np.where(fires, 1 / np.where(fires, energy, 1.0), 0.0)
    inside = ((z * breast) * scale[:, None]) @ moved.T
    spread = (fires / breast.sum(1))[:, None] * (breast @ moved.T)
    lifts = _lift(inside, spread, moves)
    observed = _lift(inside, spread, np.arange(n)[None])[0]
    row["shuffled_energy_lift"] = float(np.nanmean(lifts))
    extreme = (lifts >= observed * (1 - 1e-9)).sum()
    row["p"] = (1 + extreme) / (1 + len(moves))

    peak = z.argmax(1)
    near = maximum_filter(here.moved > 0, size=(1, 3, 3)).reshape(n, -1)
    for name, touched in (("pointing", moved > 0), ("pointing_near", near)):
        hit = touched[np.arange(n), peak] & fires
        row[name] = hit.mean()
        row[f"{name}_low"], row[f"{name}_high"] = st.interval(hit @ weights / weights.sum(0))
        row[f"chance_{name}"] = ((touched * breast).sum(1) / breast.sum(1)).mean()
        crossed = touched[:, peak].T & fires[:, None]
        row[f"shuffled_{name}"] = float(_paired(crossed, moves).mean())
    return row


def _auprc(
    z: np.ndarray, mask: np.ndarray, breast: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float]:
    """Return the AUPRC over all cells, and its interval.

    The inactive cells of an image all have score 0, so they are counted together as one item.
    """
    image, cell = np.nonzero(z)
    score = np.append(z[image, cell], np.zeros(len(z)))
    quiet = z == 0
    positive = np.append(mask[image, cell], (mask * quiet).sum(1))
    total = np.append(breast[image, cell], (breast * quiet).sum(1))
    owner = np.append(image, np.arange(len(z)))
    step = max(1, 2_000_000 // len(owner))
    draws = [
        st.mass_auprc(
            score,
            positive[:, None] * weights[owner, start : start + step],
            total[:, None] * weights[owner, start : start + step],
        )
        for start in range(0, weights.shape[1], step)
    ]
    low, high = st.interval(np.concatenate(draws))
    return st.mass_auprc(score, positive, total), low, high


def _paired(crossed: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return [draws, n]: in each draw, the entry of `crossed` [n, n] for image i and its mask."""
    return crossed[np.arange(len(crossed))[None], moves]


def _lift(inside: np.ndarray, spread: np.ndarray, moves: np.ndarray) -> np.ndarray:
    share, extent = _paired(inside, moves).sum(1), _paired(spread, moves).sum(1)
    return np.divide(share, extent, out=np.full(len(moves), np.nan), where=extent > 0)


def _prior(
    settings: AlignmentSettings,
    store: ImageReader,
    cases: pd.DataFrame,
    here: Scene,
    concept: str,
    grid: Any,
) -> np.ndarray:
    """Return a map [n, R, C] of lesion locations for each image in `here`.

    The value of a cell is its mean area inside the masks of the discovery split's positive images
    of the same view.
    """
    found = case.labelled_images(cases, concept, settings.discovery)
    found = found[case.labels(cases, concept, found)]
    views = cases["view"].to_numpy()[found]
    _, region = cells.image_areas(store, cases["image_id"].to_numpy()[found], [concept], grid)
    result = np.zeros(here.breast.shape, np.float32)
    for view in np.unique(here.views):
        if (views == view).any():
            result[here.views == view] = region[views == view, 0].mean(axis=0)
    return result


def _score_prior(settings: AlignmentSettings, here: Scene, prior: np.ndarray) -> pd.DataFrame:
    kept = settings.quantile * float(here.breast.sum())
    threshold = upper_quantile(prior.ravel(), here.breast.ravel(), kept)
    return _score_maps(settings, here, prior[None], np.array([threshold]))


def _add_matched(rows: pd.DataFrame, ranked: np.ndarray, matched: np.ndarray) -> None:
    """Add to every ranked latent the mean scores of its matched latents."""
    place = {int(latent): i for i, latent in enumerate(rows["latent"][:-1])}
    for name in MEASURES:
        values = rows[name].to_numpy(dtype=np.float64)
        column = np.full(len(rows), np.nan)
        for latent, partners in zip(ranked, matched, strict=True):
            scores = values[[place[int(partner)] for partner in partners]]
            if not np.isnan(scores).all():
                column[place[int(latent)]] = np.nanmean(scores)
        rows[f"matched_{name}"] = column


def _too_few(patients: int, concept: str) -> str:
    if patients < st.MIN_POSITIVES:
        return f"{patients} patients with a mask of {concept}, fewer than {st.MIN_POSITIVES}"
    return ""


def _too_rare(patients: int) -> str:
    if patients < st.MIN_POSITIVES:
        return f"fires in positive images of {patients} patients, fewer than {st.MIN_POSITIVES}"
    return ""


def _missing(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    return _complete(rows.assign(reason=reason))


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with every column, NaN where nothing was measured, in a fixed order."""
    scored = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    baselines = [
        f"{kind}_{name}" for kind in ("chance", "shuffled", "matched") for name in MEASURES
    ]
    first = ["concept", "latent", "selection", "images", "fires"]
    columns = [*first, *scored, *baselines, "energy_inside", "p", "q", "reason"]
    return rows.reindex(columns=[c for c in columns if c not in _NO_BASELINE])
