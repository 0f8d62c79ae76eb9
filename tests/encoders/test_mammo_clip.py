from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import efficientnet_pytorch
import numpy as np
import pytest
import torch
from torch import nn

from mammo_sae.encoders import checkpoints, import_encoder
from mammo_sae.encoders.network import load_classifier, load_description, load_encoder
from mammo_sae.encoders.settings import (
    HeadFile,
    MammoClipSource,
    MammoFmSource,
    PretrainedSettings,
    VersaMammoSource,
)
from mammo_sae.errors import InputError

B2 = "efficientnet-b2"


class Classifier(nn.Module):
    """Mammo-CLIP's downstream classifier: image encoder, pooling, linear head."""

    def __init__(self, name: str, outputs: int) -> None:
        super().__init__()
        self.image_encoder = efficientnet_pytorch.EfficientNet.from_name(name, num_classes=1)
        self.classifier = nn.Module()
        channels = self.image_encoder._conv_head.out_channels
        self.classifier.classification_head = nn.Linear(channels, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.image_encoder.extract_features(x).mean((2, 3))
        return self.classifier.classification_head(pooled)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(B2, outputs=1).eval()


@pytest.fixture(scope="module")
def pretraining(model, tmp_path_factory) -> Path:
    """A pretraining checkpoint with all that Mammo-CLIP's trainer saves."""
    path = tmp_path_factory.mktemp("checkpoints") / "b2-model-best-epoch-10.tar"
    optimiser = torch.optim.AdamW(model.parameters())
    encoder = {k: v for k, v in model.state_dict().items() if k.startswith("image_encoder.")}
    torch.save(
        {
            "model": encoder | {"text_encoder.embedding.weight": torch.zeros(3, 4)},
            "optimizer": optimiser.state_dict(),
            "scheduler": {"last_epoch": 10, "base_lrs": [5e-5]},
            "config": {"model": {"image_encoder": {"name": "tf_efficientnetv2-detect"}}},
            "epoch": 10,
            "train_loss": torch.tensor(0.5),
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def downstream(model, tmp_path_factory) -> Path:
    """A classifier's checkpoint with its predictions and score, as NumPy writes them."""
    path = tmp_path_factory.mktemp("checkpoints") / "mass.pth"
    torch.save(
        {
            "model": model.state_dict(),
            "predictions": np.linspace(0, 1, 5, dtype=np.float32),
            "epoch": 3,
            "auroc": np.float64(0.85),
        },
        path,
    )
    return path


def run(directory: Path, path: Path, **changes) -> Path:
    source = MammoClipSource(kind="mammo_clip", architecture=B2, path=str(path))
    import_encoder.run(
        PretrainedSettings(source=source.model_copy(update=changes)),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_a_pretraining_checkpoint_gives_the_features_of_its_image_encoder(
    model, pretraining, tmp_path
):
    network = load_encoder(run(tmp_path / "encoder", pretraining))
    x = torch.randn(1, 3, 152, 91, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.image_encoder.extract_features(x)
        assert relative(network.forward_layers(x, ["head"])["head"].cells, expected) < 1e-5
    description = load_description(tmp_path / "encoder")
    assert description.normalisation.scale == "image"
    assert description.sha256 == checkpoints.sha256(pretraining)
    assert load_classifier(tmp_path / "encoder") is None


def test_a_downstream_checkpoint_gives_the_logits_of_its_classifier(model, downstream, tmp_path):
    directory = run(tmp_path / "encoder", downstream, classifier=("mass",))
    concepts, weight, bias = load_classifier(directory)
    x = torch.randn(2, 3, 152, 91, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = load_encoder(directory)(x) @ weight.T + bias
        assert relative(logits, model(x)) < 1e-5
    assert concepts == ("mass",)


def test_the_classes_of_one_softmax_become_logits_against_their_mean(model, tmp_path):
    torch.manual_seed(1)
    head = nn.Linear(model.classifier.classification_head.in_features, 4)
    state = model.state_dict()
    for part, value in head.state_dict().items():
        state[f"classifier.classification_head.{part}"] = value
    torch.save({"model": state, "epoch": 1}, tmp_path / "density.pth")
    names = tuple(f"density_{letter}" for letter in "abcd")
    directory = run(tmp_path / "encoder", tmp_path / "density.pth", classifier=names)
    concepts, weight, bias = load_classifier(directory)
    assert concepts == names
    pooled = torch.randn(3, head.in_features)
    with torch.no_grad():
        expected, logits = torch.log_softmax(head(pooled), 1), pooled @ weight.T + bias
    assert torch.allclose(logits, expected - expected.mean(1, keepdim=True), atol=1e-5)


COMMAND_LINE = {
    "global": "has an object of",
    "truncated": "is damaged",
    "architecture": "is of efficientnet-b2, not efficientnet-b5",
    "sha256": "has SHA-256",
}


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_the_command_line_refuses_a_bad_checkpoint_in_one_sentence(case, pretraining, tmp_path):
    path, changes = tmp_path / "bad.tar", {}
    if case == "global":
        torch.save({"model": Trap()}, path)
    elif case == "truncated":
        path.write_bytes(pretraining.read_bytes()[:100_000])
    else:
        path = pretraining
        changes = {"architecture": "efficientnet-b5"} if case == "architecture" else {}
        changes |= {"sha256": "0" * 64} if case == "sha256" else {}
    source = {"kind": "mammo_clip", "architecture": B2, "path": str(path), **changes}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mammo_sae", "import-encoder"),
            *("--settings", json.dumps({"kind": "pretrained", "source": source})),
            *("--weights", tmp_path / "out" / "encoder.safetensors"),
            *("--description", tmp_path / "out" / "encoder.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: checkpoint ")
    assert done.stderr.count("\n") == 1
    assert COMMAND_LINE[case] in done.stderr
    assert not (tmp_path / "out").exists()


class Trap:
    def __reduce__(self):
        return eval, ("1",)


@pytest.mark.parametrize(
    ("content", "changes", "complaint"),
    [
        ({"state_dict": {}}, {}, r"holds no tensors, but no _conv_stem\.weight"),
        ([1], {}, "holds a list, no state dict"),
        ({"model": {"image_encoder._conv_stem.weight": torch.zeros(1)}}, {}, "lacks _bn0.weight"),
        ({"model": Trap()}, {}, r"has an object of \S*eval as 'model'"),
        ({"model": {}}, {"sha256": "0" * 64}, "has SHA-256"),
    ],
)
def test_a_bad_checkpoint_is_refused_and_nothing_is_written(tmp_path, content, changes, complaint):
    path = tmp_path / "bad.tar"
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"bad\.tar {complaint}"):
        run(tmp_path / "encoder", path, **changes)
    assert not (tmp_path / "encoder").exists()


def test_a_checkpoint_of_the_other_network_is_refused_by_name(pretraining, tmp_path):
    with pytest.raises(InputError, match=r"is of efficientnet-b2, not efficientnet-b5; correct"):
        run(tmp_path / "encoder", pretraining, architecture="efficientnet-b5")


def test_a_classifier_with_another_number_of_outputs_is_refused(downstream, pretraining, tmp_path):
    with pytest.raises(InputError, match="a classifier of 1 outputs, but classifier names 2"):
        run(tmp_path / "encoder", downstream, classifier=("mass", "cyst"))
    with pytest.raises(InputError, match="a classifier of 0 outputs, but classifier names 1"):
        run(tmp_path / "encoder", pretraining, classifier=("mass",))


def refused(directory: Path, path: Path, said: str, **changes) -> re.Match[str]:
    with pytest.raises(InputError) as error:
        run(directory, path, **changes)
    found = re.search(said, str(error.value))
    assert found, error.value
    return found


def test_the_architecture_that_the_message_names_is_taken(pretraining, tmp_path):
    said = r"is of (\S+), not efficientnet-b5; correct (architecture) or path"
    found = refused(tmp_path / "a", pretraining, said, architecture="efficientnet-b5")
    directory = run(tmp_path / "a", pretraining, **{found[2]: found[1]})
    assert load_description(directory).architecture == B2


def test_as_many_concepts_as_the_message_counts_outputs_are_taken(
    downstream, pretraining, tmp_path
):
    said = r"a classifier of (\d) outputs, but classifier names 2; name one concept per output"
    names = ("mass", "cyst")
    for path, expected in ((downstream, ("mass",)), (pretraining, ())):
        found = refused(tmp_path / path.stem, path, said, classifier=names)
        named = names[: int(found[1])]
        assert named == expected
        directory = run(tmp_path / path.stem, path, classifier=named)
        assert (load_classifier(directory) or ((),))[0] == expected


def test_a_checkpoint_that_is_put_where_the_message_says_is_imported(
    pretraining, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    given = {"hub": "shawn24/Mammo-CLIP/a/b2.tar"}
    said = "fetch it where there is a network and put it at (\\S+)$"
    found = refused(tmp_path / "encoder", tmp_path / "b2.tar", said, **given)
    shutil.copy(pretraining, found[1])
    directory = run(tmp_path / "encoder", tmp_path / "b2.tar", **given)
    assert load_description(directory).sha256 == checkpoints.sha256(pretraining)


def test_the_error_about_a_missing_checkpoint_asks_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    path = tmp_path / "b2.tar"
    with pytest.raises(InputError, match=r"Mammo-CLIP/resolve/main/a/b2\.tar can't be fetched"):
        run(tmp_path / "encoder", path, hub="shawn24/Mammo-CLIP/a/b2.tar")


def other_head(model: Classifier, path: Path, outputs: int, **changed: torch.Tensor) -> nn.Linear:
    """Write a checkpoint of the same image encoder with another classifier."""
    torch.manual_seed(outputs)
    head = nn.Linear(model.classifier.classification_head.in_features, outputs)
    state = model.state_dict() | changed
    for part, value in head.state_dict().items():
        state[f"classifier.classification_head.{part}"] = value
    torch.save({"model": state, "epoch": 1}, path)
    return head


def test_the_classifiers_of_several_files_stand_on_their_one_encoder(model, downstream, tmp_path):
    calcification = other_head(model, tmp_path / "calcification.pth", 1)
    density = other_head(model, tmp_path / "density.pth", 4)
    classes = tuple(f"density_{letter}" for letter in "abcd")
    heads = (
        HeadFile(path=str(tmp_path / "calcification.pth"), classifier=("calcification",)),
        HeadFile(path=str(tmp_path / "density.pth"), classifier=classes),
    )
    directory = run(tmp_path / "encoder", downstream, classifier=("mass",), heads=heads)
    concepts, weight, bias = load_classifier(directory)
    assert concepts == ("mass", "calcification", *classes)
    pooled = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mass = model.classifier.classification_head(pooled)
        softmax = torch.log_softmax(density(pooled), 1)
        expected = torch.cat(
            [mass, calcification(pooled), softmax - softmax.mean(1, keepdim=True)], 1
        )
    assert torch.allclose(pooled @ weight.T + bias, expected, atol=1e-5)


def test_a_classifier_of_another_encoder_is_refused_and_the_way_out_leads_out(
    model, downstream, tmp_path
):
    key = "image_encoder._bn1.running_mean"
    path = tmp_path / "other.pth"
    other_head(model, path, 1, **{key: model.state_dict()[key] + 1})
    heads = (HeadFile(path=str(path), classifier=("calcification",)),)
    with pytest.raises(
        InputError, match=r"other\.pth holds another image encoder than .*mass\.pth"
    ):
        run(tmp_path / "encoder", downstream, classifier=("mass",), heads=heads)
    assert not (tmp_path / "encoder").exists()
    run(tmp_path / "encoder", path, classifier=("calcification",))


def test_a_concept_of_two_classifiers_is_refused():
    with pytest.raises(ValueError, match="classifier and heads name mass twice"):
        MammoClipSource(
            kind="mammo_clip",
            path="a.pth",
            classifier=("mass",),
            heads=(HeadFile(path="b.pth", classifier=("mass",)),),
        )


def test_terms_and_training_data_are_the_publishers(pretraining, downstream, tmp_path):
    mine = load_description(run(tmp_path / "a", pretraining))
    assert mine.licence.startswith("CC BY-NC-SA 4.0")
    assert "commercial" in mine.forbids
    assert "VinDr" not in mine.data
    assert "VinDr" in load_description(run(tmp_path / "b", downstream)).data
    content = torch.load(pretraining, weights_only=True)
    content["config"]["data_train"] = {"upmc_wo_period": {}, "vindr_wo_period": {}}
    torch.save(content, tmp_path / "c.tar")
    assert "names VinDr-Mammo" in load_description(run(tmp_path / "c", tmp_path / "c.tar")).data


def test_a_file_of_mammo_fm_is_read_under_its_own_terms(tmp_path):
    encoder = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b5", num_classes=1)
    state = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"model": state | {"text_encoder.a": torch.zeros(1)}}, tmp_path / "fm.tar")
    source = MammoFmSource(kind="mammo_fm", path=str(tmp_path / "fm.tar"))
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=tmp_path / "encoder" / "encoder.safetensors",
        description=tmp_path / "encoder" / "encoder.json",
    )
    description = load_description(tmp_path / "encoder")
    assert description.source == "Mammo-FM, fm.tar"
    assert "redistribution" in description.forbids
    assert description.data.startswith("821,326 mammograms of 140,677 patients")


def test_a_file_of_versamammo_is_read_under_its_own_terms(tmp_path):
    encoder = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b5", num_classes=1)
    state = {f"module.image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(state, tmp_path / "v.pth")
    source = VersaMammoSource(kind="versamammo", path=str(tmp_path / "v.pth"))
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=tmp_path / "encoder" / "encoder.safetensors",
        description=tmp_path / "encoder" / "encoder.json",
    )
    description = load_description(tmp_path / "encoder")
    assert description.source == "VersaMammo, v.pth"
    assert description.licence.startswith("none stated")
    assert "EMBED, RSNA and VinDr-Mammo" in description.data
    assert description.sha256 == checkpoints.sha256(tmp_path / "v.pth")


@pytest.mark.parametrize(
    ("path", "hub", "seen"),
    [
        ("b5-model-best-epoch-7.tar", None, False),
        ("b5.tar", "shawn24/Mammo-CLIP/pre_train_b5_w_vindr_clip/b5.tar", True),
        ("mass.pth", None, True),
    ],
)
def test_a_file_name_shows_whether_vindr_was_in_the_training_data(path, hub, seen):
    source = MammoClipSource(kind="mammo_clip", path=path, hub=hub)
    assert ("vindr" in source.seen) == ("mammo_clip" in source.seen) == seen
