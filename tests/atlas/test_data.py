from __future__ import annotations

import base64
import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas import choice, neighbours, records
from mammo_sae.atlas.build import identity_of
from mammo_sae.atlas.contents import by_use
from mammo_sae.atlas.heat import packed
from mammo_sae.atlas.images import Linear, contributions, firing_latents
from mammo_sae.atlas.latents import histogram_of
from mammo_sae.atlas.libraries import classic, datatables
from mammo_sae.atlas.methods import paragraph
from mammo_sae.atlas.outlines import edge, outlines
from mammo_sae.atlas.pictures import boxes
from mammo_sae.atlas.scripts import literal, plain, write_data
from mammo_sae.atlas.seeds import other_seeds
from mammo_sae.atlas.sentences import address
from mammo_sae.atlas.tables import Tables, read_tables
from mammo_sae.errors import InputError

SAE = Identity("finetuned", "head", "topk", 0)
KEYS = {"encoder": "finetuned", "layer": "head", "sae": "topk", "seed": 0}


def test_no_text_can_end_a_script_element():
    text = literal({"name": "</script><b>&\u2028ü"})
    assert text == '{"name":"\\u003c/script\\u003e\\u003cb\\u003e\\u0026\\u2028ü"}'
    assert json.loads(text) == {"name": "</script><b>&\u2028ü"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (pd.NA, None),
        (np.float32(0.123456), 0.1235),
        (np.int64(7), 7),
        (np.bool_(True), True),
        ([1, None], [1, None]),
    ],
)
def test_a_value_becomes_json_with_four_digits_and_missing_as_null(value, expected):
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_a_data_file_assigns_its_value_to_its_key(tmp_path):
    write_data(tmp_path / "a" / "b.js", "table/x", {"b": 1, "a": [0.5]})
    text = (tmp_path / "a" / "b.js").read_text()
    assert text == '(window.ATLAS = window.ATLAS || {})["table/x"] = {"a":[0.5],"b":1};\n'


def test_a_map_becomes_a_byte_per_cell_and_an_active_cell_is_never_0():
    levels = packed(np.array([[0.0, 0.001], [2.0, 8.0]]), top=4.0)
    assert levels[0] == "d"
    assert list(base64.b64decode(levels[1:])) == [0, 1, 128, 255]
    assert packed(np.zeros((1, 3)), top=0.0) == "s"


def test_a_map_with_few_active_cells_names_them():
    activation = np.zeros((30, 10))
    activation[29, 9] = 4.0
    levels = packed(activation, top=4.0)
    assert levels[0] == "s"
    assert list(base64.b64decode(levels[1:])) == [299 - 256, 1, 255]


def test_images_of_a_latent_are_top_quantiles_misses_and_alarms_of_different_patients():
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 0.0, 4.0, 0.0])
    truth = np.array([1, 1, 0, 1, 0, 1, 1, 0], bool)
    patients = np.array(list("aabcbdef"))
    groups = choice.choose_images(scores, truth, patients, 2, np.arange(8) + 10)
    found = {kind: [e.position for e in examples] for kind, examples in groups.items()}
    assert found == {
        choice.TOP: [10, 12],  # not 11, which is of the same patient as 10
        choice.QUANTILE: [12],
        choice.MISS: [15],
        choice.ALARM: [12],
    }
    assert groups[choice.MISS][0].activation == 0.0


def test_a_latent_that_never_fires_has_near_misses_alone():
    truth = np.array([True, False])
    groups = choice.choose_images(np.zeros(2), truth, np.array(["a", "b"]), 2, np.arange(2))
    assert {kind: len(examples) for kind, examples in groups.items()} == {
        choice.TOP: 0,
        choice.QUANTILE: 0,
        choice.MISS: 1,
        choice.ALARM: 0,
    }


def _latents() -> pd.DataFrame:
    rates = [0.0, 0.5, 0.1, 0.2, 0.3, 0.4]
    ranks = [None, 3, 1, 2, 4, 5]
    rows = [
        {**KEYS, "latent": i, "concept": "mass", "firing_rate": rate, "rank_auroc": rank,
         "auroc": 0.5 + 0.01 * i, "auroc_low": 0.4, "auroc_high": 0.6, "q": 0.5, "score": "max"}
        for i, (rate, rank) in enumerate(zip(rates, ranks, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"rank_auroc": "Int64"})


def _verdicts() -> pd.DataFrame:
    rows = [(2, "confounded", "marker"), (3, "concept-aligned", "marker, age_bin")]
    return pd.DataFrame(
        [
            {**KEYS, "latent": latent, "concept": "mass", "verdict": verdict, "confounders": names,
             "where": "", "energy_lift": np.nan, "pointing": 0.5, "rank_auroc": latent - 1}
            for latent, verdict, names in rows
        ]
    )  # fmt: skip


def test_the_best_latents_of_each_list_are_chosen_and_one_by_density():
    none = pd.DataFrame()
    chosen = choice.choose_latents(_latents(), none, none, none, count=3)
    assert chosen.tolist() == [2, 3]  # 2 is also the live latent of lowest density
    chosen = choice.choose_latents(_latents(), none, none, none, count=50)
    assert chosen.tolist() == [1, 2, 3, 4, 5]  # 0 is dead and unranked


def test_a_row_without_a_latent_is_never_chosen():
    alignment = pd.DataFrame({"concept": ["mass"], "latent": [pd.NA], "energy_lift": [9.0]})
    none = pd.DataFrame()
    assert 0 not in choice.choose_latents(_latents(), none, alignment, none, count=50)


def test_the_table_of_a_layer_has_a_row_per_latent_and_names_only_confounders_that_explain():
    tables = Tables({"latents": _latents(), "verdicts": _verdicts()})
    content = records.layer_columns(tables, SAE, np.array([2]), "test")
    column = dict(zip(content["names"], content["values"], strict=True))
    assert column["latent"] == [0, 1, 2, 3, 4, 5]
    assert column["images"] == [0, 0, 1, 0, 0, 0]
    assert column["mass|rank_auroc"] == [None, 3, 1, 2, 4, 5]
    verdict = column["mass|verdict"]
    assert verdict == [None, None, "confounded", "concept-aligned", None, None]
    assert column["mass|confounders"] == [None, None, "marker", None, None, None]
    assert column["mass|energy_lift"] == [None] * 6
    assert "mass|effect" not in column


def test_a_latent_has_the_rows_of_each_table_that_names_it():
    tables = Tables({"latents": _latents(), "verdicts": _verdicts()})
    found = records.sections(tables, SAE, np.array([2, 4]))
    assert found[4].keys() == {"latents"}
    names, rows = found[2]["verdicts"]["names"], found[2]["verdicts"]["rows"]
    assert names == ["concept", "verdict", "confounders", "where"]
    assert rows == [["mass", "confounded", "marker", ""]]


def test_a_latent_has_its_name_and_not_the_columns_of_other_tables():
    row = {**KEYS, "latent": 2, "name": "a round mass", "verdict": "mixed", "q": 0.01}
    tables = Tables({"latents": _latents(), "names": pd.DataFrame([row])})
    found = records.sections(tables, SAE, np.array([2, 4]))
    assert found[2]["names"] == {"names": ["name", "q"], "rows": [["a round mass", 0.01]]}
    assert "names" not in found[4]


def test_data_files_hold_64_latents_by_number():
    assert records.shards({130: "c", 63: "a", 64: "b"}) == {
        0: {63: "a"},
        1: {64: "b"},
        2: {130: "c"},
    }


def test_an_sae_without_rows_has_an_empty_table():
    tables = Tables({"latents": _latents()})
    assert tables.of("latents", Identity("other", "head", "topk", 0)).empty
    assert tables.of("effects", SAE).empty
    assert tables.saes() == [SAE]


def test_a_table_that_every_run_has_must_be_given():
    with pytest.raises(InputError, match="the atlas needs the table latents; give its file"):
        read_tables([])


def test_a_box_ends_behind_the_last_pixel_of_its_mask():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 2:4, 1:7] = True
    assert boxes(masks, ["mass", "marker"]) == {"mass": [1, 2, 7, 4]}


def test_the_parts_of_a_logit_sum_to_it():
    linear = Linear(np.array([0.5, -2.0, 3.0]), 1.5, {"a": -1.75})
    found, unknown = contributions(np.array([[1.0, 2.0, 0.0]] * 2), linear, ["a", "b"])
    assert found["latents"] == [[0, 0.5], [1, -4.0]]
    assert (found["logit"], found["offset"], found["rest"], found["error"]) == (-1.75, 1.5, 0, 0.25)
    assert (unknown["logit"], unknown["error"]) == (None, None)


def test_latents_that_are_not_named_are_one_part():
    linear = Linear(np.ones(20), 0.0, {"a": 20.0})
    (found,) = contributions(np.ones((1, 20)), linear, ["a"])
    assert len(found["latents"]) == 8
    assert (found["rest"], found["others"], found["error"]) == (12.0, 12, 0.0)


def test_a_histogram_counts_positive_and_negative_images_and_silent_ones_apart():
    scores, truth = np.array([0.0, 0.1, 4.0, 2.1, 0.0]), np.array([1, 1, 1, 0, 0], bool)
    found = histogram_of(scores, truth, 4.0)
    assert found["positive"]["silent"] == found["negative"]["silent"] == 1
    assert np.flatnonzero(found["positive"]["counts"]).tolist() == [0, 19]
    assert np.flatnonzero(found["negative"]["counts"]).tolist() == [10]


def test_latents_that_fire_together_are_found_in_all_saes_and_not_the_latent_itself():
    other = Identity("finetuned", "blocks.14", "topk", 0)
    one = np.array([[1.0, -1], [-1, 1], [1, -1], [-1, 1]], np.float32)
    activity = {SAE: (np.array([3, 9]), one), other: (np.array([5]), one[:, :1])}
    found = neighbours.firing_together(activity, SAE)
    assert found[3] == [("finetuned/blocks.14/topk/0", 5, 1.0)]
    assert found[9] == []


def test_the_best_match_in_each_other_sae_is_kept_and_called_a_match_from_a_cosine_of_0_7():
    nearest = {
        3: [("a", 4, 0.9), ("b", 1, 0.7), ("b", 2, 0.6), ("c", 5, 0.1)],
        4: [("b", 1, 0.69)],
        5: [],
    }
    found = neighbours.cosine_matches(nearest, ["b", "c"])
    assert found == {
        "b": {
            "measure": "cosine",
            "least": 0.7,
            "rows": [(3, 1, 0.7, True), (4, 1, 0.69, False)],
        },
        "c": {"measure": "cosine", "least": 0.7, "rows": [(3, 5, 0.1, False)]},
    }


def test_matches_by_activation_leave_out_latents_without_a_partner():
    pairs = pd.DataFrame(
        {
            "latent": [0, 1, 2],
            "match": pd.array([4, pd.NA, 5], "Int32"),
            "correlation": [0.9, np.nan, 0.2],
            "matched": [True, False, False],
            "chance": 0.3,
        }
    )
    assert neighbours.activation_matches(pairs) == {
        "measure": "correlation",
        "least": 0.3,
        "rows": [(0, 4, 0.9, True), (2, 5, 0.2, False)],
    }


def test_a_latent_is_found_again_in_seeds_with_a_close_atom():
    seeds = [replace(SAE, seed=seed) for seed in (0, 1, 2)]
    other = replace(SAE, sae="untrained")
    verdicts = [
        {**KEYS, "seed": seed, "latent": latent, "concept": "mass", "verdict": verdict}
        for seed, latent, verdict in [(0, 3, "mixed"), (1, 4, "confounded"), (2, 9, "mixed")]
    ]
    stability = {**KEYS, "other_seed": 1, "share_above_0.7": 0.25}
    tables = Tables(
        {"verdicts": pd.DataFrame(verdicts), "sae_stability": pd.DataFrame([stability])}
    )
    names = [address(one) for one in (*seeds, other)]
    nearest = {
        3: [(names[1], 4, 0.7), (names[1], 5, 0.6), (names[2], 9, 0.69), (names[3], 1, 0.9)],
        8: [(names[2], 7, 0.95)],
    }
    found = other_seeds(tables, SAE, [*seeds, other], nearest)
    assert found[3]["rows"] == [
        [names[1], 4, 0.7, True, 0.25, "mass: mixed", "mass: confounded"],
        [names[2], 9, 0.69, False, None, "mass: mixed", "mass: mixed"],
    ]
    assert found[8]["rows"] == [
        [names[1], None, None, False, 0.25, None, None],
        [names[2], 7, 0.95, True, None, None, None],
    ]
    back = other_seeds(tables, seeds[1], seeds, {4: [(names[0], 3, 0.8)]})
    assert back[4]["rows"][0] == [
        names[0], 3, 0.8, True, 0.25, "mass: confounded", "mass: mixed",
    ]  # fmt: skip
    assert other_seeds(tables, SAE, [SAE, other], nearest) == {}


def test_atoms_are_compared_within_a_layer_of_encoders_with_one_base():
    saes = [
        SAE,
        Identity("pretrained", "head", "topk", 0),
        Identity("other", "head", "topk", 0),
        Identity("finetuned", "blocks.14", "topk", 0),
    ]
    bases = {"finetuned": "pretrained", "pretrained": None, "other": None}
    assert neighbours.comparable(SAE, saes, bases) == saes[:2]


def test_images_of_the_start_page_come_first_and_then_those_that_most_latents_show():
    assert by_use(["z"], [{"a": 1, "b": 2}, {"c": 1, "b": 1, "z": 1}]) == ["z", "b", "a", "c"]


def test_latents_of_an_image_come_by_their_share_of_their_own_highest_activation():
    scores = np.array([[5.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert firing_latents(scores, np.array([10.0, 1.0, 0.0])) == [[1, 0], []]


def test_the_codes_of_an_sae_are_known_by_their_path(tmp_path):
    assert identity_of(tmp_path / "finetuned" / "head" / "topk" / "seed0") == SAE
    with pytest.raises(InputError, match="does not name an SAE; give"):
        identity_of(tmp_path / "finetuned" / "head" / "topk" / "seed0.pairs")


def test_a_module_becomes_a_script_with_a_global():
    script = classic("var a=1;export{b as B,a as default};\n/* licence */")
    assert script == (
        '(function () {\n"use strict";\nvar a=1;window.DataTable = a;\n/* licence */\n})();\n'
    )
    with pytest.raises(InputError, match="no single default export"):
        classic("var a=1;export{a as A};")


def test_the_installed_datatables_has_no_export_left_and_keeps_its_licence():
    script, style = datatables()
    assert "window.DataTable = " in script
    assert "export{" not in script
    assert "SpryMedia" in script
    assert ".dt" in style


def test_the_paragraph_of_methods_has_the_values_of_the_configuration():
    configuration = {
        "images": {"height": 1520, "width": 912, "preprocessing": "mammo_clip"},
        "encoders": {"tuned": {"base": "clip"}, "clip": {"base": None}},
        "layers": ["blocks.14", "head"],
        "saes": {
            "topk": {
                "variant": {"name": "topk", "k": 32}, "latents": 8, "seeds": [0, 1],
                "layers": {"head": {"latents": 16, "variant": {"k": 4}}, "blocks.14": {"lr": 0.1}},
                "only": {"layers": None, "encoders": ["tuned"]},
            }
        },
        "interventions": {"top_k": [1, 500], "random_sets": 1},
    }  # fmt: skip
    assert paragraph(configuration) == (
        "Images were brought to 1520 x 912 pixels (preprocessing mammo_clip). The encoders were "
        "tuned (fine-tuned from clip) and clip. The layers were blocks.14 and head. The sparse "
        "autoencoders (SAEs) and their controls were: topk (variant topk, 8 latents (head: 16), "
        "k = 32 (head: 4), seeds 0 and 1, tuned alone). In interventions, the first k latents, for "
        "2 values of k, were removed or kept alone, beside 1 random set of the same size."
    )
    assert paragraph({}) == ""


@pytest.mark.parametrize(
    ("acquisition", "anatomical", "words"),
    [
        (None, None, "the cohort's columns of acquisition and the cohort's columns of anatomy"),
        (["marker"], None, "the confounders marker and the cohort's columns of anatomy"),
        (["marker"], ["age_bin"], "the confounders marker and age bin"),
        ([], [], "no confounder"),
    ],
)
def test_the_paragraph_names_confounders_that_are_the_cohorts_own_columns(
    acquisition, anatomical, words
):
    confounds = {"acquisition": acquisition, "anatomical": anatomical}
    confounds |= {"top_latents": 5, "alpha": 0.05}
    assert f"were tested against {words}, at" in paragraph({"confounds": confounds})


def test_an_outline_follows_a_mask_but_not_the_border_of_the_image():
    mask = np.zeros((6, 6), bool)
    mask[:5, :5] = True
    assert edge(mask, 1).astype(int).tolist() == [
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert edge(mask, 2).sum() == 16


def test_outlines_are_transparent_except_for_lines_in_the_colours_of_the_regions():
    breast, lesion = np.zeros((2, 8, 8), bool)
    breast[:, :4] = True
    lesion[2:5, 2:5] = True
    data = outlines({"breast": breast, "mass": lesion}, {"breast": "#ced4da", "mass": "#2FA4E7"})
    picture = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
    assert picture.shape == (8, 8, 4)
    assert picture[0, 3].tolist() == [0xCE, 0xD4, 0xDA, 255]
    assert picture[2, 3].tolist() == [0x2F, 0xA4, 0xE7, 255]  # above the line of the breast
    assert picture[3, 3, 3] == 255  # the line of the breast within the lesion
    assert picture[..., 3].astype(bool).sum() == 8 + 8 - 2
