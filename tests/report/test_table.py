from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import table as table_step
from mammo_sae.stores.tables import read_table, write_table


def _part(path, encoder, seed, **columns):
    frame = pd.DataFrame({"encoder": encoder, "seed": seed, **columns})
    write_table(frame, path)
    return path


def _together(tmp_path, parts):
    table_step.run(parts=parts, csv=tmp_path / "t.csv", parquet=tmp_path / "t.parquet")
    return read_table(tmp_path / "t.parquet")


def test_rows_are_sorted_for_any_order_of_the_parts(tmp_path):
    a = _part(tmp_path / "a.parquet", "pretrained", 1, latent=[2, 1], auroc=[0.5, 0.6])
    b = _part(tmp_path / "b.parquet", "finetuned", 0, latent=[10, 9], auroc=[0.7, 0.8])
    table = _together(tmp_path, [a, b])
    first = (tmp_path / "t.csv").read_bytes(), (tmp_path / "t.parquet").read_bytes()
    assert table["encoder"].tolist() == ["finetuned"] * 2 + ["pretrained"] * 2
    assert table["latent"].tolist() == [9, 10, 1, 2]
    _together(tmp_path, [b, a])
    assert first == ((tmp_path / "t.csv").read_bytes(), (tmp_path / "t.parquet").read_bytes())


def test_the_saes_of_a_layer_keep_the_order_of_the_parts(tmp_path):
    parts = [
        _part(tmp_path / f"{layer}{sae}.parquet", "a", 0, layer=layer, sae=sae, latent=[1, 0])
        for layer in ("head", "blocks.10")
        for sae in ("topk", "channels")
    ]
    table = _together(tmp_path, parts)
    found = table[["layer", "sae", "latent"]].to_numpy().tolist()
    assert found == [
        [layer, sae, latent]
        for layer in ("blocks.10", "head")
        for sae in ("topk", "channels")
        for latent in (0, 1)
    ]
    assert "_part" not in table


def test_csv_and_parquet_hold_the_same_rows(tmp_path):
    part = _part(tmp_path / "a.parquet", "e", 0, auroc=[0.25, None], reason=["", "too few"])
    table = _together(tmp_path, [part])
    text = pd.read_csv(tmp_path / "t.csv", keep_default_na=True)
    assert text["auroc"].isna().tolist() == table["auroc"].isna().tolist() == [False, True]
    assert len(text) == len(table) == 2


def test_a_column_missing_from_one_part_is_empty_in_its_rows(tmp_path):
    a = _part(tmp_path / "a.parquet", "a", 0, auroc=[0.5])
    b = _part(tmp_path / "b.parquet", "b", 0, auroc=[0.6], p=[0.01])
    table = _together(tmp_path, [a, b])
    assert table["p"].isna().tolist() == [True, False]


def test_a_part_without_rows_removes_no_other_rows(tmp_path):
    empty = tmp_path / "empty.parquet"
    full = _part(tmp_path / "full.parquet", "a", 0, auroc=[0.5])
    write_table(read_table(full).iloc[:0], empty)
    assert _together(tmp_path, [empty, full])["auroc"].tolist() == [0.5]
    nothing = _together(tmp_path, [empty])
    assert len(nothing) == 0 and "auroc" in nothing


def test_a_missing_part_and_no_part_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.parquet is missing"):
        _together(tmp_path, [tmp_path / "gone.parquet"])
    with pytest.raises(InputError, match="name at least one"):
        _together(tmp_path, [])


def test_a_table_that_is_named_as_advised_is_taken(tmp_path):
    with pytest.raises(InputError, match=r"no table to put into .*; name at least one$"):
        _together(tmp_path, [])
    part = _part(tmp_path / "a.parquet", "a", 0, auroc=[0.5])
    assert _together(tmp_path, [part])["auroc"].tolist() == [0.5]
