from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import alignment
from mammo_sae.stores.tables import write_table

ENCODERS, LAYERS = ("finetuned", "pretrained"), ("blocks.10", "head")
CONCEPTS = ("mass", "suspicious_calcification")


def with_interval(rows, rng):
    table = pd.DataFrame(rows)
    table["energy_lift"] = rng.gamma(2, 2, len(table))
    table["energy_lift_low"] = table["energy_lift"] * 0.8
    table["energy_lift_high"] = table["energy_lift"] * 1.3
    return table.assign(images=120, reason="")


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    aligned, sized, maps = [], [], []
    for encoder, layer, concept in itertools.product(ENCODERS, LAYERS, CONCEPTS):
        keys = {"encoder": encoder, "layer": layer, "sae": "topk", "seed": 0, "concept": concept}
        selections = ["ranked"] * 20 + ["matched"] * 30 + ["prior"]
        aligned += [{**keys, "selection": selection} for selection in selections]
        for size in ("all", "small", "medium", "large"):
            sized += [{**keys, "split": "test", "size": size} for _ in range(20)]
            for method in ("grad_cam", "integrated_gradients"):
                maps.append({**keys, "split": "test", "size": size, "method": method})
    for name, rows in (("alignment", aligned), ("sized", sized), ("saliency", maps)):
        write_table(with_interval(rows, rng), tmp_path / f"{name}.parquet")
    return tmp_path


def paths(folder, **changed):
    return {
        "alignment": folder / "alignment.parquet",
        "alignment_by_size": folder / "sized.parquet",
        "saliency": folder / "saliency.parquet",
        "sae_name": "topk",
        "split": "test",
        "output": folder / "a.png",
        **changed,
    }


def test_latents_are_drawn_beside_the_maps_of_the_logit(tables, is_figure):
    alignment.run(**paths(tables))
    is_figure(tables / "a.png")


def test_no_text_of_the_figure_is_cut_or_lies_over_another(tables, collisions):
    assert collisions(alignment.run, **paths(tables)) == []


def test_every_value_lies_inside_its_panel(tables, monkeypatch):
    drawn = []
    finish = alignment._finish

    def record(ax, labels):
        finish(ax, labels)
        drawn.append((ax.dataLim.y1, *ax.get_ylim()))

    monkeypatch.setattr(alignment, "_finish", record)
    alignment.run(**paths(tables))
    assert len(drawn) == 2 * len(ENCODERS) * len(CONCEPTS)
    assert all(low < 0 and value < high for value, low, high in drawn)


@pytest.mark.parametrize("missing", ["alignment", "sized", "saliency"])
def test_without_values_the_reason_is_shown(tables, is_figure, missing):
    table = pd.read_parquet(tables / f"{missing}.parquet")
    table["energy_lift"] = np.nan
    table["reason"] = "3 patients with a mask of mass, fewer than 10"
    write_table(table, tables / f"{missing}.parquet")
    alignment.run(**paths(tables))
    is_figure(tables / "a.png")


def test_an_sae_that_the_table_has_is_advised(tables):
    with pytest.raises(InputError, match="no row of SAE 'other'; give the name of one that it has"):
        alignment.run(**paths(tables, sae_name="other"))
