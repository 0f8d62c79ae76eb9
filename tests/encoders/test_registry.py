from __future__ import annotations

import shutil

import pandas as pd
import pytest

from mammo_sae.encoders import registry
from mammo_sae.errors import InputError
from mammo_sae.stores.publish import write_json


def test_every_encoder_has_a_row_with_source_digest_licence_and_data(lite0, tmp_path):
    output = tmp_path / "registry.csv"
    paths = [tmp_path / name / "encoder.json" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(lite0 / "encoder.json", path)
    registry.run(descriptions=paths, output=output)
    table = pd.read_csv(output)
    assert table["encoder"].tolist() == ["one", "two"]
    assert set(table["architecture"]) == {"efficientnet-lite0"}
    assert set(table["licence"]) == {"Apache-2.0"}
    assert table["sha256"].str.len().tolist() == [64, 64]
    assert table["data"].str.startswith("ImageNet-1k").all()


def test_a_missing_or_malformed_description_is_named(tmp_path):
    path = tmp_path / "encoder.json"
    with pytest.raises(InputError, match=r"encoder\.json is missing"):
        registry.run(descriptions=[path], output=tmp_path / "registry.csv")
    write_json(path, {})
    with pytest.raises(InputError, match=r"encoder\.json: .*architecture"):
        registry.run(descriptions=[path], output=tmp_path / "registry.csv")
    assert not (tmp_path / "registry.csv").exists()
