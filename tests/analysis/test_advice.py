"""The advice in messages of the analyses works when it is followed."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mammo_sae import statistics
from mammo_sae.analysis import linear
from mammo_sae.analysis.cases import labelled, read_cases
from mammo_sae.encoders.heads import Head
from mammo_sae.errors import InputError
from mammo_sae.stores.tables import write_table

TABLE = pd.DataFrame(
    {
        "image_id": ["a", "b", "c"],
        "split": ["training", "test", "test"],
        "mass": pd.array([1, 0, None], dtype="Int8"),
    }
)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (pd.concat([TABLE, TABLE.iloc[:1]]), "image a has two rows; rebuild the cohort$"),
        (TABLE.iloc[1:], "image a has codes but no row; rebuild the codes$"),
    ],
)
def test_a_table_or_codes_that_are_rebuilt_as_advised_are_read(tmp_path, wrong, advice):
    images = tmp_path / "images.parquet"
    write_table(wrong, images)
    with pytest.raises(InputError, match=advice):
        read_cases(images, ["a", "c"])
    if "codes" in advice:
        assert read_cases(images, ["c"])["split"].to_list() == ["test"]
    write_table(TABLE, images)
    assert read_cases(images, ["c", "a"])["split"].to_list() == ["test", "training"]


def test_a_concept_that_is_corrected_as_advised_has_labels():
    with pytest.raises(InputError, match=r"no concept 'masss'; correct the config's list$"):
        labelled(TABLE, "masss", "test")
    assert labelled(TABLE, "mass", "test").tolist() == [1]


def test_logits_of_a_head_that_is_run_again_as_advised_are_complete():
    part = pd.DataFrame({"image_id": ["a"], "concept": ["mass"], "logit": [0.5]})
    with pytest.raises(InputError, match=r"no mass logit of image b; run the head's step again$"):
        linear.original_logits(part, "mass", ["a", "b"])
    whole = pd.concat([part, part.assign(image_id="b", logit=-1.0)])
    assert linear.original_logits(whole, "mass", ["a", "b"]).tolist() == [0.5, -1.0]


def test_a_concept_of_the_head_that_the_message_names_has_weights():
    head = Head(np.ones((1, 2), np.float32), np.zeros(1, np.float32), ("mass",))
    with pytest.raises(InputError) as refused:
        linear.latent_weights(head, "cyst", np.eye(2), np.zeros(2))
    concept = re.search(r"only (\w+); train it .* or leave the concept out$", str(refused.value))
    weights, offset = linear.latent_weights(head, concept[1], np.eye(2), np.zeros(2))
    assert weights.tolist() == [1, 1]
    assert offset == 0


def test_scores_in_the_form_that_the_message_gives_have_an_auroc():
    scores, labels = np.array([0.1, 0.9, 0.4]), np.array([0.0, 1.0, np.nan])
    with pytest.raises(InputError, match="drop unlabelled images first"):
        statistics.auroc(scores, labels)
    known = ~np.isnan(labels)
    with pytest.raises(InputError, match=r"give \[n\] or \[n, m\] scores and \[n\] labels"):
        statistics.auroc(scores, labels[known])
    assert statistics.auroc(scores[known], labels[known]) == 1
    both = np.stack([scores[known], -scores[known]], axis=1)
    assert statistics.auroc(both, labels[known]).tolist() == [1, 0]
