from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import probes
from mammo_sae.stores.tables import write_table

PROBES = [("embedding", "l2", pd.NA), ("codes", "l2", pd.NA), ("codes", "sparse", 1)]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    targets = [("mass", "1"), ("density", "A"), ("density", "macro"), ("marker", "1")]
    for encoder in ("finetuned", "pretrained"):
        for layer in ("blocks.10", "head"):
            for target, level in targets:
                for features, probe, k in PROBES:
                    value = np.nan if target == "marker" else 0.6 + 0.3 * rng.random()
                    row = {"encoder": encoder, "layer": layer, "sae": "topk", "seed": 0}
                    row |= {"kind": "concept", "target": target, "level": level, "split": "test"}
                    row |= {"features": features, "probe": probe, "k": k, "auroc": value}
                    row |= {"auroc_low": value - 0.05, "auroc_high": value + 0.05, "reason": "few"}
                    rows.append(row)
    write_table(pd.DataFrame(rows).astype({"k": "Int32"}), tmp_path / "probes.parquet")
    return tmp_path / "probes.parquet"


def test_probes_are_drawn_layer_by_layer(table, tmp_path, is_figure):
    probes.run(probes=table, sae_name="topk", split="test", output=tmp_path / "probes.png")
    is_figure(tmp_path / "probes.png")


def test_an_sae_that_the_table_has_is_drawn_as_advised(table, tmp_path, is_figure):
    given = {"probes": table, "split": "test", "output": tmp_path / "probes.png"}
    with pytest.raises(InputError, match="no row of SAE 'other'; give the name of one that it has"):
        probes.run(sae_name="other", **given)
    probes.run(sae_name=pd.read_parquet(table)["sae"].iloc[0], **given)
    is_figure(tmp_path / "probes.png")


def test_an_absent_sae_is_named(table, tmp_path):
    with pytest.raises(InputError, match="SAE 'other'"):
        probes.run(probes=table, sae_name="other", split="test", output=tmp_path / "probes.png")
