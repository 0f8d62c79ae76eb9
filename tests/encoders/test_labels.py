from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.encoders.labels import concept_labels
from mammo_sae.errors import InputError

TABLE = Path("images.parquet")


@pytest.fixture
def cohort() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d"],
            "split": ["training", "test", "training", "training"],
            "mass": pd.array([1, 1, 0, None], dtype="Int8"),
            "cyst": pd.array([0, 1, 0, 0], dtype="Int8"),
            "birads": pd.array([1, 2, 3, 4], dtype="Int8"),
        }
    )


def test_only_the_split_comes_and_a_missing_label_is_nan(cohort):
    images, labels = concept_labels(cohort, "training", ["mass"], TABLE)
    assert images == ["a", "c", "d"]
    np.testing.assert_array_equal(labels, np.array([[1], [0], [np.nan]], dtype=np.float32))


@pytest.mark.parametrize(
    ("concept", "complaint"),
    [
        ("lump", "has no column 'lump'"),
        ("cyst", "split training has 0 positive and 3 negative images of cyst"),
        ("birads", "column birads holds other values than 0 and 1"),
    ],
)
def test_a_concept_that_cannot_be_learnt_is_refused_with_the_reason(cohort, concept, complaint):
    with pytest.raises(InputError, match=rf"images\.parquet.*{complaint}"):
        concept_labels(cohort, "training", [concept], TABLE)


@pytest.mark.parametrize(
    ("concept", "advice", "values"),
    [
        ("lump", r"no column 'lump' .*; add it or", [0, 1, 1, None]),
        ("cyst", r"0 positive and 3 negative images of cyst; both are needed", [0, 1, 1, 0]),
        ("birads", r"birads holds other values than 0 and 1; correct them", [0, 1, 1, 0]),
    ],
)
def test_a_concept_that_is_labelled_as_advised_is_learnt(cohort, concept, advice, values):
    with pytest.raises(InputError, match=advice):
        concept_labels(cohort, "training", ["mass", concept], TABLE)
    right = cohort.assign(**{concept: pd.array(values, dtype="Int8")})
    _, labels = concept_labels(right, "training", ["mass", concept], TABLE)
    expected = [np.nan if values[row] is None else values[row] for row in (0, 2, 3)]
    np.testing.assert_array_equal(labels[:, 1], np.array(expected, dtype=np.float32))
    # The advice's other way: the concept is left out.
    _, labels = concept_labels(cohort, "training", ["mass"], TABLE)
    assert labels.shape == (3, 1)
