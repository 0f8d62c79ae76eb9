"""Conversion of columns into levels, for every kind of column in a cohort's table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_sae.analysis.levels import levels


def _counts(found):
    return {name: int((found.code == i).sum()) for i, name in enumerate(found.names)}


def test_if_most_values_are_zero_zero_is_one_level_and_the_rest_another():
    found = levels(pd.Series([0] * 80 + list(range(1, 21))), 6)
    assert _counts(found) == {"0": 80, "other": 20}


def test_a_sentinel_is_one_level_and_the_rest_another():
    found = levels(pd.Series([99] * 80 + list(range(1, 21))), 6)
    assert _counts(found) == {"other": 20, "99": 80}
    assert (found.code[:80] == 1).all()


def test_the_rest_of_a_repeated_value_is_binned_where_it_fills_bins():
    found = levels(pd.Series([0] * 40 + list(range(1, 61))), 6)
    assert _counts(found) == {"0": 40, "..30.5": 30, "30.5..": 30}


def test_a_repeated_value_in_the_middle_is_a_level_of_its_own():
    found = levels(pd.Series([50.0] * 80 + list(range(10)) + list(range(90, 100))), 6)
    assert _counts(found) == {"other": 20, "50": 80}


def test_two_repeated_values_are_two_levels():
    found = levels(pd.Series([0] * 40 + [99] * 30 + list(range(1, 31))), 6)
    assert _counts(found) == {"0": 40, "other": 30, "99": 30}


def test_numbers_that_are_all_distinct_are_cut_at_their_quartiles():
    found = levels(pd.Series(np.arange(100)), 6)
    assert _counts(found) == {"..24.75": 25, "24.75..49.5": 25, "49.5..74.25": 25, "74.25..": 25}


def test_numbers_never_make_more_levels_than_asked_for():
    assert _counts(levels(pd.Series(np.arange(100)), 2)) == {"..49.5": 50, "49.5..": 50}
    assert len(levels(pd.Series([0] * 50 + list(range(1, 51))), 3).names) == 3


def test_a_constant_has_one_level_and_a_missing_column_has_none():
    assert _counts(levels(pd.Series([7.0] * 5), 6)) == {"7": 5}
    nothing = levels(pd.Series([np.nan] * 5), 6)
    assert nothing.names == [] and (nothing.code == -1).all()
    nothing = levels(pd.Series([pd.NA] * 5, dtype="Int64"), 6)
    assert nothing.names == [] and (nothing.code == -1).all()


def test_few_numbers_are_levels_in_their_own_order_not_in_that_of_their_digits():
    found = levels(pd.Series([10.0, 9.0, np.nan, 100.0, 9.0]), 6)
    assert found.names == ["9", "10", "100"]
    assert found.code.tolist() == [1, 0, -1, 2, 0]


def test_missing_numbers_count_for_no_bin():
    column = pd.Series([0] * 20 + list(range(1, 6)) + [pd.NA] * 75, dtype="Int64")
    assert _counts(levels(column, 4)) == {"0": 20, "other": 5}


def test_values_that_are_not_finite_are_unknown():
    found = levels(pd.Series([np.inf, *range(40), -np.inf]), 4)
    assert found.code[[0, -1]].tolist() == [-1, -1]
    assert np.bincount(found.code[1:-1]).tolist() == [10] * 4


def test_booleans_are_two_levels():
    assert _counts(levels(pd.Series([True, False, True]), 6)) == {"False": 1, "True": 2}


VALUES = st.one_of(st.none(), st.integers(-3, 3), st.integers(0, 10**9), st.sampled_from([0, 99]))


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=120), st.integers(2, 8))
def test_a_column_that_varies_has_two_or_more_levels_and_no_empty_level(values, most):
    column = pd.Series(values, dtype="Int64")
    found = levels(column, most)
    assert len(found.names) <= most
    assert ((found.code < 0) == column.isna().to_numpy()).all()
    assert set(found.code[found.code >= 0]) == set(range(len(found.names)))
    assert len(set(found.names)) == len(found.names)
    if column.nunique() > 1:
        assert len(found.names) >= 2
    same = column.dropna().groupby(column.dropna()).groups
    for rows in same.values():
        assert len(set(found.code[list(rows)])) == 1


@pytest.mark.parametrize("most", [2, 3, 6])
def test_rare_words_are_merged(most):
    column = pd.Series([c for i, c in enumerate("abcdefgh") for _ in range(8 - i)])
    found = levels(column, most)
    assert len(found.names) == most and found.names[-1] == "other"
