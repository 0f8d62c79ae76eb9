"""Images without labels are extracted and encoded, and nothing is said of concepts."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mammo_sae import cli
from mammo_sae.config import read_config
from mammo_sae.plan import jobs
from mammo_sae.resources import NEEDS
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table

pytestmark = pytest.mark.workflow

PROJECT = Path(__file__).parents[2]
SIZES = {
    "images": {"preprocessing": "clinical", "height": 96, "width": 64},
    "layers": ["head"],
    "saes": {
        "topk": {"variant": {"name": "topk", "k": 4, "k_aux": 8}, "latents": 64, "steps": 10,
                 "batch": 64}
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of pictures without a table, and the configuration that `init` writes for it."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    (tmp_path / "bare.key").write_text("a" * 64)  # the draw of splits depends on the key
    rows, columns = np.mgrid[:240, :160]
    breast = ((rows - 120) / 100) ** 2 + (columns / 110) ** 2 < 1
    for number in range(16):
        grey = np.where(breast, 120 + 40 * rng.random(breast.shape), 0).astype(np.uint8)
        name = f"p{number // 2}_L_{('CC', 'MLO')[number % 2]}.png"
        Image.fromarray(grey).save(tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    cli.run(["init", "data", "--output", "bare.yaml"])
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(SIZES))
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*(sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "rules"), *arguments,
         *("--snakefile", str(PROJECT / "Snakefile"), "--directory", str(folder)),
         *("--configfile", "bare.yaml", "sizes.yaml")],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_only_steps_that_need_no_label_are_planned(folder):
    counted = {
        words[0]: int(words[1])
        for words in map(str.split, snakemake(folder, "-n").splitlines())
        if len(words) == 2 and words[0] in NEEDS and words[1].isdecimal()
    }
    shown = {"configuration": 1, "crate": 1, "quarantine": 1, "registry": 1, "table_page": 2}
    planned = Counter()
    for step, count, _ in jobs(read_config([folder / "bare.yaml", folder / "sizes.yaml"])):
        planned[step] += count
    assert counted == {**planned, **shown}
    assert planned["codes"] == planned["train_sae"] == 1


@pytest.mark.soak
def test_images_without_labels_get_codes(folder):
    snakemake(folder)
    codes = CodesReader(folder / "results/bare/codes/pretrained/head/topk/seed0.json")
    table = read_table(folder / "results/bare/cohort/images.parquet")
    assert sorted(codes.image_ids) == sorted(table["image_id"])
    assert codes.pooled("max").shape == (16, 64)
    assert codes.pooled("max").max() > 0
    assert not {"mass", "suspicious_calcification"} & set(table.columns)
