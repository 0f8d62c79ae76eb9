from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mammo_sae.config import Config, load_config
from mammo_sae.errors import InputError
from mammo_sae.plan import plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose configuration is of DINOv2 with four blocks. Its weights are not read here."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "patch_size": 14}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", **sizes}))
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def config(folder: Path, pooling: str = "mean", **changes: Any) -> Config:
    source = {"kind": "transformers", "path": folder.as_posix(), "pooling": pooling}
    return load_config(
        {
            "images": {"preprocessing": "clinical", "height": 280, "width": 196},
            "encoders": {
                "vit": {"kind": "pretrained", "source": source},
                "finetuned": {"kind": "finetuned", "base": "vit", "freeze": "blocks.1"},
                "pretrained": None,
            },
            "layers": ["blocks.1", "blocks.3", "head"],
            "inner": {"layers": ["blocks.1"]},
            **changes,
        },
        "x",
    )


def test_layers_of_a_vision_transformer_are_those_of_its_folder(folder):
    wanted = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "head", "pooled"]
    assert config(folder).layer_names("finetuned") == wanted
    with pytest.raises(InputError, match=r"'blocks\.9' is not a layer of encoder 'vit', which has"):
        config(folder, layers=["blocks.9"])


@pytest.mark.parametrize(
    ("pooling", "linear", "rerun", "used"),
    [
        ("mean", ["head"], ["blocks.1"], ["blocks.1", "blocks.3", "head"]),
        ("cls", [], ["blocks.1"], ["blocks.1"]),
    ],
)
def test_the_pooling_decides_where_predictions_are_linear_and_where_the_network_runs(
    folder, pooling, linear, rerun, used
):
    found = config(folder, pooling)
    for encoder in ("vit", "finetuned"):
        for wanted, asked in (
            (linear, found.is_linear),
            (rerun, found.is_rerun),
            (used, found.is_used),
        ):
            assert [layer for layer in found.layers if asked(encoder, layer)] == wanted


def test_the_head_of_attention_pooling_is_scored_by_running_the_network(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": {}}))
    (tmp_path / "model.safetensors").touch()
    edges = {"images": {"preprocessing": "clinical", "height": 256, "width": 192}}
    found = config(tmp_path, "attention", **edges)
    assert not found.is_linear("vit", "head")
    assert found.is_rerun("vit", "head")
    assert found.is_used("vit", "head")
    assert found.shown_splits() == {"blocks.1": "test", "head": "test"}


def test_an_image_that_is_not_cut_into_whole_patches_is_refused_with_near_sizes(folder):
    with pytest.raises(InputError, match=r"images\.height: 288 is no multiple of 14, the patch of"):
        config(folder, images={"preprocessing": "clinical", "height": 288, "width": 196})
    with pytest.raises(InputError, match=r"would not see the last 8 pixels; set it to 280 or 294"):
        config(folder, images={"preprocessing": "clinical", "height": 288, "width": 196})


def test_a_folder_that_is_gone_is_named_when_the_configuration_is_read(folder):
    with pytest.raises(InputError, match=r"folder \S+/gone does not exist"):
        config(folder / "gone")


def test_a_plan_counts_no_closed_form_for_a_class_token(folder):
    jobs = {pooling: plan(config(folder, pooling), 100) for pooling in ("mean", "cls")}
    one, other = (jobs[pooling]["interventions"].jobs for pooling in ("mean", "cls"))
    assert other < one
