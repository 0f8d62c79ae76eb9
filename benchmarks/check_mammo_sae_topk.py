"""Compare the scores of Mammo-SAE's own top-k scripts with our tables, for the same latents.

    git clone https://github.com/krishnakanthnakka/MammoSAE
    python benchmarks/check_mammo_sae_topk.py MammoSAE [--peers DIR]

The script writes files in the published layouts, with random weights instead of published ones:
PNGs of a phantom with `vindr_detection_v1_folds.csv`, a B2 classifier of Suspicious Calcification,
a B2 classifier of density, and an SAE. In the environment of the other libraries (that of
published_checkpoints.py), Mammo-SAE's scripts score every k that they name, on the CPU. They use
two rankings:

- `repository` is written by their function `find_top_concepts_by_class`. It is compared with our
  group `class_union`.
- `published` is the ranking of the files in their repository: each class's mean minus the mean of
  all rows. It is compared with our group `both_ends`, and for density with our table `classes`.

Our tables come from a run of config/reproduce.yaml on the same files. The script also compares the
paper's numbers in the table `published` with the result files in their repository.

Their scripts run once as they are (calcification, `published`). In all other runs, called rounded,
three things are changed, because otherwise small errors change the order of rows:

- Our stores keep cells in float16, and their SAE gets float32. Their cells are rounded to float16.
- They rank sigmoids in float32, which are 1 for every logit above 17. The sigmoid is replaced by a
  function that does not saturate. It has the same order and is also 0.5 for a logit of 0.
- They encode an image once per row, so the scores of its rows differ by float32 noise. In our
  tables these scores are equal. Each row gets the mean score of its image.

Only the rounded runs must give our numbers.

A k is compared only if the first k latents of every class fired in training. All other latents have
equal scores, so their order is arbitrary.

The script prints the largest difference of codes, and of each score over the compared k. It ends
with status 1 if a difference of codes or of a rounded run exceeds 1e-6, if a group has another
number of latents, or if a published number differs from their files.
"""

from __future__ import annotations

import argparse
import enum
import hashlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

PROJECT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 192, 128
CHANNELS, EXPANSION = 1408, 2  # channels of a B2; latents per channel
ALIVE = 0.3  # share of the latents that are not dead
FIRING = 0.015  # share of the cells in which such a latent fires
TOLERANCE = 1e-6
# Largest sum of centred class means, relative to a class's own sum. Over all 16,391 rows it would
# be 4e-4.
CENTRED = 1e-4
CALCIFICATION, DENSITY = "Suspicious_Calcification", "density"
CLASSES = {CALCIFICATION: 2, DENSITY: 4}
CONCEPTS = {
    CALCIFICATION: {"suspicious_calcification": "Suspicious Calcification"},
    DENSITY: {f"density_{letter.lower()}": f"DENSITY {letter}" for letter in "ABCD"},
}
ENCODERS = {CALCIFICATION: "finetuned_calcification", DENSITY: "finetuned_density"}
# Name of a score in their files -> our column.
SCORES = {
    CALCIFICATION: {
        "aucroc": "auroc", "auprc": "auprc", "precision": "precision", "recall": "recall",
        "f1": "f1",
    },
    DENSITY: {"accuracy": "accuracy", "f1": "macro_f1"},
}  # fmt: skip
GROUPS = {"repository": "class_union", "published": "both_ends"}
ROUNDED, AS_THEY_ARE = "rounded", "as they are"
RUNS = [
    (AS_THEY_ARE, CALCIFICATION, "published"),
    (ROUNDED, CALCIFICATION, "published"),
    (ROUNDED, CALCIFICATION, "repository"),
    (ROUNDED, DENSITY, "published"),
]
# Paths at which their scripts look for files.
PRETRAINED = Path("Mammo-CLIP_weights/b5-model-best-epoch-7.tar")
SAE = "sparse_autoencoder_final.pt"
CODES = "codes.pt"
SCRIPT = "latent_neuron_intervention_class_wise_topk{mode}.py"
STUBS = (  # modules that their code imports and that are not used here
    "ftfy",
    "lib.Datasets.dataset_utils",
    "lib.clip",
    "scripts",
    "scripts.lib",
    "scripts.lib.load_image_dataset",
    "timm",
    "torchvision",
    "torchvision.models",
    "torchvision.models.resnet",
    "transformers",
)


def main() -> None:
    """Run their scripts, run our workflow, and compare the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("code", type=Path, help="a clone of their repository")
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    code = arguments.code.resolve()
    if arguments.theirs:
        theirs(code, arguments.theirs)
        return
    agree = figures_agree(code / "results")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "datasets" / "VinDr")
        python = str(arguments.peers.absolute() / "bin/python")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [python, __file__, str(code), "--theirs", name],
            env=environment | {"TQDM_DISABLE": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found = json.loads((folder / "theirs.json").read_text())
        agree &= codes_agree(folder)
        agree &= scores_agree(found, run_ours(folder))
    sys.exit(not agree)


def write_images(folder: Path) -> None:
    """Write PNGs and their table of findings. Some rows of an image contradict each other."""
    from mammo_sae.phantom import archive
    from mammo_sae.phantom.settings import PhantomSettings

    sys.path.insert(0, str(PROJECT / "tests"))
    from mammo_clip_form import write_mammo_clip_form

    settings = PhantomSettings.model_validate(
        {
            "height": 240,
            "width": 160,
            "patients": {"training": 36, "test": 60, "external": 1},
            "prevalence": {"mass": 0.3, "suspicious_calcification": 0.5},
            "density": dict.fromkeys("ABCD", 0.25),
        }
    )
    vindr = folder.with_name("dicom")
    (vindr / "images").mkdir(parents=True)
    tables: dict[str, list[pd.DataFrame]] = {}
    for part in ("training", "test"):
        aside = folder.with_name(part)
        archive.run(settings.part(part), aside, folder.with_name(f"{part}.json"))
        for study in (aside / "images").iterdir():
            study.rename(vindr / "images" / study.name)
        for name in ("breast-level_annotations", "finding_annotations"):
            tables.setdefault(name, []).append(pd.read_csv(aside / f"{name}.csv"))
    findings = pd.concat(tables["finding_annotations"])
    found = findings[findings["finding_categories"].str.contains("Suspicious")]
    second = found.groupby("split").head(6).assign(finding_categories="['Asymmetry']")
    # Their loop ends with an error if the last batch of 8 has only one row.
    of_test = int((pd.concat([findings, second])["split"] == "test").sum())
    second = second.iloc[: len(second) - (of_test % 8 == 1)]
    pd.concat([findings, second]).to_csv(vindr / "finding_annotations.csv", index=False)
    pd.concat(tables["breast-level_annotations"]).to_csv(
        vindr / "breast-level_annotations.csv", index=False
    )
    write_mammo_clip_form(vindr, folder, height=HEIGHT, width=WIDTH)


def run_ours(folder: Path) -> dict[str, pd.DataFrame]:
    """Run config/reproduce.yaml on their files; return the tables of interventions and classes."""
    sae = folder / SAE
    draws = {"bootstrap_draws": 20}
    overlay: dict[str, Any] = {
        "name": "topk",
        "cohort": {
            "source": str(folder / "datasets" / "VinDr"),
            "shards": 1,
            "concepts": {"mass": None, **CONCEPTS[CALCIFICATION], **CONCEPTS[DENSITY]},
        },
        "images": {"height": HEIGHT, "width": WIDTH},
        "encoders": {
            "pretrained_calcification": None,
            **{
                encoder: {
                    "kind": "pretrained",
                    "source": {
                        "kind": "mammo_clip",
                        "architecture": "efficientnet-b2",
                        "path": str(folder / f"{label}.pth"),
                        "classifier": [*CONCEPTS[label]],
                    },
                }
                for label, encoder in ENCODERS.items()
            },
        },
        "evaluation": draws,
        "saes": {
            "mammo_sae": {
                "variant": {
                    "path": str(sae),
                    "sha256": hashlib.sha256(sae.read_bytes()).hexdigest(),
                }
            }
        },
        "sae_quality": draws,
        "latents": draws | {"permutation_draws": 99},
        "interventions": draws | {"random_sets": 1},
        "report": {"published": None},
    }
    (folder / "ours.yaml").write_text(json.dumps(overlay))
    names = ("interventions", "classes")
    tables = [f"results/topk/tables/{name}.parquet" for name in names]
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--quiet", "all", "--cores", "all",
         "--snakefile", str(PROJECT / "Snakefile"), "--directory", str(folder), *tables,
         "--configfile", str(PROJECT / "config" / "reproduce.yaml"), str(folder / "ours.yaml")],
        check=True,
    )  # fmt: skip
    return {name: pd.read_parquet(folder / path) for name, path in zip(names, tables, strict=True)}


def codes_agree(folder: Path) -> bool:
    """Print the differences of codes and reconstructions. Return whether they are small enough."""
    from mammo_sae.sae.formats.published import read_published
    from mammo_sae.sae.model import Encoder
    from mammo_sae.sae.settings import PublishedVariant

    path = folder / SAE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sae = read_published(PublishedVariant(path=str(path), sha256=digest))
    judged = torch.load(folder / CODES, weights_only=True)
    index, value = Encoder(sae)(judged["cells"])
    codes = torch.zeros_like(judged["codes"]).scatter_add(1, index, value)
    ours = {"codes": codes, "reconstruction": sae.decode(index, value)}
    worst = {
        name: float((found - judged[name]).abs().max() / judged[name].abs().max())
        for name, found in ours.items()
    }
    other = int(((codes > 0) != (judged["codes"] > 0)).sum())
    told = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    print(f"SAE: {told}, support {other} of {int((judged['codes'] > 0).sum())}")
    return max(worst.values()) <= TOLERANCE


def scores_agree(found: list[dict[str, Any]], ours: dict[str, pd.DataFrame]) -> bool:
    """Print the differences of scores. Return whether those of rounded runs are small enough."""
    agree = True
    for (precision, label, ranking), theirs in zip(RUNS, found, strict=True):
        if label == DENSITY:
            table = ours["classes"]
        else:
            table = ours["interventions"]
            table = table[
                (table["concept"] == "suspicious_calcification")
                & (table["ranking"] == GROUPS[ranking])
                & (table["splice"] == "spliced")
            ]
        table = table[(table["encoder"] == ENCODERS[label]) & (table["split"] == "test")]
        for mode in ("on", "off"):
            rows = table[table["mode"] == mode].set_index("k")
            differences = dict.fromkeys(SCORES[label], 0.0)
            sizes = compared = 0
            for k, row in theirs[mode]:
                if theirs["ordered"] < k < CHANNELS * EXPANSION:
                    continue
                compared += 1
                own = rows.loc[min(k, rows.index.max())]
                latents = own["latents_kept"]
                if mode == "off":
                    latents = rows["latents_kept"].max() - latents
                sizes += latents != row["topk"]
                for score, column in SCORES[label].items():
                    # If no row is called positive, their precision is 0 and ours is missing.
                    undefined = column == "precision" and np.isnan(own[column])
                    value = 0.0 if undefined else own[column]
                    value *= 100 if score == "accuracy" else 1
                    differences[score] = np.maximum(differences[score], abs(value - row[score]))
            told = ", ".join(f"{score} {value:.1e}" for score, value in differences.items())
            print(
                f"{label}, {ranking}, {mode}, {precision}: {told}, {sizes} groups of another "
                f"size; {compared} of {len(theirs[mode])} k compared, since {theirs['ordered']} "
                "latents rank before one that never fired"
            )
            if precision == ROUNDED:
                agree &= sizes == 0 and all(of <= TOLERANCE for of in differences.values())
    return bool(agree)


def figures_agree(results: Path) -> bool:
    """Compare the numbers of the table `published` with their result files, and print differences.

    Return whether all are equal.
    """
    from mammo_sae.report import published

    named = {"mass": "Mass", "suspicious_calcification": "Suspicious_Calcification"}
    wrong = []
    for (model, concept), figures in published.SPLICED.items():
        for used, figure in zip((False, True), figures, strict=True):
            path = results / "sae_performance" / f"{named[concept]}_{model}_use_sae={used}"
            if round(json.loads(path.read_text())["aucroc"], 4) != figure:
                wrong.append(path.name)
    here = results / "topk_on_intervention"
    (path,) = here.glob("topk_on_intervention_Suspicious_Calcification_finetuned/*.json")
    scored = json.loads(path.read_text())
    kept = {row["topk"] // 2: round(row["aucroc"], 3) for row in scored}
    if kept != published.TOP_K or round(scored[0]["auprc"], 6) != published.AUPRC_WITHOUT_LATENTS:
        wrong.append("top-k on")
    rankings = {
        (model, concept): [
            pd.DataFrame(json.loads((results / "class_wise_concepts" / "train" /
                f"top_k_concepts_class={place}_{named[concept]}_{model}.json").read_text()))
            .set_index("index")["importance"].sort_index() for place in (0, 1)
        ]
        for model, concept in published.SPLICED
    }  # fmt: skip
    counts = [int((scores > 0).sum()) for pair in rankings.values() for scores in pair]
    if (min(counts), max(counts)) != published.ABOVE_ALL:
        wrong.append("latents above the mean of all images")
    tops = [set(rankings["finetuned", concept][1].nlargest(published.TOP).index)
            for concept in named]  # fmt: skip
    if len(tops[0] & tops[1]) != published.SHARED:
        wrong.append("latents shared")
    for (model, concept), (negative, positive) in rankings.items():
        # If their means are over the training rows in whole batches of 8, the centred sums of both
        # classes add up to 0.
        positives = published.POSITIVE[concept]["training"]
        rows = published.ROWS["training"] // 8 * 8
        left = ((rows - positives) * negative + positives * positive).abs().max()
        left /= positives * positive.abs().max()
        print(f"{model} {concept}, {rows} rows: both classes' sums add up to {left:.0e}")
        if left > CENTRED:
            wrong.append("centring over whole batches")
    print(f"published numbers that differ from their files: {', '.join(wrong) or 'none'}")
    return not wrong


# The code below runs in the environment of the other libraries.


def theirs(code: Path, folder: Path) -> None:
    """Write weights and rankings, run their scripts in `folder`, and write their scores."""
    prepare(code)
    os.chdir(folder)
    sys.argv = ["", "--label", CALCIFICATION]
    script = runpy.run_path(str(code / "lib/intervention" / SCRIPT.format(mode="on")))
    write_weights(script)
    from lib.configs.ckpt_dict import ckpt_dict

    ckpt_dict["finetuned"].update({label: f"{label}.pth" for label in CLASSES})
    found = []
    for place, (precision, label, ranking) in enumerate(RUNS):
        if precision == ROUNDED and RUNS[place - 1][0] == AS_THEY_ARE:
            round_what_they_compare(script["SparseAutoencoder"])
        of: dict[str, Any] = {"ordered": write_ranking(script, label, ranking)}
        found.append(of | {mode: scores(code, mode, label) for mode in ("on", "off")})
    Path("theirs.json").write_text(json.dumps(found))


def prepare(code: Path) -> None:
    """Make their modules importable, and let `.cuda()` do nothing."""
    # Names of axes, which only annotations in their code use.
    strenum = types.ModuleType("strenum")
    strenum.LowercaseStrEnum = enum.StrEnum  # type: ignore[attr-defined]
    strenum.SnakeCaseStrEnum = enum.StrEnum  # type: ignore[attr-defined]
    # Augmentations of the training loader, which is created but not used.
    albumentations = types.ModuleType("albumentations")
    for name in ("Compose", "HorizontalFlip", "VerticalFlip", "Affine", "ElasticTransform"):
        setattr(albumentations, name, mock.MagicMock())
    sys.modules |= {"strenum": strenum, "albumentations": albumentations}
    sys.path[:0] = [str(code), str(code / "lib"), str(code / "lib/sparse_autoencoder")]
    # This package imports libraries that look for torchvision, so it is imported before the stubs.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import sparse_autoencoder  # noqa: F401

    sys.modules |= {name: mock.MagicMock() for name in STUBS}
    # These packages are created without their __init__, which imports the training code.
    for name in ("lib.breastclip", "lib.breastclip.model"):
        package = types.ModuleType(name)
        package.__path__ = [str(code / name.replace(".", "/"))]
        sys.modules[name] = package
    from lib.breastclip.model.modules import efficientnet_custom
    from lib.dncbm import config, utils

    network = efficientnet_custom.EfficientNet
    network.from_pretrained = classmethod(lambda cls, name, **named: cls.from_name(name, **named))
    config.autoencoder_input_dim_dict["efficientb5_layer_39"] = CHANNELS
    utils.hf_hub_download = lambda filename, **_: filename
    torch.nn.Module.cuda = lambda self, *_: self
    torch.Tensor.cuda = lambda self, *_: self


def write_weights(script: dict[str, Any]) -> None:
    """Write the pretraining checkpoint, two classifiers and the SAE, all with random weights.

    Statistics, atoms and heads are computed from the images.
    """
    torch.manual_seed(0)
    config = {"model": {"image_encoder": {"source": "cnn", "name": "tf_efficientnetv2-detect"}}}
    encoders = {
        label: script["load_image_encoder"](config["model"]["image_encoder"]) for label in CLASSES
    }
    maps, labels = {}, {}
    for label, encoder in encoders.items():
        rows = list(training_rows(script, label))
        labels[label] = torch.cat([of for _, of in rows])
        set_statistics(encoder, [images for images, _ in rows[:4]])
        maps[label] = torch.cat([feature_map(encoder, images) for images, _ in rows])
    sae = script["SparseAutoencoder"](
        n_input_features=CHANNELS, n_learned_features=CHANNELS * EXPANSION, n_components=1
    )
    sae.load_state_dict(drawn_sae(sae, torch.cat([cells_of(of) for of in maps.values()])))
    torch.save(sae.state_dict(), SAE)
    with torch.no_grad():
        cells = cells_of(maps[DENSITY])[:2000]
        codes, reconstruction = (of.squeeze(1) for of in sae(cells))
    torch.save({"cells": cells, "codes": codes, "reconstruction": reconstruction}, CODES)
    for label, encoder in encoders.items():
        with torch.no_grad():
            rebuilt = sae(cells_of(maps[label]))[1].reshape(len(maps[label]), -1, CHANNELS).mean(1)
        pooled = maps[label].mean((2, 3))
        places = range(CLASSES[label]) if CLASSES[label] > 2 else (1,)
        means = [pooled[labels[label] == place].mean(0) for place in places]
        weight = torch.stack(means) - pooled.mean(0)
        weight *= 2 / (rebuilt @ weight.T).std()
        head = {"weight": weight, "bias": -(rebuilt @ weight.T).median(0).values}
        model = {f"image_encoder.{name}": of for name, of in encoder.state_dict().items()}
        whole = model | {f"classifier.classification_head.{name}": of for name, of in head.items()}
        torch.save({"model": whole, "predictions": np.zeros(4), "epoch": 3}, f"{label}.pth")
    PRETRAINED.parent.mkdir()
    torch.save({"model": model, "config": config, "epoch": 7}, PRETRAINED)


def set_statistics(encoder: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    """Give every BatchNorm the mean and variance that it sees in the batches."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # all batches count equally
    for images in batches:
        feature_map(encoder.train(), images)
    encoder.eval()


@torch.no_grad()
def feature_map(encoder: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the map [n, d, rows, columns] that their hook sees."""
    return encoder({"image": images, "breast_clip_train_mode": True})[1]


def cells_of(maps: torch.Tensor) -> torch.Tensor:
    """Return the cells [n * rows * columns, d] of maps [n, d, rows, columns]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, CHANNELS)


def drawn_sae(sae: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return an SAE's state dict in their format. Atoms are random cells, most latents are dead."""
    h = CHANNELS * EXPANSION
    mean = x.mean(0)
    atoms = x[torch.randint(len(x), (h,))] - mean
    atoms /= atoms.norm(dim=1, keepdim=True)
    some = x[torch.randperm(len(x))[:4000]] - mean
    bias = -torch.quantile(some @ atoms.T, 1 - FIRING, dim=0)
    bias[torch.rand(h) > ALIVE] = -1e6
    drawn = {
        **dict.fromkeys(
            ("tied_bias", "pre_encoder_bias._bias_reference", "post_decoder_bias._bias_reference"),
            mean,
        ),
        "encoder._weight": atoms,
        "encoder._bias": bias,
        "decoder._weight": atoms.T.contiguous(),
    }
    assert drawn.keys() == sae.state_dict().keys()
    return {name: value[None] for name, value in drawn.items()}


def round_what_they_compare(sae: type[torch.nn.Module]) -> None:
    """Round an SAE's cells to float16, and rank the mean score of each image, not sigmoids.

    Logits have one axis [n]. The sigmoids within the network have more axes and stay as they are.
    """
    from lib.metrics import metrics
    from sklearn import metrics as measures

    forward, sigmoid = sae.forward, torch.Tensor.sigmoid
    auroc, auprc = metrics.auroc, measures.average_precision_score

    def squashed(logits: torch.Tensor) -> torch.Tensor:
        x = logits.double()
        return 0.5 + 0.5 * x / (1 + x.abs())

    def ranked(scores: np.ndarray) -> np.ndarray:
        # Their function, which calls `auroc` or `auprc`, has the path of each row's image.
        paths = sys._getframe(2).f_locals["img_paths_all"]
        return pd.Series(scores).groupby(np.asarray(paths)).transform("mean").to_numpy()

    sae.forward = lambda self, x: forward(self, x.half().float())
    torch.Tensor.sigmoid = lambda self: squashed(self) if self.dim() == 1 else sigmoid(self)
    metrics.auroc = lambda labels, scores: auroc(labels, ranked(scores))
    measures.average_precision_score = lambda labels, scores: auprc(labels, ranked(scores))


def training_rows(script: dict[str, Any], label: str):
    """Yield images [n, 3, rows, columns] and labels [n] of the training rows, as their loader does.

    The images are not augmented, and the rows are in the table's order.
    """
    table = pd.read_csv("datasets/VinDr/vindr_detection_v1_folds.csv").fillna(0)
    data = script["MammoDataset"](
        None, table[table["split"] == "training"], data_dir="datasets/VinDr", img_dir="images_png",
        dataset="ViNDr", label=label, arch="upmc_breast_clip_det_b5_period_n_ft", mean=0.3089279,
        std=0.25053555408335154,
    )  # fmt: skip
    collate = script["collator_mammo_dataset_w_concepts"]
    for batch in torch.utils.data.DataLoader(data, batch_size=16, collate_fn=collate):
        yield batch["x"].squeeze(1).permute(0, 3, 1, 2), batch["y"]


def write_ranking(script: dict[str, Any], label: str, ranking: str) -> int:
    """Write each class's ranking where their scripts look for it.

    Return the number of latents before the first one that never fired, the smallest over classes.
    """
    from sae_training.analyse_concepts import find_top_concepts_by_class

    ckpt = torch.load(PRETRAINED, weights_only=False)
    outputs = CLASSES[label] if CLASSES[label] > 2 else 1
    model = script["BreastClipClassifier"](ckpt, outputs, "tf_efficientnetv2-detect").eval()
    model.load_state_dict(torch.load(f"{label}.pth", weights_only=False)["model"])
    sae = script["SparseAutoencoder"](
        n_input_features=CHANNELS, n_learned_features=CHANNELS * EXPANSION, n_components=1
    )
    sae.load_state_dict(torch.load(SAE))
    codes, labels = [], []
    with torch.no_grad():
        for images, of in training_rows(script, label):
            cells = cells_of(feature_map(model.image_encoder, images))
            codes.append(sae(cells)[0].reshape(len(images), -1, CHANNELS * EXPANSION).mean(1))
            labels.append(of)
    data = {"sae_concepts": torch.cat(codes), "labels": torch.cat(labels)}
    wanted = Path("results/class_wise_concepts/train")
    wanted.mkdir(parents=True, exist_ok=True)
    never = set(np.flatnonzero(~data["sae_concepts"].numpy().any(axis=0)).tolist())
    ordered = CHANNELS * EXPANSION
    for place in range(CLASSES[label]):
        path = wanted / f"top_k_concepts_class={place}_{label}_finetuned.json"
        if ranking == "repository":
            find_top_concepts_by_class(data, place, "ranked", "train")
            made = Path(f"ranked/class_wise_concepts/train/top_k_concepts_class={place}.json")
            made.rename(path)
        else:
            centred = data["sae_concepts"][data["labels"] == place].mean(0)
            centred = centred - data["sae_concepts"].mean(0)
            value, index = centred.sort(descending=True)
            rows = zip(index.tolist(), value.tolist(), strict=True)
            path.write_text(json.dumps([{"index": i, "importance": v} for i, v in rows]))
        idle = [row["index"] in never for row in json.loads(path.read_text())]
        ordered = min(ordered, [*idle, True].index(True))
    return ordered


def scores(code: Path, mode: str, label: str) -> list[tuple[int, dict[str, float]]]:
    """Run one of their scripts. Return (k, its scores) for every k that the script names."""
    sys.argv = [
        "", "--label", label, "--sae_layer", "39", "--split", "val", "--split_for_top_concepts",
        "train", "--num_images", "-1", "--expansion_factor", str(EXPANSION), "--sae_dataset",
        "vindr", "--img_enc_name", "efficientb5", "--hook_points", "layer_39", "--checkpoint_mode",
        "finetuned", "--device", "cpu",
    ]  # fmt: skip
    path = code / "lib/intervention" / SCRIPT.format(mode=mode)
    script = runpy.run_path(str(path), run_name="__main__")
    folder = Path(f"results/topk_{mode}_intervention/topk_{mode}_intervention_{label}_finetuned")
    (path,) = folder.glob("*.json")
    found = list(zip(script["topks"], json.loads(path.read_text()), strict=True))
    path.unlink()
    return found


if __name__ == "__main__":
    main()
