from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.report import names
from mammo_sae.stores.tables import read_table, write_table

RUN = {"encoder": "e", "layer": "head", "sae": "topk", "seed": 0}


@pytest.fixture
def table(tmp_path):
    naming = pd.DataFrame(
        {
            **RUN,
            "latent": range(5),
            "method": "images",
            "name": ["a mass", "a letter", "a letter", "fat", ""],
            "best": ["a mass", "a letter", "a letter", "fat", "skin"],
            "label": ["mass", "marker", "marker", "", "mass"],
        }
    )
    concepts = [("mass", 0.9, 0.01), ("calcification", 0.95, 0.3)]
    rows = [(latent, *one) for latent in range(4) for one in concepts]
    rows += [(4, "mass", 0.6, 0.2), (4, "calcification", 0.2, 0.001)]
    latents = pd.DataFrame(rows, columns=["latent", "concept", "auroc", "q"]).assign(**RUN)
    verdicts = pd.DataFrame(
        {
            **RUN,
            "concept": "mass",
            "latent": [0, 1, 2],
            "verdict": ["concept-aligned", "confounded", "confounded"],
            "confounders": ["", "marker, vendor", "vendor"],
        }
    )
    paths = {name: tmp_path / f"{name}.parquet" for name in ("naming", "latents", "verdicts")}
    for path, frame in zip(paths.values(), (naming, latents, verdicts), strict=True):
        write_table(frame, path)
    out = {"csv": tmp_path / "names.csv", "parquet": tmp_path / "names.parquet"}
    paths["naming"] = [paths["naming"]]
    assert names.run(**paths, **out) == list(out.values())
    return read_table(out["parquet"])


def test_a_name_is_beside_the_concept_and_the_verdict(table):
    assert table["concept"].tolist() == ["mass"] * 4 + ["calcification"]
    assert table["concept_auroc"].tolist() == [0.9] * 4 + [0.2]
    assert table["verdict"].tolist() == ["concept-aligned", "confounded", "confounded", "", ""]


def test_the_agreement_says_whether_the_name_is_the_concept_or_a_confounder(table):
    assert table["agreement"].tolist() == ["concept", "confounder", "neither", "", ""]
