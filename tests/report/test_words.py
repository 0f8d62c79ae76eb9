from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.reliance import CARRIERS
from mammo_sae.report import summary, words

SAE = {"encoder": "tuned", "layer": "head", "sae": "topk", "seed": 0, "concept": "mass"}


def verdicts(*found, **columns):
    """One row per (latent, verdict, confounders), in the order of the ranking."""
    rows = [
        {
            **SAE, "latent": latent, "rank_auroc": place, "auroc": 0.9, "auroc_low": 0.85,
            "auroc_high": 0.95, "q": 0.004, "verdict": verdict, "confounders": names, "where": "",
        }
        for place, (latent, verdict, names) in enumerate(found, start=1)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def replicated(latent, verdict, repeated, auroc):
    row = {**SAE, "split": "external", "latent": latent, "split_verdict": verdict}
    ends = {"split_auroc": auroc, "split_auroc_low": auroc - 0.1, "split_auroc_high": auroc + 0.1}
    return pd.DataFrame([{**row, **ends, "repeated": repeated}]).astype({"repeated": "boolean"})


NOTHING = pd.DataFrame()


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("concept-aligned", "what they seem: no tested confounder explains their association"),
        ("mixed", "partly what they seem: they respond to mass and to a confounder"),
        ("confounded", "not what they seem: a confounder of the acquisition explains"),
        ("anatomy", "not what they seem: tissue, view or age explains"),
        ("unresolved", "undecided: mass and a confounder can't be separated"),
        ("insufficient", "untested: too few patients to test a confounder"),
        ("not associated", "not associated with mass on the patients of the confirmation split"),
    ],
)
def test_each_verdict_has_its_words_with_the_latents_and_their_uncertainty(verdict, expected):
    (line,) = words.members(verdicts((7, verdict, "marker"), (9, verdict, "paddle")), NOTHING)
    assert line.startswith(f"2 of the 2 latents that rank first are {expected}")
    assert "latent 7 (" in line
    assert line.count("AUROC 0.90 [0.85, 0.95], q 0.004") == 2
    named = verdict in ("mixed", "confounded", "anatomy", "unresolved")
    assert ("latent 9 (paddle, AUROC" in line) == named


@pytest.mark.parametrize(
    ("q", "said"), [(0.0, "q < 0.001"), (0.0004, "q < 0.001"), (0.012, "q 0.012")]
)
def test_a_q_below_a_thousandth_is_not_shown_as_zero(q, said):
    (line,) = words.members(verdicts((7, "concept-aligned", ""), q=q), NOTHING)
    assert f", {said})" in line


def test_a_single_latent_and_a_single_verdict_are_said_in_the_singular():
    (line,) = words.members(verdicts((7, "mixed", "marker_area")), NOTHING)
    said = "partly what it seems: it responds to mass and to a confounder: latent 7 (marker area,"
    assert line.startswith(f"The latent that ranks first is {said}")
    shares = reliance({"external": {"concept-aligned": -0.001}})
    first, second = words.rests(shares, ablated(latents=1))
    assert "0% [-10%, 10%] concept-aligned" in first
    assert "after the 1 latent that it explains is ablated, difference" in second


def test_verdicts_are_told_apart_and_locations_are_named():
    table = verdicts((7, "confounded", "marker"), (9, "concept-aligned", ""))
    first, second = words.members(table.assign(where=["", "on the lesion"]), NOTHING)
    assert first.startswith("1 of the 2 latents that rank first is what it seems: no tested ")
    assert "explains its association: latent 9" in first
    assert "latent 9 (AUROC 0.90 [0.85, 0.95], q 0.004, on the lesion)." in first
    assert "latent 7 (marker, AUROC" in second
    assert list(words.members(table.iloc[:0], NOTHING)) == [
        "None of the latents that rank first was tested."
    ]


def test_the_other_split_says_whether_a_verdict_is_repeated():
    table = verdicts((7, "concept-aligned", ""))
    for repeated, verdict, said in (
        (True, "concept-aligned", "external: AUROC 0.80 [0.70, 0.90], again concept-aligned"),
        (False, "not associated", "external: AUROC 0.80 [0.70, 0.90], not associated"),
        (None, "insufficient", "external: AUROC 0.80 [0.70, 0.90], insufficient"),
    ):
        (line,) = words.members(table, replicated(7, verdict, repeated, 0.8))
        assert line.endswith(f"{said}).")
    (line,) = words.members(table, replicated(8, "mixed", True, 0.8))
    assert "external" not in line


def test_the_share_of_repeated_verdicts_stands_beside_chance():
    row = {"verdict": "all", "tested": 8, "repeated": 6, "share": 0.75, "chance": 0.4, "reason": ""}
    splits = pd.DataFrame([{**row, "split": "external"}, {**row, "verdict": "mixed"}])
    seeds = pd.DataFrame([{**row, "other_seed": 3, "tested": 0, "reason": "no match"}])
    assert list(words.repeats(splits, seeds)) == [
        "The external split repeats 6 of 8 verdicts (75%; by chance 40%).",
        "How many verdicts seed 3 repeats can't be estimated: no match.",
    ]
    assert list(words.repeats(NOTHING, NOTHING)) == []


def reliance(share):
    return pd.DataFrame(
        [
            {
                **SAE, "split": split, "verdict": verdict, "share": value, "share_low": value - 0.1,
                "share_high": value + 0.1, "reason": "few patients" if np.isnan(value) else "",
            }
            for split, values in share.items()
            for verdict, value in values.items()
        ]
    )  # fmt: skip


def ablated(split="external", before=0.6, after=0.7, confounder="marker", **other):
    row = {
        **SAE, "split": split, "independent": split == "external", "measure": "worst_group",
        "called_for": confounder, "confounder": confounder, "refit": False, "latents": 12,
        "verdicts": "confounded", "before": before, "after": after, "difference": after - before,
        "difference_low": 0.02, "difference_high": 0.18, "random_difference": 0.0,
        "random_difference_low": -0.01, "random_difference_high": 0.01,
    }  # fmt: skip
    return pd.DataFrame([{**row, **other}])


def test_what_the_prediction_rests_on_is_that_of_the_split_that_chose_no_latent():
    shares = reliance({"test": {"concept-aligned": 0.9}, "external": {"concept-aligned": 0.5}})
    both = pd.concat([ablated("test"), ablated("external")])
    first, second = words.rests(shares, both)
    assert first == ("The prediction rests on (external split): 50% [40%, 60%] concept-aligned.")
    assert second == (
        "AUROC in the worst group of marker (external split): 0.60 before and 0.70 after the 12 "
        "latents that it explains are ablated, difference 0.10 [0.02, 0.18]; with random latents "
        "0.00 [-0.01, 0.01]."
    )


def test_the_parts_of_the_prediction_that_are_named_make_up_the_whole():
    parts = {verdict: (number + 1) / 100 for number, verdict in enumerate(CARRIERS)}
    line, _ = words.rests(reliance({"external": parts}), ablated())
    for verdict, share in parts.items():
        assert f"{share:.0%} [{share - 0.1:.0%}, {share + 0.1:.0%}] {verdict}" in line
    shares = reliance({"external": parts})
    ablation = ablated()
    header, (row,) = summary.rests_on(ablation, shares)
    assert {name: row[header.index(name)] for name in parts} == {
        name: f"{share:.0%}" for name, share in parts.items()
    }


def test_without_shares_or_confounded_latents_the_page_says_so():
    shares = reliance({"external": {"concept-aligned": np.nan}})
    first, second = words.rests(shares, ablated(after=np.nan, reason="few patients"))
    assert first == (
        "What the prediction rests on can't be estimated (external split): few patients."
    )
    assert second == ("AUROC in the worst group after an ablation: not estimable: few patients.")
    none = ablated(after=np.nan, latents=0, reason="no latent is confounded")
    *_, last = words.rests(shares, none)
    assert last == "AUROC in the worst group after an ablation: no confounded latent."
    assert list(words.rests(NOTHING, NOTHING)) == []


def test_every_confounder_is_shown_that_with_the_lowest_worst_group_first():
    both = pd.concat(
        [ablated(after=0.3), ablated(confounder="paddle", before=0.5)], ignore_index=True
    )
    assert words.worst_rows(both)["confounder"].tolist() == ["paddle", "marker"]
    # An ablation that harms the prediction is shown beside one that helps it.
    paddle, marker = words.rests(NOTHING, both)
    assert "worst group of paddle (external split): 0.50 before and 0.70 after" in paddle
    assert "worst group of marker (external split): 0.60 before and 0.30 after" in marker
    other = pd.concat([ablated(refit=True), ablated(called_for="all")], ignore_index=True)
    assert words.worst_rows(other).empty
    assert words.worst_rows(NOTHING).empty


def test_the_last_layer_is_open_and_only_the_first_latents_are_named():
    table = pd.concat(
        [
            verdicts((7, "confounded", "marker"), (8, "confounded", "marker")),
            verdicts((5, "concept-aligned", ""), layer="blocks.10"),
        ]
    )
    text = "".join(words.paragraphs(words.Results(table), 1))
    shown, _, folded = text.partition("<details>")
    assert "tuned, head, SAE topk seed 0" in shown
    assert "latent 7" in shown
    assert "latent 8" not in text
    assert "latent 5" in folded
    assert words.paragraphs(words.Results(table.iloc[:0]), 1) == []


def test_a_latent_is_called_by_its_name_in_the_sae_that_has_it():
    table = verdicts((7, "confounded", "marker"), (9, "confounded", "marker"))
    (line,) = words.members(table, NOTHING, {9: "a letter"})
    assert "latent 7 (" in line
    assert "latent 9 “a letter” (" in line
    named = table[["encoder", "layer", "sae", "seed", "latent"]].assign(
        name=["", "a <letter>"], concept="none"
    )
    text = "".join(words.paragraphs(words.Results(table, names=named), top=5))
    assert "latent 9 “a &lt;letter&gt;” (" in text
    elsewhere = named.assign(seed=named["seed"] + 1)
    assert "letter" not in "".join(words.paragraphs(words.Results(table, names=elsewhere), top=5))


def test_the_saes_of_a_layer_keep_the_order_of_the_table():
    saes = [verdicts((7, "mixed", "marker")).assign(sae=sae) for sae in ("topk", "channels")]
    text = "".join(words.paragraphs(words.Results(pd.concat(saes)), 10))
    assert 0 < text.index("SAE topk seed") < text.index("SAE channels seed")
