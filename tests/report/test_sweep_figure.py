from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.report import sweep
from mammo_sae.stores.tables import read_table, write_table


@pytest.fixture
def tables(run, tmp_path):
    """The run's interventions at the head, the same rows for an inner layer, and a head curve."""
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


def arguments(tables, **changes):
    """Return the arguments of the figure of the head and an inner layer, with some changed."""
    return {
        "sweeps": [tables / "curve.parquet"],
        "interventions": tables / "interventions.parquet",
        "concept": "mass",
        "sae_name": "topk",
        "layer_splits": {"head": "test", "blocks.10": "test"},
        "output": tables / "sweep.png",
        **changes,
    }


def test_curves_and_points_of_all_layers_are_drawn(tables, is_figure):
    sweep.run(
        **arguments(tables),
    )
    is_figure(tables / "sweep.png")


def test_no_line_is_drawn_between_or_beyond_the_k_that_were_measured(tables, drawn_figure):
    """Only one k and all latents were measured, so nothing is known between them."""
    table = read_table(tables / "interventions.parquet")
    whole = table["k"] == table["k"].max()
    table = table[table["k"].eq(1) | whole].assign(k=table["k"].where(~whole, 1152))
    write_table(table, tables / "few.parquet")
    fig = drawn_figure(
        sweep.run,
        **arguments(tables, interventions=tables / "few.parquet"),
    )
    curves, dots = [], []
    for ax in fig.axes:
        for line in ax.lines:
            k = [float(value) for value in line.get_xdata()]
            if line.get_marker() == "o":
                assert line.get_linestyle() == "None"
                dots += k
            elif len(k) and line.get_linestyle() == "-":
                curves.append(k)
    assert set(dots) == {1, 1152}
    assert curves == [list(range(20))] * 2  # the ranking of the curve, kept and dropped


def test_the_figure_names_a_split_without_rows(tables, drawn_text):
    said = drawn_text(
        sweep.run,
        **arguments(
            tables,
            sweeps=[],
            layer_splits={"head": "validation", "blocks.10": "validation"},
        ),
    )
    assert any("no row of SAE topk and mass in the split shown" in text for text in said)


def test_texts_of_a_sweep_over_all_latents_can_be_read(tables, collisions):
    table = read_table(tables / "interventions.parquet")
    write_table(table.assign(k=table["k"].replace({5: 1000, 10: 2560})), tables / "far.parquet")
    found = collisions(
        sweep.run,
        **arguments(tables, interventions=tables / "far.parquet"),
    )
    assert found == []
