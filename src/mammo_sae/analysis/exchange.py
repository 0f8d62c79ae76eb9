"""p-values by exchange of patients: valid for any numbers of images a patient, equal or not.

A patient's images are not independent, and neither are those of one breast. So an exchange works
level by level (multi-level block permutation, Winkler et al. 2015): patients trade the means of
their values, the breasts of a patient trade what is theirs beyond the patient's mean, and the
images of a breast trade what is theirs beyond the breast's. A mean needs no partner with equally
many images. The score's mean over a patient's images is less variable the more images there are;
divided by its standard deviation, it has mean 0 and variance 1 whatever their number, so that
patients may trade even where the positive ones have more images (cluster-adjusted rank sum, Rosner,
Glynn and Lee 2003; standardised by size instead of stratified).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

from mammo_sae.statistics import Floats, blocks_of, is_constant

REFINE_BELOW = 0.05
"""p-value below which a score is exchanged more often, since its q-value hangs on small p."""

REFINEMENT = 20
"""How many times more often."""

FEWEST_EXCHANGES = 20
"""Fewest arrangements of the values: with fewer, no p-value can reach 0.05."""

_HELD = 1 << 22  # numbers held at once for some draws, whatever the cohort's size


def patient_permutation_p(
    scores: ArrayLike,
    values: ArrayLike,
    patients: ArrayLike,
    *,
    draws: int,
    seed: int,
    within: ArrayLike | None = None,
    breasts: ArrayLike | None = None,
) -> Any:
    """Two-sided p-value of the association of `scores` with categorical `values`, by patients.

    With x the indicator of a level of `values` and r the score's mid-ranks, centred within each
    stratum of `within`, the statistic is T = sum of x z over patients, breasts and images: x and z
    of a patient are means of x and r over its images, those of a breast and of an image are what
    its mean, or its own, exceeds that of its patient or breast by; z is divided by its standard
    deviation, which for patients depends on their number of images. Each is exchanged among its
    like (see the module), and with `within` (the label Y, for a test of C independent of the score
    given Y) patients trade with patients that hold the same set of `within` values, a mean per
    `within` value, and breasts and images trade within one value of it. The levels are judged by
    their largest T^2 / variance of T over all exchanges.

    Scores that fall below `REFINE_BELOW` in `draws` exchanges are judged by `REFINEMENT` times as
    many fresh ones: with m scores in a family, m / 0.05 draws are needed before one of them can
    have q < 0.05, and only the few small p-values need that many.

    Parameters
    ----------
    scores : [n] or [n, m]
    values : [n]
        A label or covariate.
    patients : [n]
    within : [n], optional
    breasts : [n], optional
        Side of each image; without it a patient's images trade among themselves.

    Returns
    -------
    (1 + draws at least as extreme) / (1 + draws), float or [m]; NaN for a constant score, and
    where `why_not_exchangeable`.
    """
    scores = np.asarray(scores)
    single = scores.ndim == 1
    scores = scores[:, None] if single else scores
    result = np.full(scores.shape[1], np.nan)
    trade = _Trade(values, patients, within, breasts)
    if trade.arrangements >= FEWEST_EXCHANGES - 0.5:
        first = seed * (1 + REFINEMENT)  # streams of one seed stay apart from those of the next
        result = (1 + trade.extreme(scores, draws, [first])) / (1 + draws)
        small = np.flatnonzero(result < REFINE_BELOW)
        seeds = range(first + 1, first + 1 + REFINEMENT)
        extreme = trade.extreme(scores[:, small], draws, seeds)
        result[small] = (1 + extreme) / (1 + REFINEMENT * draws)
        result[is_constant(scores)] = np.nan
    return float(result[0]) if single else result


def why_not_exchangeable(
    values: ArrayLike,
    patients: ArrayLike,
    within: ArrayLike | None = None,
    breasts: ArrayLike | None = None,
) -> str:
    """Return why exchanging `values` [n] can't give a p-value, or ``""``; inputs as above."""
    count = _Trade(values, patients, within, breasts).arrangements
    if count >= FEWEST_EXCHANGES - 0.5:
        return ""
    ways = f"{count:.0f} way" + "s" * (round(count) != 1)
    return f"values can be exchanged between patients in {ways}, fewer than {FEWEST_EXCHANGES}"


def patient_exchanges(
    patients: ArrayLike, draws: int, seed: int, within: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return `draws` exchanges [draws, n] of whole patients' images.

    ``images[exchanges[d]]`` gives every image one of another patient's. With `within` [n] (the
    view) it is one of the same `within` value, and patients trade with patients that hold the same
    set of these values. A patient with fewer images of one value takes as many of the other's, one
    with more takes them repeatedly; with equal numbers every draw is a permutation.
    """
    patient, key, group = _cells(patients, within)
    cell = group[patient, key]
    order = np.argsort(cell, kind="stable")
    sizes = np.bincount(cell)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(cell), np.int64)  # of an image in its list
    place[order] = np.arange(len(cell)) - np.repeat(starts, sizes)
    donor = np.tile(np.arange(len(group)), (draws, 1))
    rng = np.random.default_rng(seed)
    for members in _trading(group):
        mixed = np.tile(members, (draws, 1))
        rng.permuted(mixed, axis=1, out=mixed)
        donor[:, members] = mixed
    taken = group[donor[:, patient], key]
    return order[starts[taken] + place % sizes[taken]]


def _cells(
    patients: ArrayLike, within: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each image's patient and `within` value as numbers, and the cells that these make.

    A cell is a patient's images of one value; the last result, [patients, values], holds its
    number, -1 where there is none.
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    key = np.zeros(patient.size, np.int64)
    if within is not None:
        _, key = np.unique(np.asarray(within), return_inverse=True)
    group = np.full((int(patient.max(initial=-1)) + 1, int(key.max(initial=0)) + 1), -1)
    flat = np.unique(patient * group.shape[1] + key)
    group.ravel()[flat] = np.arange(len(flat))
    return patient, key, group


def _trading(group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the lists of patients that hold the same set of `within` values."""
    _, held = np.unique(group >= 0, axis=0, return_inverse=True)
    held = held.ravel()
    return [np.flatnonzero(held == number) for number in range(int(held.max(initial=-1)) + 1)]


@dataclass(frozen=True)
class _Piece:
    """Units that trade: `members` [p, k, v], k units of v values each in each of p families.

    A member is the number of a cell, breast or image (of `level`); `x` [p, k, v, levels of the
    covariate] is its mean, less the family's.
    """

    level: int
    members: NDArray[np.int64]
    x: Floats


class _Trade:
    """One covariate's exchange: which units trade, and what an exchange makes of the statistic."""

    def __init__(
        self,
        values: ArrayLike,
        patients: ArrayLike,
        within: ArrayLike | None,
        breasts: ArrayLike | None,
    ) -> None:
        patient, self.strata, group = _cells(patients, within)
        _, code = np.unique(np.asarray(values), return_inverse=True)
        levels = int(code.max(initial=0)) + 1
        tested = np.arange(1, levels) if levels <= 2 else np.arange(levels)  # two are one's mirror
        cell = group[patient, self.strata]
        side = np.zeros(len(cell), np.int64)
        if breasts is not None:
            _, side = np.unique(np.asarray(breasts), return_inverse=True)
        _, breast = np.unique(cell * (int(side.max(initial=0)) + 1) + side, return_inverse=True)
        # Of each level of the nesting: every image's unit, and every unit's parent.
        self.units = [cell, breast, np.arange(len(cell))]
        self.sizes = [np.bincount(unit).astype(np.float64) for unit in self.units]
        indicator = (code[:, None] == tested).astype(np.float64)
        means = [self._mean(level, indicator) for level in range(3)]
        self.parents = [_first(breast, cell), breast]
        self.pieces = [
            _piece(0, group[members][:, group[members[0]] >= 0][None], means[0])
            for members in _trading(group)
        ]
        for level, parents in enumerate(self.parents, start=1):
            self.pieces += [_piece(level, m[..., None], means[level]) for m in _families(parents)]
        self.pieces = [piece for piece in self.pieces if len(piece.x)]

    @property
    def arrangements(self) -> float:
        """Number of different arrangements of the values, infinite beyond e^700."""
        total = 0.0
        for piece in self.pieces:
            _, values = np.unique(np.round(piece.x, 9), return_inverse=True)
            rows = values.reshape(*piece.x.shape[:2], -1)
            total += len(rows) * gammaln(rows.shape[1] + 1)
            for family in rows:
                _, counts = np.unique(family, axis=0, return_counts=True)
                total -= gammaln(counts + 1).sum()
        return float(np.exp(min(total, 700.0)))

    def extreme(self, scores: Floats, draws: int, seeds: Iterable[int]) -> Floats:
        """Count [m] the exchanges whose statistic is at least that of the values as they are."""
        count = np.zeros(scores.shape[1])
        seeds = list(seeds)
        for columns in blocks_of(scores.shape[1]):
            z = self._standardised(scores[:, columns])
            parts = [z[piece.level][piece.members] for piece in self.pieces]
            spread = sum(
                _variance(piece.x, part) for piece, part in zip(self.pieces, parts, strict=True)
            )
            flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
            observed = self._statistic([piece.x[None] for piece in self.pieces], flat, spread)
            for seed in seeds:
                for moved in self._moves(draws, seed):
                    # The tolerance keeps exchanges that equal the observed one on its side.
                    reached = self._statistic(moved, flat, spread) >= observed * (1 - 1e-9)
                    count[columns] += reached.sum(axis=0)
        return count

    def _moves(self, draws: int, seed: int) -> Iterator[list[Floats]]:
        """Yield, for some draws at a time, the exchanged values of each piece."""
        rng = np.random.default_rng(seed)
        step = max(1, _HELD // sum(piece.x.size for piece in self.pieces))
        for start in range(0, draws, step):
            moved = []
            for piece in self.pieces:
                families, units = piece.x.shape[:2]
                chance = rng.random((min(step, draws - start), families, units), np.float32)
                order = np.argsort(chance, axis=2)
                moved.append(piece.x[np.arange(families)[:, None], order])
            yield moved

    @staticmethod
    def _statistic(x: list[Floats], z: Floats, spread: Floats) -> Floats:
        """Return [draws, m] from `x` [draws, p, k, v, levels] of each piece and `spread`."""
        result = np.zeros((len(x[0]), z.shape[1]))
        for level in range(x[0].shape[-1]):
            flat = np.concatenate([part[..., level].reshape(len(part), -1) for part in x], axis=1)
            total = np.square(flat @ z)
            np.divide(total, spread[level], out=total, where=spread[level] > 0)
            np.maximum(result, total, out=result)
        return result

    def _mean(self, level: int, values: Floats) -> Floats:
        """Return the mean [units, m] of `values` [n, m] over each unit of a level."""
        if len(self.sizes[level]) == len(values):
            return values[np.argsort(self.units[level])]
        order = np.argsort(self.units[level], kind="stable")
        starts = np.cumsum(self.sizes[level]).astype(np.int64) - self.sizes[level].astype(np.int64)
        return np.add.reduceat(values[order], starts, axis=0) / self.sizes[level][:, None]

    def _standardised(self, scores: Floats) -> list[Floats]:
        """Return the ranks of `scores` [n, m] per level, [units, m] of variance 1."""
        ranks = _centred_ranks(scores, self.strata)
        cell = self._mean(0, ranks)
        size = self.sizes[0][:, None]
        # One-way analysis of variance: the variances between cells and of images within a cell.
        rest = len(ranks) - len(cell)
        inside = np.square(ranks - cell[self.units[0]]).sum(axis=0) / max(rest, 1)
        typical = (len(ranks) - (size**2).sum() / len(ranks)) / max(len(cell) - 1, 1)
        outside = (size * np.square(cell)).sum(axis=0) / max(len(cell) - 1, 1)
        between = np.maximum(outside - inside, 0.0) / max(typical, 1.0)
        result = [_divide(cell, np.sqrt(between + inside / size))]
        means = [cell, self._mean(1, ranks), self._mean(2, ranks)]
        for level, parents in enumerate(self.parents, start=1):
            own = means[level] - means[level - 1][parents]
            freedom = max(len(own) - len(means[level - 1]), 1)
            result.append(_divide(own, np.sqrt(np.square(own).sum(axis=0) / freedom)))
        return result


def _first(unit: NDArray[np.int64], parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each unit's parent, from those [n] of the images."""
    _, where = np.unique(unit, return_index=True)
    return parent[where]


def _families(parents: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return units of one parent side by side, [p, k] for each number k of them above 1."""
    order = np.argsort(parents, kind="stable")
    sizes = np.bincount(parents)
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == k][:, None] + np.arange(k)] for k in np.unique(sizes[sizes > 1])]


def _piece(level: int, members: NDArray[np.int64], means: Floats) -> _Piece:
    """Return the families of `members` whose units differ in their values `means`."""
    x = means[members]
    x = x - x.mean(axis=1, keepdims=True)
    vary = (np.abs(x) > 1e-12).any(axis=(1, 2, 3))
    return _Piece(level, members[vary], x[vary])


def _variance(x: Floats, z: Floats) -> Floats:
    """Return the variance [levels, m] of sum x z over exchanges of the units, axis 1."""
    z = z - z.mean(axis=1, keepdims=True)
    products = np.einsum("pkvl,pkwl->pvwl", x, x)
    return np.einsum(
        "pvwl,pvwm->lm", products, np.einsum("pkvm,pkwm->pvwm", z, z, optimize=True), optimize=True
    ) / (x.shape[1] - 1)


def _divide(values: Floats, by: Floats) -> Floats:
    by = np.broadcast_to(by, values.shape)
    return np.divide(values, by, out=np.zeros(values.shape), where=by > 0)


def _centred_ranks(scores: Floats, groups: NDArray[Any]) -> Floats:
    """Return the mid-ranks of `scores` [n, m] within each group, less their mean there."""
    ranks = np.empty(scores.shape)
    for level in np.unique(groups):
        rows = groups == level
        part = rankdata(scores[rows], axis=0)
        ranks[rows] = part - part.mean(axis=0)
    return ranks
