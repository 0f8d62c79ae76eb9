"""How often verdicts are repeated by the SAE of another seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.analysis import verdict_stability
from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.tables import read_table, write_table

VERDICTS = ["confounded", "concept-aligned", "concept-aligned", "mixed", "not associated"]


def write_sae(folder, atoms):
    sae = SparseAutoencoder(
        encoder_weight=torch.from_numpy(atoms), encoder_bias=torch.zeros(len(atoms)),
        decoder_weight=torch.tensor(atoms), decoder_bias=torch.zeros(atoms.shape[1]),
        k=2, threshold=None,
    )  # fmt: skip
    folder.mkdir()
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    return folder / "sae.json"


def write_confounds(path, verdicts):
    rows = [
        {"latent": latent, "concept": "mass", "confounder": name, "verdict": word}
        for latent, verdict in verdicts.items()
        for name, word in (("marker", verdict), ("paddle", "concept-aligned"))
        if verdict != "not associated" or name == "marker"
    ]
    write_table(pd.DataFrame(rows), path)
    return path


def table_of(tmp_path, verdicts, turn):
    """Compare an SAE with one whose latents are in another order, the last one turned away."""
    atoms = np.eye(6, dtype=np.float32)
    order = np.array([2, 0, 1, 4, 3, 5])
    others = atoms[order].copy()
    if turn:
        others[1] = 0.5**0.5 * (atoms[0] + atoms[5]) * np.float32(0.99)
        others[1, 4] = 0.3
        others[1] /= np.linalg.norm(others[1])
    saes = [write_sae(tmp_path / "0", atoms), write_sae(tmp_path / "1", others)]
    place = {int(latent): position for position, latent in enumerate(order)}
    tables = [
        write_confounds(tmp_path / "0.parquet", dict(enumerate(VERDICTS))),
        write_confounds(
            tmp_path / "1.parquet", {place[latent]: word for latent, word in verdicts.items()}
        ),
    ]
    verdict_stability.run(
        encoder_name="a", layer="head", sae_name="topk", seeds=[3, 7], saes=saes,
        confounds=tables, concepts=["mass"], output=tmp_path / "out.parquet",
    )  # fmt: skip
    table = read_table(tmp_path / "out.parquet")
    assert table[["seed", "other_seed"]].drop_duplicates().to_numpy().tolist() == [[3, 7], [7, 3]]
    return table[table["seed"] == 3].set_index("verdict")


def test_the_same_latents_in_another_order_repeat_every_verdict(tmp_path):
    table = table_of(tmp_path, dict(enumerate(VERDICTS)), turn=False)
    assert table.loc["all", ["latents", "matched", "tested", "repeated"]].tolist() == [4, 4, 4, 4]
    assert (table["share"] == 1).all()
    # Of the matched latents 1 is confounded, 2 are aligned and 1 is mixed.
    assert table.loc["all", "chance"] == pytest.approx((1 / 4 + 2 * 2 / 4 + 1 / 4) / 4)
    assert table.loc["concept-aligned", "chance"] == pytest.approx(0.5)


def test_another_verdict_and_a_latent_that_is_not_associated_are_not_repeated(tmp_path):
    other = {0: "confounded", 1: "mixed", 2: "not associated", 3: "mixed", 4: "mixed"}
    table = table_of(tmp_path, other, turn=False)
    assert table.loc["all", ["tested", "repeated"]].tolist() == [4, 2]
    assert table.loc["concept-aligned", ["latents", "tested", "repeated"]].tolist() == [2, 2, 0]
    assert table.loc["mixed", "share"] == 1.0


def test_a_latent_without_a_close_or_a_tested_match_is_left_out(tmp_path):
    other = {0: "confounded", 1: "concept-aligned", 3: "mixed"}
    table = table_of(tmp_path, other, turn=True)
    # The atom of latent 0 has a cosine below 0.7, and the match of latent 2 was not tested.
    assert table.loc["all", ["latents", "matched", "tested", "repeated"]].tolist() == [4, 3, 2, 2]
    assert table.loc["confounded", ["latents", "matched", "tested"]].tolist() == [1, 0, 0]
    assert np.isnan(table.loc["confounded", "share"])
    assert table.loc["confounded", "reason"] == "no latent has a tested match"


def test_one_seed_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least two"):
        verdict_stability.run(
            encoder_name="a", layer="head", sae_name="topk", seeds=[1], saes=[tmp_path],
            confounds=[tmp_path], concepts=["mass"], output=tmp_path / "out.parquet",
        )  # fmt: skip


def test_as_many_seeds_saes_and_tables_as_the_message_asks_for_are_compared(tmp_path):
    atoms = np.eye(6, dtype=np.float32)
    saes = [write_sae(tmp_path / str(seed), atoms) for seed in (0, 1)]
    tables = [write_confounds(tmp_path / f"{seed}.parquet", dict(enumerate(VERDICTS)))
              for seed in (0, 1)]  # fmt: skip
    given = {"encoder_name": "a", "layer": "head", "sae_name": "topk", "concepts": ["mass"]}
    given |= {"seeds": [0, 1], "output": tmp_path / "out.parquet"}
    with pytest.raises(InputError, match=r"give the same number of each, at least two$"):
        verdict_stability.run(**given, saes=saes[:1], confounds=tables[:1])
    verdict_stability.run(**given, saes=saes, confounds=tables)
    table = read_table(given["output"]).set_index(["seed", "verdict"])
    assert table.loc[(0, "all"), "share"] == 1
