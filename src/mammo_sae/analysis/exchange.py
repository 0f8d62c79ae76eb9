"""p-values by exchange of patients, valid for any numbers of images per patient.

The images of one patient are not independent, nor are those of one breast. So exchanges work level
by level (multi-level block permutation, Winkler et al. 2015). Patients exchange the means of their
values. The breasts of a patient exchange their differences from the patient's mean. The images of
a breast exchange their differences from the breast's mean. Means can be exchanged between units
with different numbers of images.

The mean score of a patient varies less if the patient has more images. Each mean score is therefore
divided by its standard deviation, so that it has mean 0 and variance 1 for any number of images.
Then patients may be exchanged even if positive patients have more images than negative ones
(cluster-adjusted rank sum, Rosner, Glynn and Lee 2003; their test stratifies patients by the number
of images, and this one standardises instead).

A score is exchanged until the answer is clear (sequential Monte Carlo p-values, Besag and Clifford
1991): until `CLEAR` exchanges have reached the observed statistic, or until all exchanges are made.
Scores that no exchange has reached are then exchanged further, until the number of exchanges is
large enough for their q-values (`LEAST_Q`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from mammo_sae.regression.features import Parts
from mammo_sae.statistics import Floats, blocks_of, is_constant

CLEAR = 50
"""A score is exchanged no more when so many exchanges have reached the observed statistic.

The standard deviation of p is then about p / sqrt(50), 14 % of p.
"""

MOST = 20
"""Number of exchanges of a score that is not clear, divided by `draws`."""

LEAST_Q = 0.04
"""Scores that no exchange has reached are exchanged until their q-value can be as small as this.

It is below 0.05. With the same number of exchanges for any family, a single score among thousands
could never reach q < 0.05.
"""

FEWEST_EXCHANGES = 20
"""Fewest different arrangements of the values. With fewer, no p-value can reach 0.05."""

Seed = int | tuple[int, int]  # of a stream of random numbers
_HELD = 1 << 21  # largest number of exchanged values in memory at a time
_ROUND = 128  # exchanges between two checks of which scores are clear


def patient_permutation_p(
    scores: ArrayLike,
    values: ArrayLike,
    patients: ArrayLike,
    *,
    draws: int,
    seed: int,
    within: ArrayLike | None = None,
    breasts: ArrayLike | None = None,
    tests: int = 0,
) -> Any:
    """Return two-sided p-values for the association of `scores` with categorical `values`.

    Let a be the indicator of one level of `values`, and r the mid-ranks of the score, centred
    within each stratum of `within`. Every patient, breast and image has a pair of numbers (x, z).
    For a patient, x and z are the means of a and r over its images. For a breast, they are the
    breast's means minus the patient's means. For an image, they are the image's values minus the
    breast's means. z is divided by its standard deviation, which for patients depends on the number
    of images. T is the sum of x z over all patients, breasts and images. The test statistic is the
    largest T^2 / variance(T) over the levels, with the variance over exchanges.

    Patients are exchanged with patients, breasts with breasts of the same patient, and images with
    images of the same breast (see the module). `within` is used to test whether `values` and the
    score are independent among images with the same label. Then each patient has one mean for each
    of its `within` values, and is exchanged only with patients that have the same set of these
    values. Breasts and images are exchanged only within one value.

    Exchanges are drawn one after the other, the same ones for all scores. If the observed statistic
    is reached or exceeded for the `CLEAR`-th time at exchange l, then p = `CLEAR` / l, and this
    score is exchanged no more. If this does not happen within N = `MOST` x `draws` exchanges,
    p = (1 + exceedances) / (1 + N). Both are valid: under the null hypothesis p is at most alpha
    with a probability of at most alpha, for any alpha (Besag and Clifford 1991,
    https://doi.org/10.1093/biomet/78.2.301). If no exchange reaches k of the scores, their p is
    1 / (1 + N), and in a family of m p-values their q is m / (k (1 + N)). If this is above
    `LEAST_Q`, the k scores are exchanged further, until N is at least m / (k `LEAST_Q`). This
    keeps p valid, because a score with an exceedance is exchanged no further: for alpha of at least
    1 / (1 + N) the further exchanges only remove scores from those with p <= alpha.

    Parameters
    ----------
    scores : [n] or [n, m]
    values : [n]
        A label or covariate.
    patients : [n]
    draws
        A score that is not clear gets `MOST` times as many exchanges, or more (see above).
    within : [n], optional
    breasts : [n], optional
        Side of each image. Without it, all images of a patient are exchanged with each other.
    tests
        Number of p-values in the family of the q-values; 0: the number of scores that vary.

    Returns
    -------
    float or [m]. NaN for a constant score, and if `why_not_exchangeable` gives a reason.
    """
    scores = np.asarray(scores)
    single = scores.ndim == 1
    columns = scores[:, None] if single else scores
    result = streamed_permutation_p(
        lambda some: columns[:, some],
        [np.arange(columns.shape[1])],
        values,
        patients,
        draws=draws,
        seed=seed,
        within=within,
        breasts=breasts,
        tests=tests,
    )
    return float(result[0]) if single else result


def streamed_permutation_p(
    read: Callable[[NDArray[np.int64]], Floats],
    blocks: Sequence[NDArray[np.int64]],
    values: ArrayLike,
    patients: ArrayLike,
    *,
    draws: int,
    seed: int,
    within: ArrayLike | None = None,
    breasts: ArrayLike | None = None,
    tests: int = 0,
) -> Floats:
    """Return `patient_permutation_p` [m] of scores that are read in blocks.

    Parameters
    ----------
    read
        Returns the scores [n, b] of some of the m scores.
    blocks
        The numbers of the scores, at most as many in a block as may be in memory at a time. Scores
        that are not clear after `draws` exchanges are read a second time, in blocks as large. Those
        that no exchange has reached may be read again later. Their numbers z, and the exchanged
        values, are kept, above `mammo_sae.regression.features.MEMORY` bytes in a temporary file.

    The other parameters are those of `patient_permutation_p`. The result has the order of `blocks`.
    """
    names = np.concatenate([np.empty(0, np.int64), *blocks])
    result = np.full(len(names), np.nan)
    trade = _Trade(values, patients, within, breasts)
    if trade.arrangements < FEWEST_EXCHANGES - 0.5 or not len(names):
        return result
    first = seed * (1 + MOST)  # streams of different seeds never coincide
    state = _State(np.zeros(len(names), np.int64), np.zeros(len(names), np.int64))
    varies = np.zeros(len(names), bool)
    start, moves = 0, _Kept(trade.moves(draws, first), len(trade.pieces))
    for block in blocks:
        places = np.arange(start, start + len(block))
        scores = read(block)
        varies[places] = ~is_constant(scores)
        for some in trade.prepared(scores, places):
            trade.exchange(some, moves, state)
        start += len(block)
    open_ = np.flatnonzero(varies & (state.clear_at == 0))
    width = max(map(len, blocks))

    def further(which: NDArray[np.int64], seeds: Iterable[Seed], done: int) -> None:
        """Exchange the scores `which` with all `seeds`, after `done` exchanges of each."""
        waiting = _Waiting()
        for begin in range(0, len(which), width):
            places = which[begin : begin + width]
            for some in trade.prepared(read(names[places]), places):
                waiting.append(some)
        for number, seed in enumerate(seeds):
            moves = _Kept(trade.moves(draws, seed), len(trade.pieces))
            for some in waiting.of(state):
                trade.exchange(some, moves, state, done + number * draws)

    further(open_, [first + number for number in range(1, MOST)], draws)
    rounds = np.full(len(names), MOST)
    tests = tests or int(varies.sum())
    made = MOST
    while (untouched := np.flatnonzero(varies & (state.reached == 0))).size:
        needed = math.ceil(tests / (LEAST_Q * len(untouched) * draws))
        if needed <= made:
            break
        # A pair of numbers is a stream that no single number gives.
        further(untouched, [(first, number) for number in range(made, needed)], made * draws)
        rounds[untouched] = made = needed
    clear = state.clear_at > 0
    result[varies] = ((1 + state.reached) / (1 + rounds * draws))[varies]
    result[varies & clear] = CLEAR / state.clear_at[varies & clear]
    return result


def why_not_exchangeable(
    values: ArrayLike,
    patients: ArrayLike,
    within: ArrayLike | None = None,
    breasts: ArrayLike | None = None,
) -> str:
    """Return why exchanges of `values` [n] can't give a p-value, or ``""``.

    The parameters are those of `patient_permutation_p`.
    """
    return _too_few(np.log(_Trade(values, patients, within, breasts).arrangements))


def _too_few(log_ways: float) -> str:
    """Return why exchanges in e^`log_ways` ways can't give a p-value, or ``""``."""
    if log_ways >= np.log(FEWEST_EXCHANGES - 0.5):
        return ""
    count = round(float(np.exp(log_ways)))
    ways = f"{count} way" + "s" * (count != 1)
    return f"values can be exchanged between patients in {ways}, fewer than {FEWEST_EXCHANGES}"


class PatientExchanges:
    """`draws` exchanges of whole patients' images.

    In each draw, every image gets one image of the patient drawn for its patient. With `within` [n]
    (for example the view), the two images have the same `within` value, and patients are exchanged
    with patients that have the same set of values. If the drawn patient has more images of a value,
    only as many as needed are used. If it has fewer, they are repeated. If all patients have
    equally many images, every draw is a permutation.
    """

    def __init__(
        self, patients: ArrayLike, draws: int, seed: int, within: ArrayLike | None = None
    ) -> None:
        self._patient, self._key, self._group = _cells(patients, within)
        cell = self._group[self._patient, self._key]
        self._order = np.argsort(cell, kind="stable")
        self._sizes = np.bincount(cell)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._place = np.empty(len(cell), np.int64)  # index of an image within its cell
        self._place[self._order] = np.arange(len(cell)) - np.repeat(self._starts, self._sizes)
        # The patient drawn for each patient; for 100,000 images this is the largest array here.
        self._donor = np.tile(np.arange(len(self._group), dtype=np.int32), (draws, 1))
        rng = np.random.default_rng(seed)
        self._ways = 0.0
        for members in _trading(self._group):
            self._ways += float(gammaln(len(members) + 1))
            mixed = np.tile(members.astype(np.int32), (draws, 1))
            rng.permuted(mixed, axis=1, out=mixed)
            self._donor[:, members] = mixed

    def __len__(self) -> int:
        return len(self._donor)

    @property
    def why_too_few(self) -> str:
        """Return why these exchanges can't give a p-value, or ``""``."""
        return _too_few(self._ways)

    def of(self, images: ArrayLike) -> NDArray[np.int64]:
        """Return [draws, m]: in each draw, the images that the m `images` get."""
        images = np.asarray(images)
        taken = self._group[self._donor[:, self._patient[images]], self._key[images]]
        return self._order[self._starts[taken] + self._place[images] % self._sizes[taken]]


def _cells(
    patients: ArrayLike, within: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each image's patient and `within` value as numbers, and the table of their cells.

    A cell is the set of a patient's images with one value. The table [patients, values] holds the
    number of each cell, or -1 if the patient has no image with that value.
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
    """Return one list of patients for each set of `within` values that patients have."""
    _, held = np.unique(group >= 0, axis=0, return_inverse=True)
    held = held.ravel()
    return [np.flatnonzero(held == number) for number in range(int(held.max(initial=-1)) + 1)]


@dataclass(frozen=True)
class _Piece:
    """Families of units; the units of one family are exchanged with each other.

    Attributes
    ----------
    level
        Kind of the units: 0 for patients, 1 for breasts, 2 for images.
    members : [p, k, v]
        Numbers of the cells, breasts or images, for p families of k units. A patient has v cells, a
        breast or image is a single number (v = 1).
    x : [p, k, v, levels of the covariate]
        Mean indicator of each level of the covariate, minus its mean over the family.
    """

    level: int
    members: NDArray[np.int64]
    x: Floats


@dataclass(frozen=True)
class _State:
    """How far each of m scores is.

    Attributes
    ----------
    reached : [m]
        Number of exchanges that reached the observed statistic.
    clear_at : [m]
        Number of the exchange at which a score became clear, from 1; 0: it is not clear.
    """

    reached: NDArray[np.int64]
    clear_at: NDArray[np.int64]


@dataclass(frozen=True)
class _Scores:
    """Some of the scores, ready for exchanges.

    Attributes
    ----------
    places : [b]
        Their places in the result.
    z : [units, b]
        Their numbers z of all units of all pieces.
    spread : [levels of the covariate, b]
        Variance of the statistic over exchanges, for each level.
    observed : [1, b]
        The statistic without an exchange.
    """

    places: NDArray[np.int64]
    z: Floats
    spread: Floats
    observed: Floats

    def at(self, columns: NDArray[Any]) -> _Scores:
        """Return the scores in some columns."""
        parts = (self.z, self.spread, self.observed)
        return _Scores(self.places[columns], *(part[:, columns] for part in parts))


class _Waiting:
    """Blocks of scores that are exchanged in turns. Large ones are in a temporary file."""

    def __init__(self) -> None:
        self._places: list[NDArray[np.int64]] = []
        self._parts = Parts()

    def append(self, some: _Scores) -> None:
        """Add a block."""
        self._places.append(some.places)
        for part in (some.z, some.spread, some.observed):
            self._parts.append(part)

    def of(self, state: _State) -> Iterator[_Scores]:
        """Yield the scores of each block that are not clear, if there are any."""
        for number, places in enumerate(self._places):
            open_ = state.clear_at[places] == 0
            if open_.any():
                some = _Scores(places, *(self._parts[3 * number + part] for part in range(3)))
                yield some if open_.all() else some.at(open_)


class _Kept:
    """Lists of `length` arrays that are computed when they are first wanted, and then kept.

    Large arrays are in a temporary file, from which they are read faster than they are computed.
    """

    def __init__(self, source: Iterator[list[Floats]], length: int) -> None:
        self._source, self._length, self._parts = source, length, Parts()

    def __iter__(self) -> Iterator[list[Floats]]:
        start = 0
        while True:
            if start < len(self._parts):
                yield [self._parts[start + number] for number in range(self._length)]
            else:
                arrays = next(self._source, None)
                if arrays is None:
                    return
                for values in arrays:
                    self._parts.append(values)
                yield arrays
            start += self._length


class _Trade:
    """One covariate's exchanges: which units are exchanged, and the statistic of an exchange."""

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
        # One indicator is enough for two levels, since the other is 1 minus the first.
        tested = np.arange(1, levels) if levels <= 2 else np.arange(levels)
        cell = group[patient, self.strata]
        side = np.zeros(len(cell), np.int64)
        if breasts is not None:
            _, side = np.unique(np.asarray(breasts), return_inverse=True)
        _, breast = np.unique(cell * (int(side.max(initial=0)) + 1) + side, return_inverse=True)
        # For each level (patient, breast, image): the unit of every image. For the lower levels
        # also the parent of every unit.
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
        """Number of different arrangements of the values; infinite above e^700."""
        total = 0.0
        for piece in self.pieces:
            _, values = np.unique(np.round(piece.x, 9), return_inverse=True)
            rows = values.reshape(*piece.x.shape[:2], -1)
            total += len(rows) * gammaln(rows.shape[1] + 1)
            for family in rows:
                _, counts = np.unique(family, axis=0, return_counts=True)
                total -= gammaln(counts + 1).sum()
        return float(np.exp(min(total, 700.0)))

    def prepared(self, scores: Floats, places: NDArray[np.int64]) -> Iterator[_Scores]:
        """Yield `scores` [n, b] in blocks that are ready for `exchange`.

        `places` [b] are their places in the result.
        """
        for columns in blocks_of(scores.shape[1], len(scores)):
            z = self._standardised(scores[:, columns])
            parts = [z[piece.level][piece.members] for piece in self.pieces]
            spread: Floats = np.zeros(())
            for piece, part in zip(self.pieces, parts, strict=True):
                spread = spread + _variance(piece.x, part)
            flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
            del z, parts
            observed = self._statistic([piece.x[None] for piece in self.pieces], flat, spread)
            yield _Scores(places[columns], flat, spread, observed)

    def exchange(
        self, some: _Scores, moves: Iterable[list[Floats]], state: _State, done: int = 0
    ) -> None:
        """Compare `some` scores with exchanges until each is clear, and add the results to `state`.

        `moves` are the exchanged values of each piece, some draws at a time (`moves`). `done`
        exchanges were made before.
        """
        for moved in moves:
            # With this tolerance, rounding never makes an equal statistic smaller.
            hits = self._statistic(moved, some.z, some.spread) >= some.observed * (1 - 1e-9)
            total = state.reached[some.places] + hits.cumsum(axis=0)
            clear = total[-1] >= CLEAR
            at = (total[:, clear] >= CLEAR).argmax(axis=0)
            state.clear_at[some.places[clear]] = done + 1 + at
            state.reached[some.places] = total[-1]
            done += len(hits)
            if clear.any():
                some = some.at(~clear)
            if not len(some.places):
                break

    def moves(self, draws: int, seed: Seed) -> Iterator[list[Floats]]:
        """Yield the exchanged values of each piece in `draws` draws, some draws at a time."""
        step = min(_ROUND, max(1, _HELD // sum(piece.x.size for piece in self.pieces)))
        rng = np.random.default_rng(seed)
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
        """Return the statistic [draws, m], from the `x` [draws, p, k, v, levels] of each piece."""
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
        """Return z [units, m] for each level: the units' numbers from the ranks of `scores` [n, m].

        The numbers z of `patient_permutation_p` have variance 1 at each level.
        """
        ranks = _centred_ranks(scores, self.strata)
        cell = self._mean(0, ranks)
        size = self.sizes[0][:, None]
        # One-way analysis of variance: variance between cells, and of images within a cell.
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
    """Return each unit's parent, from the parents [n] of the images."""
    _, where = np.unique(unit, return_index=True)
    return parent[where]


def _families(parents: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return an array [p, k] for each k above 1: the units of the p parents that have k units."""
    order = np.argsort(parents, kind="stable")
    sizes = np.bincount(parents)
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == k][:, None] + np.arange(k)] for k in np.unique(sizes[sizes > 1])]


def _piece(level: int, members: NDArray[np.int64], means: Floats) -> _Piece:
    """Return the families of `members` [p, k, v] whose units differ in `means` [units, levels]."""
    x = means[members]
    x = x - x.mean(axis=1, keepdims=True)
    vary = (np.abs(x) > 1e-12).any(axis=(1, 2, 3))
    return _Piece(level, members[vary], x[vary])


def _variance(x: Floats, z: Floats) -> Floats:
    """Return the variance [levels, m] of sum x z over exchanges of the units on axis 1."""
    z = z - z.mean(axis=1, keepdims=True)
    products = np.einsum("pkvl,pkwl->pvwl", x, x)
    return np.einsum(
        "pvwl,pvwm->lm", products, np.einsum("pkvm,pkwm->pvwm", z, z, optimize=True), optimize=True
    ) / (x.shape[1] - 1)


def _divide(values: Floats, by: Floats) -> Floats:
    by = np.broadcast_to(by, values.shape)
    return np.divide(values, by, out=np.zeros(values.shape), where=by > 0)


def _centred_ranks(scores: Floats, groups: NDArray[Any]) -> Floats:
    """Return the mid-ranks of `scores` [n, m] within each group, minus the group's mean rank."""
    ranks = np.empty(scores.shape)
    for level in np.unique(groups):
        rows = groups == level
        part = mid_ranks(scores[rows])
        ranks[rows] = part - part.mean(axis=0)
    return ranks


def mid_ranks(scores: Floats) -> Floats:
    """Return the ranks from 1 of `scores` [n, m] in each column; equal scores share their mean.

    These are the ranks of `scipy.stats.rankdata`, whose import takes longer than most tests.
    """
    order = np.argsort(scores, axis=0)
    ordered = np.take_along_axis(scores, order, axis=0)
    differs = ordered[1:] != ordered[:-1]
    ends = np.ones((1, scores.shape[1]), dtype=bool)
    place = np.arange(len(scores))[:, None]
    first = np.maximum.accumulate(np.where(np.concatenate([ends, differs]), place, 0))
    last = np.where(np.concatenate([differs, ends]), place, len(scores))
    last = np.minimum.accumulate(last[::-1])[::-1]
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=0)
    return ranks
