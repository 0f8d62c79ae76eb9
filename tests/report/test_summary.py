from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.verdict import overall
from mammo_sae.report import summary, verdicts
from mammo_sae.stores.tables import read_table, write_table


@pytest.fixture
def table(whole, tmp_path):
    """The table of verdicts of the run with two encoders and two layers."""
    verdicts.run(
        latents=whole / "latents.parquet",
        alignment=whole / "alignment.parquet",
        confounds=whole / "confounds.parquet",
        csv=tmp_path / "verdicts.csv",
        parquet=tmp_path / "verdicts.parquet",
    )
    return tmp_path / "verdicts.parquet"


def _scores(**auroc):
    rows = [
        {"encoder": encoder, "concept": "mass", "split": split, "auroc": value, "reason": ""}
        for encoder, values in auroc.items()
        for split, value in values.items()
    ]
    return pd.DataFrame(rows)


def test_the_table_of_verdicts_has_each_tested_latent_with_its_most_severe_verdict(table, whole):
    found, tested = read_table(table), read_table(whole / "confounds.parquet")
    keys = ["encoder", "layer", "sae", "seed", "concept", "latent"]
    assert len(found) == len(tested[keys].drop_duplicates())
    expected = overall(tested).set_index(keys)["verdict"].sort_index()
    assert found.set_index(keys)["verdict"].sort_index().equals(expected)
    aligned = read_table(whole / "alignment.parquet")
    row = found[(found["latent"] == 0) & (found["concept"] == "mass")].iloc[0]
    same = (aligned[keys] == row[keys].to_numpy()).all(axis=1) & (aligned["selection"] == "ranked")
    assert row["where"] == verdicts.location(aligned[same].iloc[0]) == verdicts.ON


def test_the_table_of_verdicts_may_be_empty(whole, tmp_path):
    for name in ("latents", "alignment", "confounds"):
        rows = read_table(whole / f"{name}.parquet")
        write_table(rows if name == "latents" else rows.iloc[:0], tmp_path / f"{name}.parquet")
    verdicts.run(
        **{n: tmp_path / f"{n}.parquet" for n in ("latents", "alignment", "confounds")},
        csv=tmp_path / "v.csv",
        parquet=tmp_path / "v.parquet",
    )
    assert len(read_table(tmp_path / "v.parquet")) == 0
    _, rows = summary.carriers(
        read_table(tmp_path / "latents.parquet"), read_table(tmp_path / "v.csv")
    )
    assert all(row[5] == "not estimable" for row in rows)


def test_fine_tuning_without_a_gain_is_reported_per_concept_and_split():
    scores = _scores(
        tuned={"training": 0.8, "test": 0.9, "external": 0.58},
        base={"training": 0.9, "test": 0.8, "external": 0.71},
    )
    (said,) = summary.not_better(scores, {"tuned": "base"})
    assert said.startswith(
        "Fine-tuning did not help: tuned predicts mass in the external split with an AUROC of "
        "0.58, a linear probe on its base base with 0.71."
    )
    assert summary.not_better(scores, {}) == []


def test_equal_scores_are_no_gain_and_missing_ones_no_verdict():
    equal = _scores(tuned={"test": 0.8}, base={"test": 0.8})
    assert len(summary.not_better(equal, {"tuned": "base"})) == 1
    missing = _scores(tuned={"test": np.nan}, base={"test": 0.8})
    assert summary.not_better(missing, {"tuned": "base"}) == []


def test_the_page_says_what_latents_are_called(table, whole, tmp_path):
    judged = read_table(table)
    first = judged[judged["rank_auroc"] <= 5].iloc[0]
    latents = range(4)
    names = pd.DataFrame({"latent": [int(first["latent"]), *(1000 + i for i in latents)]})
    names = names.assign(**{key: first[key] for key in ("encoder", "layer", "sae", "seed")})
    names["name"] = ["a spiculated mass", "a mass", "a letter", "fat", ""]
    names["agreement"] = ["concept", "concept", "confounder", "", ""]
    write_table(names, tmp_path / "names.parquet")
    given = {"encoders": whole / "encoders.parquet", "latents": whole / "latents.parquet"}
    given |= {"verdicts": table, "split": "test", "output": tmp_path / "summary.html"}
    summary.run(**given, names=tmp_path / "names.parquet")
    text = (tmp_path / "summary.html").read_text()
    assert f"latent {first['latent']} “a spiculated mass” (" in text
    header, rows = summary.called(read_table(tmp_path / "names.parquet"))
    label = [first["encoder"], first["layer"], f"{first['sae']} seed {first['seed']}"]
    assert rows == [[*label, "4 of 5", "2", "1", "0"]]
    assert header[3:] == [
        "with a name", "name is of: concept", "name is of: confounder", "name is of: neither",
    ]  # fmt: skip
    assert "<td>4 of 5</td><td>2</td><td>1</td><td>0</td>" in text
    summary.run(**given)
    assert "What latents are called" not in (tmp_path / "summary.html").read_text()


def test_the_page_gives_the_numbers_of_the_tables(table, whole, tmp_path, capsys):
    scores = read_table(whole / "encoders.parquet")
    mine = (scores["encoder"] == "finetuned") & (scores["concept"] == "mass")
    scores.loc[mine, ["auroc", "auroc_low", "auroc_high"]] = 0.12
    write_table(scores, tmp_path / "encoders.parquet")
    summary.run(
        encoders=tmp_path / "encoders.parquet",
        latents=whole / "latents.parquet",
        verdicts=table,
        bases={"finetuned": "pretrained"},
        split="test",
        output=tmp_path / "summary.html",
    )
    text = (tmp_path / "summary.html").read_text()
    assert "0.12 [0.12, 0.12]" in text
    assert 'class="warning"' in text
    assert "warning: Fine-tuning did not help: finetuned predicts mass" in capsys.readouterr().err
    latents, judged = read_table(whole / "latents.parquet"), read_table(table)
    header, rows = summary.carriers(latents, judged)
    here = (latents["encoder"] == "finetuned") & (latents["layer"] == "head")
    here &= latents["concept"] == "mass"
    associated = ((latents["q"] < 0.05) & here).sum()
    row = next(r for r in rows if r[:3] == ["mass", "finetuned", "head"])
    assert row[header.index("associated")] == f"{associated} of {here.sum()}"
    judged = judged[(judged["encoder"] == "finetuned") & (judged["layer"] == "head")]
    counts = judged[judged["concept"] == "mass"]["verdict"].value_counts()
    assert counts["not associated"] > 0
    assert int(row[header.index("tested")]) == counts.drop("not associated").sum()
    counted = dict(zip(header[7:], row[7:], strict=True))
    assert counted["the finding itself (concept-aligned)"] == str(counts["concept-aligned"])
    assert sum(map(int, counted.values())) == counts.drop("not associated").sum()
    assert not any("not associated" in name for name in header)
