from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mammo_sae.errors import InputError
from mammo_sae.report import ablation, summary
from mammo_sae.stores.tables import read_table, write_table

ENDS = ("", "_low", "_high")
SHARES = {
    "confounded": 0.3,
    "mixed": 0.0,
    "concept-aligned": 0.5,
    "not associated": -0.05,
    "not tested": 0.2,
    "SAE error": 0.05,
}


def row(**changed):
    found = {
        "encoder": "finetuned", "layer": "head", "sae": "topk", "seed": 0, "concept": "mass",
        "split": "external", "independent": True, "latents_of": "mass", "called_for": "marker",
        "verdicts": "confounded", "latents": 12, "refit": False, "confounder": "marker",
        "measure": "worst_group", "reason": "",
    }  # fmt: skip
    values = {"before": 0.58, "after": 0.76, "difference": 0.18, "random_difference": -0.02}
    for name, value in values.items():
        found |= {
            f"{name}{end}": value + step for end, step in zip(ENDS, (0, -0.08, 0.06), strict=True)
        }
    return {**found, **changed}


def tables(folder):
    """Two concepts and encoders. No latent of calcification is confounded."""
    nothing = {f"{n}{e}": np.nan for n in ("after", "difference", "random_difference")
               for e in ENDS}  # fmt: skip
    nothing |= {"latents": 0, "reason": "no latent of calcification is confounded for marker"}
    rows, shares = [], []
    for encoder in ("finetuned", "pretrained"):
        for split in ("test", "external"):
            same = {"encoder": encoder, "split": split, "independent": split == "external"}
            for refit in (False, True):
                rows.append(row(**same, refit=refit))
                vendor = {"called_for": "vendor", "confounder": "vendor", "before": 0.7}
                rows.append(row(**same, **vendor, latents=1, refit=refit))
                rows.append(row(**same, **nothing, concept="calcification", refit=refit))
            rows.append(row(**same, called_for="all", before=0.1))
            for concept in ("mass", "calcification"):
                for verdict, share in SHARES.items():
                    shares.append({
                        **same, "layer": "head", "sae": "topk", "seed": 0, "concept": concept,
                        "verdict": verdict, "share": share, "reason": "",
                    })  # fmt: skip
    table, parts = pd.DataFrame(rows), pd.DataFrame(shares)
    # The pretrained encoder has no number for the marker in the external split.
    lost = (table["encoder"] == "pretrained") & (table["split"] == "external")
    table.loc[lost & (table["called_for"] == "marker"), [*nothing]] = [*nothing.values()]
    table.loc[lost & (table["called_for"] == "marker"), "latents"] = 12
    few = (parts["concept"] == "calcification") & (parts["encoder"] == "pretrained")
    parts.loc[few, ["share", "reason"]] = [np.nan, "3 patients with a positive image"]
    write_table(table, folder / "ablation.parquet")
    write_table(parts, folder / "reliance.parquet")
    return table, parts


def draw(folder, sae="topk"):
    ablation.run(
        ablation=folder / "ablation.parquet",
        reliance=folder / "reliance.parquet",
        sae_name=sae,
        output=folder / "a.png",
    )


def test_the_figure_is_drawn_and_no_text_is_cut_or_lies_over_another(
    tmp_path, is_figure, collisions
):
    tables(tmp_path)
    assert collisions(draw, tmp_path) == []
    is_figure(tmp_path / "a.png")


def test_dots_are_the_scores_and_the_grey_bar_is_where_random_sets_put_them(tmp_path, drawn_figure):
    tables(tmp_path)
    fig = drawn_figure(draw, tmp_path)
    panel = [ax for ax in fig.axes if ax.get_title("left") == "external split"][2]
    dots = {(round(float(line.get_xdata()[0]), 2), line.get_markerfacecolor())
            for line in panel.lines if len(line.get_xdata()) == 1}  # fmt: skip
    own = ablation.HEADS[False][1]
    assert {(0.58, "white"), (0.76, own)} <= dots
    bars = {(round(b.get_x(), 2), round(b.get_x() + b.get_width(), 2)) for b in panel.patches}
    assert (0.48, 0.62) in bars


def test_panels_without_numbers_say_why(tmp_path, drawn_text):
    tables(tmp_path)
    text = " | ".join(drawn_text(draw, tmp_path))
    assert "no latent of calcification is confounded by any column" in text
    assert "not estimable: 3 patients with a positive image" in text
    assert "test split (gave the verdicts)" in text
    assert "external split (gave" not in text
    assert "vendor 1 latent |" in text
    assert "marker 12 latents |" in text
    with pytest.raises(InputError, match="no SAE 'other'"):
        draw(tmp_path, "other")


def test_an_sae_that_the_table_has_is_drawn_as_advised(tmp_path, drawn_text):
    tables(tmp_path)
    with pytest.raises(InputError) as refused:
        draw(tmp_path, "other")
    table = re.search(r"(\S+) has no SAE 'other'; give the name of one", str(refused.value))[1]
    name = read_table(tmp_path / table)["sae"].iloc[0]
    said = drawn_text(draw, tmp_path, name)
    assert f"What predictions rest on at the head · SAE {name}" in said


def test_the_first_page_says_what_each_prediction_rests_on_in_the_independent_split(tmp_path):
    header, rows = summary.rests_on(*tables(tmp_path))
    assert header[3:6] == ["concept-aligned", "mixed", "confounded"]
    assert header[-1] == "AUROC in the worst group, external, ablated at head"
    found = {(r[0], r[1]): r for r in rows}
    assert len(rows) == 4
    mass = found["mass", "finetuned"]
    assert mass[3:6] == ["50%", "0%", "30%"]
    assert mass[-1].splitlines() == [
        "marker: 0.58 to 0.76, difference 0.18 [0.10, 0.24]",
        "vendor: 0.70 to 0.76, difference 0.18 [0.10, 0.24]",
    ]
    assert found["calcification", "pretrained"][3] == "not estimable"
    assert found["calcification", "finetuned"][-1] == "no confounded latent"


def test_an_inner_layer_has_its_own_column_on_the_first_page_and_no_dot_in_the_figure(
    tmp_path, drawn_figure
):
    table, parts = tables(tmp_path)
    inner = row(layer="blocks.14", before=0.55, after=0.9, difference=0.35)
    table = pd.concat([table, pd.DataFrame([inner])], ignore_index=True)
    write_table(table, tmp_path / "ablation.parquet")
    header, rows = summary.rests_on(table, parts)
    assert header[-2:] == [
        "AUROC in the worst group, external, ablated at head",
        "AUROC in the worst group, external, ablated at blocks.14",
    ]
    found = {(r[0], r[1]): r[-2:] for r in rows}
    assert [cell.splitlines()[0] for cell in found["mass", "finetuned"]] == [
        "marker: 0.58 to 0.76, difference 0.18 [0.10, 0.24]",
        "marker: 0.55 to 0.90, difference 0.35 [0.10, 0.24]",
    ]
    assert found["mass", "pretrained"][1] == "not ablated"
    fig = drawn_figure(draw, tmp_path)
    drawn = {float(x) for ax in fig.axes for line in ax.lines for x in line.get_xdata()}
    assert 0.58 in drawn
    assert 0.9 not in drawn
