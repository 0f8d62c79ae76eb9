from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

import mammo_sae as ms
from mammo_sae import cli
from mammo_sae.errors import InputError
from mammo_sae.library.export import export
from mammo_sae.library.files import RunFiles
from mammo_sae.sae.high_norm import LIMIT
from mammo_sae.stores.publish import read_json, read_plain_json, write_json


@pytest.fixture
def files(folder) -> RunFiles:
    return RunFiles(folder)


@pytest.fixture
def copy(folder, tmp_path) -> RunFiles:
    """The files of a copy of the run, which a test may change."""
    return RunFiles(shutil.copytree(folder, tmp_path / "results" / "phantom"))


@pytest.fixture(scope="session")
def exported(folder, tmp_path_factory):
    """The export of the SAE of blocks.10, written by the command line."""
    output = tmp_path_factory.mktemp("exported") / "hub"
    words = ["export-sae", folder, "--output", output, "--layer", "blocks.10"]
    cli.run([str(word) for word in words])
    return output


def test_the_folder_has_a_card_and_one_folder_in_saelenss_layout(exported):
    found = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert found == {"README.md", "blocks.10/cfg.json", "blocks.10/sae_weights.safetensors"}
    config = read_plain_json(exported / "blocks.10" / "cfg.json")
    assert (config["architecture"], config["k"], config["d_in"], config["d_sae"]) == (
        "topk", 4, 112, 64,
    )  # fmt: skip
    assert config["metadata"] == {
        "sae_lens_version": "6.0.0",
        "model_name": "efficientnet-lite0",
        "hook_name": "blocks.10",
    }


def test_the_exported_sae_has_the_same_codes(exported, run):
    cells = np.random.default_rng(1).normal(size=(50, 112))
    again = ms.Sae.load(exported / "blocks.10").encode(cells)
    np.testing.assert_allclose(again, run.sae(layer="blocks.10").encode(cells), rtol=1e-5)


@pytest.mark.parametrize("sae", ["topk", "channels"])
def test_trained_saes_and_controls_are_exported(files, tmp_path, sae):
    of = files.choose(layer="head", sae=sae)
    *_, card = export(files, of, tmp_path / "out")
    says_control = "This dictionary is a control." in card.read_text()
    assert says_control == (sae == "channels")


def test_the_card_has_data_encoder_licence_quality_latents_and_caveats(exported, run):
    text = (exported / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "saelens"
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Use", "Data", "Encoder and licence", "Quality", "Latents", "Caveats",
    ]  # fmt: skip
    training = run.cohort.query("split == 'training'")
    positive = [int(training[name].sum()) for name in ("mass", "suspicious_calcification")]
    patients = training["patient_id"].nunique()
    assert f"| training | {len(training)} | {patients} | {positive[0]} | {positive[1]} |" in text
    quality = run.tables["sae_quality"].query("layer == 'blocks.10'").iloc[0]
    assert f"| explained variance | {quality['explained_variance']:.3f} |" in text
    assert "| licence of the weights | Apache-2.0 |" in text
    assert "| fine-tuned from | " in text
    assert "which are `encoder.safetensors` of the run and are not in this folder" in text
    best = run.tables["verdicts"].query("layer == 'blocks.10' and rank_auroc == 1")
    for row in best.to_dict("records"):
        concept = row["concept"].replace("_", " ")
        line = next(
            line for line in text.splitlines() if f"| {concept} | {row['latent']} |" in line
        )
        assert row["verdict"] in line


def test_the_card_has_no_id_and_no_path(exported, run, folder):
    text = (exported / "README.md").read_text()
    ids = pd.concat([run.cohort["image_id"], run.cohort["patient_id"]])
    assert [one for one in ids if one in text] == []
    assert str(folder.parent) not in text
    config = (exported / "blocks.10" / "cfg.json").read_text()
    assert str(folder.parent) not in config


def test_another_licence_is_named_as_it_is(copy, tmp_path):
    path = copy.encoder("finetuned") / "encoder.json"
    write_json(path, {**read_json(path), "licence": "CC BY-NC-SA 4.0"})
    *_, card = export(copy, copy.choose(layer="head"), tmp_path / "out")
    front = yaml.safe_load(card.read_text().split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "CC BY-NC-SA 4.0")


def test_a_limit_of_the_embeddings_norm_is_a_caveat(copy, tmp_path):
    of = copy.choose(layer="head")
    write_json(copy.sae(of), {**read_json(copy.sae(of)), LIMIT: 12.5})
    *_, card = export(copy, of, tmp_path / "out")
    assert "- Cells whose embedding is longer than 12.5 are artefacts" in card.read_text()


def test_what_was_not_measured_is_said(copy, tmp_path):
    of = copy.choose(layer="head")
    for name in ("sae_quality", "latents"):
        copy.analysis(of, name).unlink()
    *_, card = export(copy, of, tmp_path / "out")
    assert "## Quality\n\nNot measured." in card.read_text()
    assert "## Latents\n\nNot tested." in card.read_text()


def test_an_sae_without_an_architecture_is_refused_and_nothing_is_written(copy, tmp_path):
    of = copy.choose(layer="head")
    path = copy.sae(of)
    write_json(path, {**read_json(path), "activation": "pursuit"})
    with pytest.raises(InputError, match="no architecture for SAEs with the activation 'pursuit'"):
        export(copy, of, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(files, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="is not an empty folder; give a new one"):
        export(files, files.choose(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match=r"mine.txt/out can't be made \(Not a directory\); give"):
        export(files, files.choose(), tmp_path / "mine.txt" / "out")
