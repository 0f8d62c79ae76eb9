"""Bad input ends the run at parse time or in the first job, with a sentence that names it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("overlay", "sentence"),
    [
        ("confunds: {alpha: 0.1}", "confunds: unknown key"),
        ("saes: {topk: {lr: 1e-4}}", "saes.topk.lr: must be a number, got '1e-4'; YAML reads it"),
        ("layers: [blocks.10, blocks.16]", "layers: 'blocks.16' is not a layer of encoder"),
    ],
)
def test_a_wrong_configuration_ends_at_parse_time(finished, overlay, sentence):
    done = finished.snakemake("-n", overlay=overlay, check=False)
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_dicom_folder_is_named(finished, tmp_path):
    (tmp_path / "vindr.yaml").write_text(
        "name: vindr\ncohort: {kind: vindr, source: /nowhere/vindr-mammo}\n"
    )
    project = type(finished)(finished.folder, config=(str(tmp_path / "vindr.yaml"),))
    done = project.snakemake(check=False)
    assert done.returncode == 1
    assert "/nowhere/vindr-mammo" in done.stdout + done.stderr
