"""A change of any byte of a small file is found when the file is read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from mammo_sae.errors import InputError, StoreError
from mammo_sae.stores.publish import read_json, write_json
from mammo_sae.stores.tables import read_table, write_table

FRAME = pd.DataFrame(
    {
        "image_id": ["a1", "b2", None],
        "latent": np.array([3, 1, 2], dtype=np.int32),
        "auroc": [0.5, np.nan, 0.75],
        "birads": pd.array([1, None, 5], dtype="Int64"),
        "side": pd.Categorical(["L", "R", "L"]),
    }
)


def test_a_json_file_comes_back_without_its_checksum(tmp_path):
    path = tmp_path / "a.json"
    content = {"shape": [3, 4], "name": "röntgen", "share": 0.1, "none": None}
    write_json(path, content)
    assert read_json(path) == content


def test_every_changed_byte_of_a_json_file_is_found_unless_it_means_the_same(tmp_path):
    path = tmp_path / "a.json"
    content = {"layer": "blocks.1", "rows": 6, "offset": -2.5, "ids": ["a", "b"]}
    write_json(path, content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert read_json(path) == content
            except StoreError as error:
                assert "a.json" in str(error)


def test_a_json_file_without_a_checksum_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"rows": 6}')
    with pytest.raises(StoreError, match=r"a\.json was changed after it was written"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, "{", "\xff", ""])
def test_a_file_that_is_no_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_a_sealed_table_comes_back_and_is_read_by_others(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(FRAME, path)
    pd.testing.assert_frame_equal(read_table(path), FRAME)
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    assert parquet.read_table(path, columns=["latent"]).num_rows == 3


def test_the_same_table_is_the_same_bytes(tmp_path):
    write_table(FRAME, tmp_path / "a.parquet")
    write_table(FRAME, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_every_flipped_byte_of_a_table_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(FRAME, path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"a\.parquet was changed"):
            read_table(path)


def test_a_truncated_table_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(FRAME, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"a\.parquet was changed"):
        read_table(path)


def test_a_table_that_is_rebuilt_as_advised_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n\xff\xfe,1,2,3\n")
    with pytest.raises(InputError, match=r"table .*a\.csv can't be read .*; rebuild it$"):
        read_table(path)
    write_table(FRAME, path)
    assert len(read_table(path)) == 3


def test_following_the_advice_on_a_damaged_table_makes_it_readable(tmp_path):
    path = tmp_path / "a.parquet"
    FRAME.to_parquet(path)
    with pytest.raises(StoreError, match="delete it and run the step"):
        read_table(path)
    path.unlink()
    with pytest.raises(InputError, match="run the step that makes it"):
        read_table(path)
    write_table(FRAME, path)
    assert len(read_table(path)) == 3
