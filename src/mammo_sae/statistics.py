"""Statistics for all analyses: rank scores, patient bootstrap, families of p-values.

Images of one patient are not independent, so no function here resamples images. The bootstrap draws
patients with replacement (cluster bootstrap, Field & Welsh 2007). `mammo_sae.analysis.exchange`
computes p-values by exchanging patients.

A bootstrap draw is a column of weights: the number of times each image's patient was drawn. Every
metric takes `weights` [n, draws] and computes all draws of a score in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from mammo_sae.errors import InputError, counted

Floats = NDArray[np.floating[Any]]
Metric = Callable[..., Any]

MIN_POSITIVES = 10
"""The smallest number of patients with a positive image, and with a negative one, for a score."""

COLUMNS = 512
VALUES = 1 << 21
"""Scores are ranked in blocks of at most `COLUMNS` scores and, if possible, `VALUES` values."""

DRAWN = 1 << 21
"""Weights, images times bootstrap draws, that are in memory at a time."""


# --- Values that can't be estimated ---------------------------------------------------------


def why_not_estimable(labels: ArrayLike, patients: ArrayLike, minimum: int = MIN_POSITIVES) -> str:
    """Return the reason why a rank score for `labels` [n] (0/1) can't be reported, or ``""``.

    Patients are counted and not images: twelve positive images of one patient are one observation.
    """
    labels, patients = np.asarray(labels, dtype=bool), np.asarray(patients)
    for name, rows in (("positive", labels), ("negative", ~labels)):
        count = len(np.unique(patients[rows]))
        if count < minimum:
            return f"{counted(count, 'patient')} with a {name} image, fewer than {minimum}"
    return ""


def patients_per_group(groups: ArrayLike, patients: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return [count]: the number of patients in each group. `groups` [n] are numbered from 0."""
    pairs = np.unique(np.stack([np.asarray(groups), _numbered(patients)]).astype(np.int64), axis=1)
    return np.bincount(pairs[0], minlength=count)


def _numbered(patients: ArrayLike) -> NDArray[np.int64]:
    return np.unique(np.asarray(patients), return_inverse=True)[1]


def is_constant(scores: ArrayLike) -> NDArray[np.bool_]:
    """Return bool [m]: whether each column of `scores` [n, m] has only one value."""
    scores = np.asarray(scores)
    return (scores == scores[:1]).all(axis=0)


# --- Rank scores ------------------------------------------------------------------------------


def auroc(scores: ArrayLike, labels: ArrayLike, weights: Floats | None = None) -> Any:
    """Area under the ROC curve, ties counted as one half (Mann-Whitney).

    Parameters
    ----------
    scores : [n] or [n, m]
    labels : [n], 0/1
    weights : [n, draws], optional
        Multiplicity of every image in each bootstrap draw.

    Returns
    -------
    A float, or [m] for m scores. With weights, [draws] or [m, draws]. The value is NaN if a class
    is empty, and 0.5 for a constant score.
    """
    scores, labels, single = _check(scores, labels)
    concordant, pairs = _concordance(scores, labels, weights)
    return _result(_ratio(concordant, pairs), single)


def stratified_auroc(
    scores: ArrayLike, labels: ArrayLike, strata: ArrayLike, weights: Floats | None = None
) -> Any:
    """AUROC over the pairs (positive, negative) that are in the same stratum.

    It measures the association of a score with the label within strata: sum_s U_s / sum_s P_s N_s.
    Shapes are those of `auroc`. `strata` [n] has any comparable values.
    """
    scores, labels, single = _check(scores, labels)
    strata = np.asarray(strata)
    concordant, pairs = 0.0, 0.0
    for level in np.unique(strata):
        rows = strata == level
        part = _concordance(scores[rows], labels[rows], None if weights is None else weights[rows])
        concordant, pairs = concordant + part[0], pairs + part[1]
    return _result(_ratio(concordant, pairs), single)


def auprc(scores: ArrayLike, labels: ArrayLike, weights: Floats | None = None) -> Any:
    """Average precision, with tied scores added together: sum_t (R_t - R_t-1) P_t.

    Shapes are those of `auroc`. NaN without positives.
    """
    scores, labels, single = _check(scores, labels)
    drawn = np.ones((labels.size, 1)) if weights is None else weights
    positive = drawn * labels[:, None]
    result = np.empty((scores.shape[1], drawn.shape[1]))
    for column in range(scores.shape[1]):
        result[column] = _average_precision(scores[:, column], positive, drawn)
    return _result(result[:, 0] if weights is None else result, single)


def precision_recall_f1(
    scores: ArrayLike,
    labels: ArrayLike,
    weights: Floats | None = None,
    *,
    threshold: float | Floats = 0.0,
) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 of ``score > threshold``; shapes are those of `auroc`.

    The threshold is one number, or [m] for m scores. If no image is called positive, precision is
    NaN, and F1 is 0 if there are positives.
    """
    scores, labels, single = _check(scores, labels)
    drawn = np.ones((labels.size, 1)) if weights is None else np.asarray(weights, np.float64)
    called = (scores > threshold).T.astype(np.float64)
    positives = drawn * labels[:, None]
    hits = called @ positives
    precision = _ratio(hits, called @ drawn)
    recall = _ratio(hits, positives.sum(0)[None])
    f1 = _ratio(2 * hits, called @ drawn + positives.sum(0)[None])
    f1 = np.where(positives.sum(0)[None] > 0, f1, np.nan)
    if weights is None:
        precision, recall, f1 = precision[:, 0], recall[:, 0], f1[:, 0]
    return _result(precision, single), _result(recall, single), _result(f1, single)


def best_f1_threshold(scores: ArrayLike, labels: ArrayLike) -> Any:
    """Return the score t at which the F1 of ``score >= t`` is largest; the highest such t.

    Shapes are those of `auroc`, without weights. NaN without positives.
    """
    scores, labels, single = _check(scores, labels)
    positives = int(labels.sum())
    result = np.full(scores.shape[1], np.nan)
    if positives:
        called = np.arange(1.0, labels.size + 1)[:, None]
        for columns in blocks_of(scores.shape[1], labels.size):
            order = np.argsort(-scores[:, columns], axis=0, kind="stable")
            falling = np.take_along_axis(scores[:, columns], order, axis=0)
            f1 = 2 * np.cumsum(labels[order], axis=0) / (called + positives)
            # Equal scores are called together, so a threshold can only be the last of them.
            f1[:-1][falling[:-1] == falling[1:]] = -1.0
            best = f1.argmax(axis=0)
            result[columns] = falling[best, np.arange(len(best))]
    return _result(result, single)


def _check(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_], bool]:
    scores = np.asarray(scores)
    labels = np.asarray(labels)
    if scores.ndim not in (1, 2) or labels.shape != scores.shape[:1]:
        raise InputError(
            f"scores {scores.shape} and labels {labels.shape} do not match; "
            "give [n] or [n, m] scores and [n] labels."
        )
    if labels.dtype != bool:
        labels = labels.astype(np.float64)
        if not np.isin(labels, (0.0, 1.0)).all():
            raise InputError("labels hold values other than 0 and 1; drop unlabelled images first.")
        labels = labels.astype(bool)
    return _columns(scores), labels, scores.ndim == 1


def _columns(scores: Floats) -> Floats:
    return scores if scores.ndim == 2 else scores[:, None]


def _result(values: Any, single: bool) -> Any:
    if not single:
        return values
    first = values[0]
    return float(first) if np.ndim(first) == 0 else first


def _ratio(numerator: Any, denominator: Any) -> Any:
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )


def _concordance(
    scores: Floats, labels: NDArray[np.bool_], weights: Floats | None
) -> tuple[Any, Any]:
    """Return the number of concordant pairs, [m] or [m, draws], and the number of all pairs.

    A tie counts as one half of a concordant pair.
    """
    positives = int(labels.sum())
    negatives = labels.size - positives
    if weights is None:
        concordant = np.zeros(scores.shape[1])
        if positives and negatives:
            for columns in blocks_of(scores.shape[1], labels.size):
                concordant[columns] = _mann_whitney(scores[:, columns], labels)
        return concordant, float(positives * negatives)
    above, below = weights[labels], weights[~labels]
    total, rest = above.sum(0, dtype=np.float64), below.sum(0, dtype=np.float64)
    concordant = np.zeros((scores.shape[1], weights.shape[1]))
    if not positives or not negatives:
        return concordant, total * rest
    for column in range(scores.shape[1]):
        high, low = scores[labels, column], scores[~labels, column]
        # Most scores of a sparse code are 0, its lowest value. These images need no sorting: they
        # tie with each other, and all other images lie above them.
        lowest = min(high.min(), low.min())
        fires, others = np.flatnonzero(high > lowest), np.flatnonzero(low > lowest)
        order = others[np.argsort(low[others])]
        above_here, falls = above[fires], low[order]
        # Negatives between two positives are added together before the running sums are taken.
        places = [np.searchsorted(falls, high[fires], side=side) for side in ("left", "right")]
        edges, place = np.unique(np.concatenate(places), return_inverse=True)
        starts = np.concatenate([[0], edges, [len(order)]])
        ones = np.ones(len(order), weights.dtype)
        between = sparse.csr_array((ones, order, starts), shape=(len(edges) + 1, negatives))
        sums = np.cumsum(between @ below, axis=0)
        ties = rest - sums[-1]
        beaten = sums[place[: len(fires)]] + sums[place[len(fires) :]]
        fired = above_here.sum(0, dtype=np.float64)
        concordant[column] = 0.5 * np.einsum("pb,pb->b", above_here, beaten, dtype=np.float64)
        concordant[column] += fired * ties + 0.5 * (total - fired) * ties
    return concordant, total * rest


def _mann_whitney(scores: Floats, labels: NDArray[np.bool_]) -> Floats:
    """Return U [m]: the number of pairs in which the positive scores higher; ties count half.

    Sorting keys is several times faster than ranking. A key is the score as an integer of the same
    order, with the label in its last bit (scores that differ only in this bit count as tied). When
    positives are sorted last among equal scores, every tie counts fully. If a positive ties with a
    negative, the keys are sorted again with positives first, and the mean of both results counts
    each tie as one half.
    """
    values = np.ascontiguousarray(scores.T, dtype=np.float64) + 0.0  # -0.0 becomes 0.0
    bits = values.view(np.int64)
    keys = (bits ^ ((bits >> 63) & np.int64(2**63 - 1))) & ~np.int64(1)
    positive = labels.astype(np.int64)
    places = np.arange(1.0, len(labels) + 1)
    count = int(positive.sum())
    ordered = np.sort(keys | positive, axis=1)
    ranks = (ordered & 1).astype(np.float64) @ places
    tied = ((ordered[:, 1:] ^ ordered[:, :-1]) == 1).any(axis=1)
    if tied.any():
        first = np.sort(keys[tied] | (1 - positive), axis=1) & 1 ^ 1
        ranks[tied] = (ranks[tied] + first.astype(np.float64) @ places) / 2
    return ranks - count * (count + 1) / 2


def _average_precision(scores: Floats, positive: Floats, total: Floats) -> Floats:
    """Average precision [draws] of one score [n], weights [n, draws]; NaN if n is 0."""
    if not len(scores):
        return np.full(positive.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(positive[order], axis=0, dtype=np.float64)[last]
    called = np.cumsum(total[order], axis=0, dtype=np.float64)[last]
    steps = np.diff(found, axis=0, prepend=0.0)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return _ratio((steps * precision).sum(0), found[-1])


def blocks_of(columns: int, rows: int) -> Iterator[slice]:
    """Yield slices of scores, so that [rows, slice] has few enough values for any numbers."""
    step = min(COLUMNS, max(1, VALUES // max(1, rows)))
    for start in range(0, columns, step):
        yield slice(start, min(start + step, columns))


# --- Patient bootstrap -------------------------------------------------------------------------


class PatientDraws:
    """Bootstrap draws of the patients of n images, with replacement.

    The draws depend only on the number of patients and the seed, so two metrics over the same
    images are resampled in pairs and their differences can be compared. A draw takes one byte for
    each patient. The weights of images take more, so they are computed for some draws at a time.

    Attributes
    ----------
    patient : [n]
        The patient of each image, numbered from 0.
    times : [patients, draws] uint8
        How often each patient is drawn. More than 255 times does not occur: the mean is 1.
    """

    def __init__(self, patients: ArrayLike, draws: int, seed: int) -> None:
        self.patient = _numbered(patients)
        count = int(self.patient.max(initial=-1)) + 1
        self.times = np.zeros((count, draws), np.uint8)
        rng = np.random.default_rng(seed)
        step = max(1, DRAWN // max(1, count))
        for start in range(0, draws if count else 0, step):
            some = min(step, draws - start)
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=some)
            self.times[:, start : start + some] = drawn.T

    def weights(self) -> Iterator[NDArray[np.float32]]:
        """Yield [n, some draws]: how often each image's patient is drawn. Draws come in order."""
        draws = self.times.shape[1]
        step = max(1, DRAWN // max(1, len(self.patient)))
        for start in range(0, max(1, draws), step):
            yield self.times[self.patient, start : start + step].astype(np.float32)

    def of(self, metric: Callable[[NDArray[np.float32]], Any]) -> Any:
        """Return ``metric(weights)`` of all draws.

        Parameters
        ----------
        metric
            A function of weights [n, d] of some draws. It returns an array [..., d], or a mapping
            of such arrays.
        """
        return _joined([metric(weights) for weights in self.weights()])


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts, axis=-1)


def patient_bootstrap(
    metric: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    patients: ArrayLike,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> tuple[Any, Any]:
    """Percentile interval of `metric` over patients drawn with replacement.

    Parameters
    ----------
    metric
        ``metric(scores, labels, weights)`` such as `auroc`, `auprc`, or `stratified_auroc` with its
        strata bound by `functools.partial`.
    scores, labels, patients : [n] or [n, m], [n], [n]

    Returns
    -------
    (low, high), floats or [m]; NaN if the metric is undefined in all draws. Draws in which it is
    undefined (no positive patient was drawn) are left out.
    """
    drawn = PatientDraws(patients, draws, seed)
    return interval(drawn.of(lambda weights: metric(scores, labels, weights)), level)


def interval(samples: Floats, level: float = 0.95) -> tuple[Any, Any]:
    """Return the bounds of the central `level` of `samples` [..., draws], without NaN draws."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    samples = np.asarray(samples, dtype=np.float64)
    missing = np.isnan(samples)
    if not missing.any():
        low, high = np.quantile(samples, ends, axis=-1)
    else:
        # nanquantile warns about rows without any value. Their result is NaN by intent.
        empty = np.asarray(missing.all(axis=-1))
        low, high = np.nanquantile(np.where(empty[..., None], 0.0, samples), ends, axis=-1)
        low, high = np.where(empty, np.nan, low), np.where(empty, np.nan, high)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)


# --- Families of tests ---------------------------------------------------------------------------


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Benjamini-Hochberg q-values of one family `p` [n]. NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    if not known.size:
        return q
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * known.size / np.arange(1, known.size + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def family_q(p: ArrayLike) -> Floats:
    """Return q-values of a family of tests `p` [m, k] of m latents and k confounders.

    The false discovery rate is that of latents, for any number of confounders. The p-values of a
    latent are adjusted over its confounders by Holm's method. Then the procedure of Benjamini and
    Hochberg is applied over latents, to the smallest adjusted p-value of each (families of
    hypotheses, Benjamini and Bogomolov 2014). Among the latents with a q below alpha, the expected
    share of latents with a false discovery is at most alpha. NaN stays NaN and is not counted.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    order = np.argsort(p, axis=1, kind="stable")  # NaN last
    left = known.sum(axis=1, keepdims=True) - np.arange(p.shape[1])
    holm = np.take_along_axis(p, order, axis=1) * np.maximum(left, 1)
    holm = np.minimum(np.maximum.accumulate(holm, axis=1), 1.0)
    smallest = np.sort(holm[known.any(axis=1), 0])
    if not smallest.size:
        return q
    rank = np.arange(1, smallest.size + 1)
    step = np.minimum.accumulate((smallest * smallest.size / rank)[::-1])[::-1]
    place = np.searchsorted(
        smallest, holm, side="right"
    )  # number of latents that are at least as extreme
    direct = holm * smallest.size / np.maximum(place, 1)
    # A latent may also be selected together with less extreme latents, at their threshold.
    beyond = np.append(step, np.inf)[place]
    np.put_along_axis(q, order, np.minimum(np.minimum(direct, beyond), 1.0), axis=1)
    return np.where(known, q, np.nan)


# --- Effect sizes ------------------------------------------------------------------------------


def standardised_mean_difference(scores: ArrayLike, labels: ArrayLike) -> Any:
    """(mean of positives - mean of negatives) / sqrt of the mean of both variances (Cohen's d).

    Float or [m]; NaN if both variances are 0 or a class has fewer than two images.
    """
    scores, labels, single = _check(scores, labels)
    result = np.full(scores.shape[1], np.nan)
    if min(labels.sum(), (~labels).sum()) >= 2:
        for columns in blocks_of(scores.shape[1], labels.size):
            # The rounding of a row's sum does not depend on the number of rows; a column's does.
            rows = np.ascontiguousarray(scores[:, columns].T, dtype=np.float64)
            high, low = (rows.compress(some, axis=1) for some in (labels, ~labels))
            spread = np.sqrt((high.var(axis=1, ddof=1) + low.var(axis=1, ddof=1)) / 2)
            result[columns] = _ratio(high.mean(axis=1) - low.mean(axis=1), spread)
    return _result(result, single)


def eta_squared(scores: ArrayLike, groups: ArrayLike) -> Any:
    """Share of the variance of `scores` [n] or [n, m] that lies between `groups` [n]."""
    scores = np.asarray(scores, dtype=np.float64)
    single = scores.ndim == 1
    scores = _columns(scores)
    centred = scores - scores.mean(axis=0)
    groups = np.asarray(groups)
    between = np.zeros(scores.shape[1])
    for level in np.unique(groups):
        rows = groups == level
        between += rows.sum() * centred[rows].mean(axis=0) ** 2
    return _result(_ratio(between, (centred**2).sum(axis=0)), single)


def cramers_v(first: ArrayLike, second: ArrayLike) -> float:
    """Cramer's V of two categorical variables [n]; NaN if one of them is constant."""
    _, a = np.unique(np.asarray(first), return_inverse=True)
    _, b = np.unique(np.asarray(second), return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    if min(table.shape) < 2:
        return float("nan")
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / (table.sum() * (min(table.shape) - 1))))
