from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import sweep
from mammo_sae.stores.tables import read_table, write_table


@pytest.fixture
def tables(run, tmp_path):
    """The run's interventions at the head and as if at an inner layer, and a curve of the head."""
    table = read_table(run.table("interventions"))
    inner = table.assign(layer="blocks.10")
    other = table.assign(encoder="pretrained", auroc=np.nan, reason="3 positive images")
    write_table(pd.concat([table, inner, other]), tmp_path / "interventions.parquet")
    k = np.arange(20)
    parts = [
        pd.DataFrame({"ranking": "auroc", "mode": mode, "k": k, "auroc": 0.9 - 0.01 * k})
        for mode in ("on", "off")
    ]
    curve = pd.concat(parts).assign(concept="mass", split="test")
    write_table(run.identity.label(curve), tmp_path / "curve.parquet")
    return tmp_path


def test_curves_and_points_of_all_layers_are_drawn(tables, is_figure):
    sweep.run(
        sweeps=[tables / "curve.parquet"],
        interventions=tables / "interventions.parquet",
        concept="mass",
        sae="topk",
        output=tables / "sweep.png",
    )
    is_figure(tables / "sweep.png")


def test_an_absent_sae_is_named(tables):
    with pytest.raises(InputError, match="SAE other"):
        sweep.run(
            sweeps=[],
            interventions=tables / "interventions.parquet",
            concept="mass",
            sae="other",
            output=tables / "sweep.png",
        )
    assert not (tables / "sweep.png").exists()
