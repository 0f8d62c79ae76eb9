"""Pair the atoms of two dictionaries one to one so that the summed cosine is largest.

The exact pairing is found without the matrix of all cosines. It is the optimum of a linear program
(the assignment problem). Its dual has a price v_j for each atom j of the larger dictionary:

    largest sum of cosines  <=  sum_j v_j + sum_i max_j (c_ij - v_j)          for all v_j >= 0

A round solves the problem with few candidates per atom, exactly, and computes the prices that prove
this solution optimal among the candidates. A pass over blocks of all cosines then gives the bound.
The difference between the bound and the sum over the pairs is the largest amount by which the
pairing can fall short of the optimum. The pairs (i, j) that cause the difference become candidates
of the next round. The rounds end at a mean difference of at most `TOLERANCE` per pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching

CANDIDATES = 32  # of each atom in the first round: the atoms with the largest cosines
ADDED = 8  # largest number of candidates that a round adds to an atom
TOLERANCE = 1e-6  # largest mean difference from the optimum; float32 cosines have errors of 1e-7
BLOCK_BYTES = 32 << 20  # bytes of cosines in memory at a time


def unit(atoms: np.ndarray) -> np.ndarray:
    """Scale the rows of float32 `atoms` [h, d] to length 1, in place, and return the array.

    Rows of length 0 stay as they are, so that their cosine with every row is 0.
    """
    for start in range(0, len(atoms), 1024):
        part = atoms[start : start + 1024]
        length = np.linalg.norm(part, axis=1, keepdims=True)
        part /= np.where(length > 0, length, 1)
    return atoms


def cosine_blocks(atoms: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of `atoms` and their cosines [b, g] with all `others`.

    Both dictionaries have rows of length 1, of shapes [h, d] and [g, d].
    """
    step = max(1, BLOCK_BYTES // (4 * max(1, len(others))))
    for start in range(0, len(atoms), step):
        rows = slice(start, min(start + step, len(atoms)))
        yield rows, atoms[rows] @ others.T


def matched_cosines(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines [min(h, g)] of atoms [h, d] and others [g, d] paired one to one.

    The mean of the cosines is at most `TOLERANCE` below that of the best pairing.

    Parameters
    ----------
    atoms, others
        float32, with rows of length 1 or 0 (`unit`).
    """
    if len(atoms) > len(others):
        atoms, others = others, atoms
    if not len(atoms):
        return np.empty(0)
    edges = _completed(_first_edges(atoms, others), len(atoms), len(others))
    cosines = _cosines(atoms, others, edges)
    while True:
        match = _assigned(edges, cosines, len(atoms), len(others))
        paired = _cosines(atoms, others, np.arange(len(atoms)) * len(others) + match)
        prices = _prices(edges, cosines, match, paired, len(others))
        short, found = _shortfall(atoms, others, prices, paired - prices[match])
        fresh = np.setdiff1d(found, edges, assume_unique=True)
        if short <= TOLERANCE * len(atoms) or not len(fresh):
            return paired
        together = np.concatenate([edges, fresh])
        order = np.argsort(together)
        cosines = np.concatenate([cosines, _cosines(atoms, others, fresh)])[order]
        edges = together[order]


def _first_edges(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the pairs of each atom, of both dictionaries, with its most similar `CANDIDATES`.

    A pair of atom i and other atom j is the number i g + j. Pairs are in ascending order.
    """
    g = len(others)
    value, place = np.empty((g, 0), np.float32), np.empty((g, 0), np.int64)
    edges = []
    for rows, cosine in cosine_blocks(atoms, others):
        own = np.arange(rows.start, rows.stop)
        edges.append((own[:, None] * g + _largest(cosine, CANDIDATES)).ravel())
        # The best of the other dictionary's candidates so far and of this block.
        best = _largest(columns := np.ascontiguousarray(cosine.T), CANDIDATES)
        value = np.concatenate([value, np.take_along_axis(columns, best, axis=1)], axis=1)
        place = np.concatenate([place, own[best]], axis=1)
        best = _largest(value, CANDIDATES)
        value = np.take_along_axis(value, best, axis=1)
        place = np.take_along_axis(place, best, axis=1)
    edges.append((place * g + np.arange(g)[:, None]).ravel())
    return np.unique(np.concatenate(edges))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the `count` largest values of each row, in any order."""
    count = min(count, values.shape[1])
    return np.argpartition(values, values.shape[1] - count, axis=1)[:, -count:]


def _completed(edges: np.ndarray, h: int, g: int) -> np.ndarray:
    """Return `edges` with further pairs, so that all h atoms can be paired at the same time."""
    rows, columns = np.divmod(edges, g)
    graph = csr_matrix((np.ones(len(edges), np.int8), (rows, columns)), shape=(h, g))
    match = maximum_bipartite_matching(graph, perm_type="column")
    left = np.flatnonzero(match < 0)
    free = np.setdiff1d(np.arange(g), match)[: len(left)]
    return np.union1d(edges, left * g + free)


def _cosines(atoms: np.ndarray, others: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return float64 [len(edges)]: the cosine of each pair."""
    result = np.empty(len(edges))
    step = max(1, BLOCK_BYTES // (8 * atoms.shape[1]))
    for start in range(0, len(edges), step):
        row, column = np.divmod(edges[start : start + step], len(others))
        result[start : start + step] = np.einsum("ed,ed->e", atoms[row], others[column])
    return result


def _assigned(edges: np.ndarray, cosines: np.ndarray, h: int, g: int) -> np.ndarray:
    """Return [h]: the partner of each atom in the best pairing that uses only `edges`."""
    # Costs from 1 to 3: SciPy takes a cost of 0 for a missing pair.
    graph = csr_matrix((2 - cosines, np.divmod(edges, g)), shape=(h, g))
    rows, columns = min_weight_full_bipartite_matching(graph)
    match = np.empty(h, np.int64)
    match[rows] = columns
    return match


def _prices(
    edges: np.ndarray, cosines: np.ndarray, match: np.ndarray, paired: np.ndarray, g: int
) -> np.ndarray:
    """Return the prices [g] of the best pairing among `edges`: the smallest feasible ones.

    Let s(i) be the partner of atom i. Prices are feasible if v_j >= v_s(i) + c_ij - c_is(i) for all
    pairs (i, j). Longest paths from 0 (Bellman-Ford) give the smallest such prices.
    """
    rows, columns = np.divmod(edges, g)
    order = np.argsort(columns, kind="stable")
    rows, columns = rows[order], columns[order]
    gain, source = cosines[order] - paired[rows], match[rows]
    first = np.flatnonzero(np.diff(columns, prepend=-1))
    reached = columns[first]
    prices = np.zeros(g)
    while True:
        raised = np.maximum.reduceat(prices[source] + gain, first)
        # Rounding must not raise the prices of a circle of pairs for ever.
        higher = raised > prices[reached] + 1e-12
        if not higher.any():
            return prices
        prices[reached[higher]] = raised[higher]


def _shortfall(
    atoms: np.ndarray, others: np.ndarray, prices: np.ndarray, profit: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return how much a pairing may fall short of the optimum, and the pairs that cause this.

    `profit` [h] is each atom's cosine with its partner minus the partner's price. The amount is the
    sum over atoms of max_j (c_ij - v_j) - profit.
    """
    total, found = 0.0, []
    lowered = prices.astype(np.float32)
    for rows, cosine in cosine_blocks(atoms, others):
        cosine -= lowered
        best = _largest(cosine, ADDED)
        excess = np.take_along_axis(cosine, best, axis=1) - profit[rows, None]
        total += float(np.maximum(excess.max(axis=1), 0).sum(dtype=np.float64))
        pairs = np.arange(rows.start, rows.stop)[:, None] * len(others) + best
        found.append(pairs[excess > 0])
    return total, np.concatenate(found)
