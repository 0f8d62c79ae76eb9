from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.cohorts.tables import age_bin, validated_findings, validated_images
from mammo_sae.errors import InputError


def images(**changes) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "image_id": ["b", "a"],
            "patient_id": ["p", "p"],
            "split": ["test", "test"],
            "shard": [0, 0],
            "view": ["CC", "MLO"],
            "side": ["L", "L"],
            "mass": [1, None],
            "density": ["A", None],
            "birads": [4, None],
            "manufacturer": ["x", None],
            "model": ["y", None],
            "rows": [100, 100],
            "columns": [80, 80],
            "pixel_spacing_mm": [0.1, None],
            "age_bin": ["<40", None],
        }
    )
    return frame.assign(**changes)


def findings(**changes) -> pd.DataFrame:
    box = {"image_id": ["a"], "concept": ["mass"], "xmin": [1], "ymin": [2]}
    return pd.DataFrame({**box, "xmax": [80], "ymax": [100]}).assign(**changes)


def test_a_good_table_is_sorted_typed_and_may_have_unknowns():
    table = validated_images(images(), ["mass"])
    assert table["image_id"].tolist() == ["a", "b"]
    assert table["mass"].isna().tolist() == [True, False]
    assert str(table["rows"].dtype) == "Int32"
    assert len(validated_findings(findings(), table)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view": ["CC", "ML"]}, "image a, column view has 'ML'; input should be 'CC' or 'MLO'"),
        ({"mass": [2, 0]}, "column mass has 2"),
        ({"density": ["E", "A"]}, "column density has 'E'; input should be 'A', 'B', 'C' or 'D'"),
        ({"side": ["L", None]}, "image a, column side has None"),
        ({"rows": ["many", 1]}, "column rows has 'many'; input should be a valid integer"),
        ({"birads": [7, None]}, "column birads has 7.0; input should be less than or equal to 6"),
        ({"pixel_spacing_mm": [0.0, None]}, "column pixel_spacing_mm has 0.0"),
        ({"age_bin": ["61", None]}, "column age_bin has '61'"),
        ({"image_id": ["a", "a"]}, "image a occurs twice"),
        ({"split": ["test", "training"]}, "patient p is in two splits"),
        ({"shard": [0, 1]}, "patient p is in two shards"),
    ],
)
def test_a_bad_images_table_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        validated_images(images(**changes), ["mass"])


def test_a_missing_column_and_an_empty_table_are_refused():
    with pytest.raises(InputError, match="column calc is missing"):
        validated_images(images(), ["calc"])
    with pytest.raises(InputError, match="no image"):
        validated_images(images().iloc[:0], ["mass"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": ["z"]}, "image z is not in the images table"),
        ({"xmax": [81]}, "a box of image a is empty or extends beyond the image"),
        ({"ymin": [100]}, "a box of image a is empty"),
        ({"xmin": [None]}, "image a, column xmin has None; input should be a valid number"),
        ({"xmin": [-1]}, "image a, column xmin has -1; input should be greater than or equal to 0"),
    ],
)
def test_a_bad_findings_table_is_refused(changes, message):
    table = validated_images(images(), ["mass"])
    with pytest.raises(InputError, match=message):
        validated_findings(findings(**changes), table)


def test_ages_are_binned_by_ten_years_with_pooled_tails():
    ages = [None, 18, 39, 40, 59, 69, 70, 101]
    bins = [None, "<40", "<40", "40-49", "50-59", "60-69", ">=70", ">=70"]
    assert [age_bin(age) for age in ages] == bins
