"""An encoder that was published as fine-tuned is compared with the one that it started from."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.workflow, pytest.mark.soak]


def test_latents_of_a_published_encoder_are_matched_with_its_bases(micro_project, tmp_path):
    project = micro_project(tmp_path)
    source = {"kind": "random", "architecture": "efficientnet-lite0"}
    tuned = {"kind": "pretrained", "source": source, "base": "pretrained"}
    overlay = yaml.safe_dump({"encoders": {"tuned": tuned}})
    project.snakemake("results/micro/tables/matched_latents.parquet", overlay=overlay)
    matched = pd.read_parquet(project.results / "tables" / "matched_latents.parquet")
    assert set(matched["encoder"]) == {"tuned"}
    alone = yaml.safe_dump({"encoders": {"tuned": tuned | {"base": None}}})
    done = project.snakemake("results/micro/encoders/tuned/encoder.json", "-n", overlay=alone)
    assert "Nothing to be done" in done.stdout + done.stderr
