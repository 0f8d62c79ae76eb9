from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as library
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import vits
from mammo_sae.encoders.architectures import architecture, layer_names
from mammo_sae.encoders.description import IMAGENET
from mammo_sae.encoders.network import load_description, load_encoder
from mammo_sae.encoders.networks.network import FeatureMap, to_map
from mammo_sae.encoders.plans import vit
from mammo_sae.encoders.settings import ResNetSource, TransformersSource
from mammo_sae.errors import InputError

# Kind -> image, not of the size and shape of the positions that the model has.
SIZES = {
    "dinov2": (70, 42),
    "dinov2_with_registers": (518, 322),
    "dinov3_vit": (70, 42),
    "siglip": (70, 42),
    "clip": (70, 42),
    "vit": (70, 42),
}
POOLINGS = {"siglip": ["mean", "attention"]}


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, tuple[Any, Path]]:
    """Kind -> the model of the library, and its folder."""
    root = tmp_path_factory.mktemp("models")
    return {kind: (vits.write(kind, root / kind), root / kind) for kind in SIZES}


def reference(kind: str, model: Any, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], Any]:
    """The library's own tokens [n, t, c] by layer, and its pooled features."""
    network = getattr(model, "vision_model", model)
    options = {"interpolate_pos_encoding": True} if vit.KINDS[kind].interpolates else {}
    with torch.inference_mode():
        found = network(x, output_hidden_states=True, **options)
        blocks = found.hidden_states[-3:] if kind != "vit" else found.hidden_states[1:4]
        tokens = {f"blocks.{index}": value for index, value in enumerate(blocks)}
        tokens["head"] = found.last_hidden_state
        if kind == "clip":  # the library applies the last norm to the class token only
            tokens["head"] = network.post_layernorm(found.last_hidden_state)
    return tokens, found.pooler_output


@pytest.mark.parametrize("kind", SIZES)
def test_every_layer_equals_the_librarys_and_the_rest_equals_the_uncut_network(
    kind, written, tmp_path
):
    model, folder = written[kind]
    x = images(*SIZES[kind])
    tokens, pooled = reference(kind, model, x)
    for pooling in POOLINGS.get(kind, ["mean", "cls"]):
        network = load_encoder(vits.imported(folder, tmp_path / pooling, pooling=pooling))
        layers = layer_names(network.architecture)
        with torch.inference_mode():
            maps = network.forward_layers(x, layers)
            whole = network(x)
            for layer in layers:
                cells = maps[layer].cells.permute(0, 2, 3, 1).contiguous()
                stored = to_map(cells, prefix=maps[layer].prefix)
                assert torch.equal(network.rest(layer, stored), whole), layer
        for layer, expected in tokens.items():
            grid = network.grid(layer, *SIZES[kind])
            cells = maps[layer].cells
            assert cells.shape[1:] == (48, grid.rows, grid.columns)
            prefix = expected.shape[1] - grid.rows * grid.columns
            assert relative(cells.flatten(2).transpose(1, 2), expected[:, prefix:]) < 1e-5, layer
            if prefix:
                assert relative(maps[layer].prefix, expected[:, :prefix]) < 1e-5, layer
        if pooling == "mean":
            expected = maps["head"].cells.mean((2, 3))
        elif kind == "vit":  # the library has a further layer after the class token
            expected = tokens["head"][:, 0]
        else:
            expected = pooled
        assert relative(whole, expected) < 1e-5, pooling


def test_the_part_for_images_alone_is_read_as_the_whole_model_is(written, tmp_path):
    model, folder = written["siglip"]
    model.vision_model.save_pretrained(tmp_path / "part")
    whole, part = (
        load_encoder(vits.imported(path, tmp_path / name))
        for path, name in ((folder, "a"), (tmp_path / "part", "b"))
    )
    x = images(70, 42)
    with torch.inference_mode():
        assert torch.equal(whole(x), part(x))


def test_the_names_of_older_versions_of_the_library_are_read(written, tmp_path):
    _, folder = written["dinov2"]
    names = list(load_file(folder / "model.safetensors"))
    # The files on the hub have these names, and the modules of this version have others.
    assert "encoder.layer.0.attention.attention.query.weight" in names


@pytest.mark.parametrize("kind", SIZES)
def test_the_name_says_the_sizes_that_the_network_has(kind, written, tmp_path):
    model, folder = written[kind]
    plan = architecture(
        TransformersSource(kind="transformers", path=folder.as_posix()).architecture
    )
    tokens, _ = reference(kind, model, images(70, 42))
    assert (plan.kind, plan.patch, plan.width, plan.depth) == (kind, 14, 48, 3)
    rows, columns = plan.grid_shape("head", 70, 42)
    assert tokens["head"].shape[1] == rows * columns + plan.prefix


@pytest.mark.parametrize("kind", vit.KINDS)
def test_sizes_that_a_configuration_leaves_out_are_the_librarys(kind):
    row = vit.KINDS[kind]
    default = getattr(library, row.config)().to_dict()
    assert dict(row.defaults) == {key: default[key] for key in row.defaults}


def test_normalisation_is_the_preprocessors_and_else_that_of_the_kind(written, tmp_path):
    _, folder = written["dinov2"]
    assert load_description(vits.imported(folder, tmp_path / "a")).normalisation == IMAGENET
    shutil.copytree(folder, tmp_path / "own")
    own = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "rescale_factor": 1 / 255}
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(own))
    found = load_description(vits.imported(tmp_path / "own", tmp_path / "b")).normalisation
    assert (found.scale, found.mean, found.std) == ("full", (0.5307,) * 3, (0.2583,) * 3)


@pytest.mark.parametrize("std", [[0.5, 0.0, 0.5], [0.5, -0.1, 0.5], [0.5, float("inf"), 0.5]])
def test_deviations_that_cant_divide_are_refused(std, written, tmp_path):
    shutil.copytree(written["dinov2"][1], tmp_path / "own")
    own = {"image_mean": [0.5] * 3, "image_std": std}
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match=r"config\.json: images can't be divided by image_std = "):
        vits.imported(tmp_path / "own", tmp_path / "a")
    with pytest.raises(ValidationError, match=r"greater than 0|finite"):
        ResNetSource(kind="resnet", architecture="resnet-18", path="x.pth", std=tuple(std))


def test_a_cell_is_its_patch(written, tmp_path):
    network = load_encoder(vits.imported(written["dinov2_with_registers"][1], tmp_path))
    x = images(70, 42, count=1)
    changed = x.clone()
    changed[:, :, 28:42, 14:28] += 1
    grid = network.grid("blocks.0", 70, 42)
    assert (grid.stride, grid.offset_y, grid.offset_x, grid.receptive_field) == (14, 0, 0, 70)
    with torch.inference_mode():
        before, after = (network.begin(one).cells[0] for one in (x, changed))
    moved = (before - after).abs().amax(0) > 0
    assert moved.nonzero().tolist() == [[2, 1]]


def test_a_map_without_its_tokens_is_refused(written, tmp_path):
    network = load_encoder(vits.imported(written["dinov2"][1], tmp_path))
    with pytest.raises(InputError, match=r"0 tokens beside its grid, but vit-dinov2-\S+ has 1"):
        network.rest("blocks.0", FeatureMap(torch.zeros(1, 48, 5, 3)))


def test_training_draws_nothing_at_random(written, tmp_path):
    network = load_encoder(vits.imported(written["dinov3_vit"][1], tmp_path)).train()
    x = images(70, 42)
    assert torch.equal(network(x), network(x))


def spoil(folder: Path, what: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "no json":
        (folder / "config.json").write_text("{")
    elif what == "bin":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif what == "no folder":
        shutil.rmtree(folder)
    elif what == "cut":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:-100])
    else:
        changes = {
            "code": {"auto_map": {"AutoModel": "modeling.Evil"}},
            "type": {"model_type": "swin"},
            "shape": {"hidden_size": 64},
            "deeper": {"num_hidden_layers": 5},
            "shallower": {"num_hidden_layers": 2, "out_features": ["stage2"], "out_indices": [2]},
            "patch": {"patch_size": [14, 16]},
            "grey": {"num_channels": 1},
            "positions": {"image_size": [112, 28]},
        }[what]
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        (folder / "modeling.py").write_text("raise SystemExit('code of the folder was run')")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no folder", r"folder \S+ does not exist; give the folder that holds config\.json"),
        ("no config", r"config\.json does not exist; give a folder with config\.json and model"),
        ("no json", r"config\.json can't be read .*; give a folder"),
        ("bin", r"holds no model\.safetensors but pytorch_model\.bin, which is not read because"),
        ("code", r"config\.json names code of its own \(auto_map\), which is not run"),
        (
            "type",
            r"config\.json has model_type 'swin', which can't be read; give a model of dinov2",
        ),
        (
            "shape",
            r"Dinov2Model has other shapes of \S+, \S+, \S+; the weights are of another model",
        ),
        (
            "shallower",
            r"the weights have \S+\.2\.\S+, but the configuration has 2 blocks; the weights",
        ),
        ("deeper", r"lacks \S+, \S+, \S+; the weights are of another model than the config"),
        ("patch", r"config\.json: patch_size is \[14, 16\]; it must be a whole number"),
        ("grey", r"num_channels is 1; give a model for images of 3 channels"),
        (
            "positions",
            r"image_size is \[112, 28\]; positions of images that are no squares can't",
        ),
        ("cut", r"the weights can't be read \(.*\); fetch the folder again"),
    ],
)
def test_a_folder_that_cant_be_read_is_refused_with_what_to_do(what, said, written, tmp_path):
    shutil.copytree(written["dinov2"][1], tmp_path / "model")
    spoil(tmp_path / "model", what)
    with pytest.raises(InputError, match=said) as refused:
        vits.imported(tmp_path / "model", tmp_path / "encoder")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "encoder" / "encoder.json").exists()


def changed(folder: Path, to: Path, edit: Callable[..., Any], **config: Any) -> Path:
    """Copy a folder with `edit` of its weights, and with other keys of its configuration."""
    shutil.copytree(folder, to)
    weights = edit(load_file(to / "model.safetensors"))
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    own = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**own, **config}))
    return to


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("dinov2_with_registers", {"model_type": "dinov2"}, r"embeddings\.register_tokens"),
        ("dinov2", {"qkv_bias": False}, r"encoder\.layer\.0\.attention\.\S+\.bias"),
        ("vit", {"qkv_bias": False}, r"layers\.0\.attention\.\S+\.bias"),
        ("dinov3_vit", {"query_bias": False}, r"model\.layer\.0\.attention\.q_proj\.bias"),
    ],
)
def test_weights_that_the_configured_network_would_not_use_are_refused(
    kind, config, said, written, tmp_path
):
    folder = changed(written[kind][1], tmp_path / "model", dict, **config)
    with pytest.raises(InputError, match=rf"the weights have {said}, which \S+ of this config"):
        vits.imported(folder, tmp_path / "encoder")


def test_a_classifier_and_the_numbers_of_patches_may_be_left_out(written, tmp_path):
    further = {
        "classifier.weight": torch.ones(2, 48),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    folder = changed(written["clip"][1], tmp_path / "model", lambda own: {**own, **further})
    plain, found = (
        load_encoder(vits.imported(path, tmp_path / name))
        for path, name in ((written["clip"][1], "a"), (folder, "b"))
    )
    with torch.inference_mode():
        assert torch.equal(plain(images(56, 56)), found(images(56, 56)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_widened_and_not_changed(kind, written, tmp_path):
    def halved(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(kind) for name, value in own.items()}

    def widened(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.float() for name, value in halved(own).items()}

    names = {"dtype": str(kind).removeprefix("torch.")}
    half, wide = (
        load_encoder(
            vits.imported(
                changed(written["dinov2"][1], tmp_path / name, edit, **own), tmp_path / to
            )
        ).state_dict()
        for name, to, edit, own in (("h", "a", halved, names), ("w", "b", widened, {}))
    )
    assert half.keys() == wide.keys()
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, wide[name]), name


def test_quantised_weights_are_refused(written, tmp_path):
    def quantised(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: (100 * value).to(torch.int8) for name, value in own.items()}

    folder = changed(written["dinov2"][1], tmp_path / "model", quantised)
    with pytest.raises(InputError, match=r"has the type I8, and quantised weights can't be read"):
        vits.imported(folder, tmp_path / "encoder")


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit", "siglip", "clip"])
def test_rows_beyond_the_last_whole_patch_change_nothing(kind, written, tmp_path):
    network = load_encoder(vits.imported(written[kind][1], tmp_path))
    x = images(75, 55)
    with torch.inference_mode():
        whole = network.forward_layers(x, ["head"])["head"].cells
        inside = network.forward_layers(x[:, :, :70, :42].contiguous(), ["head"])["head"].cells
    grid = network.grid("head", 75, 55)
    assert (grid.rows, grid.columns) == whole.shape[2:] == (5, 3)
    assert relative(whole, inside) < 1e-5


@pytest.mark.parametrize(
    ("kind", "pooling", "said"),
    [
        ("dinov2", "attention", "no pooling 'attention'; set pooling to mean or cls"),
        ("siglip", "cls", "no pooling 'cls'; set pooling to mean or attention"),
    ],
)
def test_a_pooling_that_a_model_does_not_have_is_refused(kind, pooling, said, written, tmp_path):
    with pytest.raises(InputError, match=said):
        vits.imported(written[kind][1], tmp_path / "encoder", pooling=pooling)


def test_an_edit_of_the_code_that_runs_the_network_changes_the_encoders_description(
    written, tmp_path
):
    described = load_description(vits.imported(written["dinov2"][1], tmp_path))
    assert described.software["transformers"] == library.__version__
    assert len(described.software["mammo_sae.encoders.networks.vit"]) == 32


def test_processes_without_a_vision_transformer_do_not_import_the_library(lite0):
    code = (
        "import sys; from pathlib import Path; import mammo_sae.config, mammo_sae.cli;"
        "from mammo_sae.encoders import extract, finetune, import_encoder;"
        "from mammo_sae.encoders.network import load_encoder;"
        f"load_encoder(Path({lite0.as_posix()!r})); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
