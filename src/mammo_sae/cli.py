"""The command line: one verb per step of the workflow, and a few for people.

Each verb reads its slice of the configuration (`--settings`: JSON text, or `@` and a file) and
the paths of its inputs and outputs, so every step runs without Snakemake too. `slice` prints the
settings of a step for a configuration::

    .venv/bin/python -m mammo_sae slice train_sae layer=head sae=topk seed=0 --configfile mine.yaml
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from mammo_sae.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What a mammography foundation model has learnt: every step of the workflow as a verb.",
)

SettingsText = Annotated[
    str, typer.Option("--settings", help="The step's settings: JSON, or @FILE with JSON.")
]
Run = Annotated[
    tuple[str, str, str, int],
    typer.Option("--run", metavar="ENCODER LAYER SAE SEED", help="Which SAE this is about."),
]
Images = Annotated[Path, typer.Option("--images", help="The cohort's image table (.parquet).")]
Codes = Annotated[Path, typer.Option("--codes", help="Manifest of the codes (.json).")]
Latents = Annotated[Path, typer.Option("--latents", help="Table written by `probing`.")]
Output = Annotated[Path, typer.Option("--output", help="Table to write (.parquet).")]
Picture = Annotated[Path, typer.Option("--output", help="Figure to write (.png).")]
Concept = Annotated[str, typer.Option("--concept", help="Name of the concept.")]
ShownSplit = Annotated[str, typer.Option("--split", help="The split whose images are shown.")]
Store = Annotated[Path, typer.Option("--store", help="Store to write.")]
Manifest = Annotated[Path, typer.Option("--manifest", help="Manifest to write (.json).")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads to use.")]
Layer = Annotated[str, typer.Option("--layer", help="Name of the layer: blocks.N, head, pooled.")]
Concepts = Annotated[str, typer.Option("--concepts", help="Names of the concepts, with commas.")]
Manifests = Annotated[list[Path], typer.Argument(help="Manifests (.json) of all shards.")]
ImageStores = Annotated[
    list[Path] | None,
    typer.Option("--image-store", help="Manifest of an image store; once per shard."),
]
Masks = Annotated[
    list[Path], typer.Option("--image-store", help="Manifest of an image store; once per shard.")
]
Sources = Annotated[list[Path], typer.Argument(help="Folders of the source archive.")]

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--configfile",
        help="Configuration (.yaml), as Snakemake takes it; again for one laid over it. None: the "
        "default, config/config.yaml.",
    ),
]

# What is wrong with the machine and not with the program, and what to do.
ENVIRONMENT_ERRORS = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room within your quota and run again",
    errno.EACCES: "get permission to write there and run again",
    errno.EROFS: "write the results elsewhere (key `results`)",
}


def main() -> None:
    """Run the command line; a wrong input ends it with one sentence and status 1."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        said = _out_of_memory(error, sys.argv[1])
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; {ENVIRONMENT_ERRORS[error.errno]}", file=sys.stderr)
        sys.exit(1)


# What makes a step take less of a GPU's memory.
LESS_MEMORY = {
    "train-sae": "lower the SAE's `buffer` or `batch`",
    "finetune": "halve the recipe's `batch_size` and double its `accumulate`",
}


def _out_of_memory(error: Exception, verb: str) -> str | None:
    """Return what to do when memory was not enough, or None if that is not what is wrong."""
    if isinstance(error, MemoryError):
        return f"{verb}: memory is not enough; run it where there is more (on SLURM: mem_mb)"
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return None
    advice = f"{LESS_MEMORY[verb]}, or run" if verb in LESS_MEMORY else "run"
    return f"{verb}: the GPU's memory is not enough; {advice} it on a GPU with more"


def _settings(step: str, text: str) -> Any:
    from mammo_sae.settings import parse_settings
    from mammo_sae.steps import STEPS

    if text.startswith("@"):
        file = Path(text[1:])
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"settings {file} can't be read: {error.strerror}") from None
    return parse_settings(STEPS[step].settings, text, f"settings of {step}")


def _run(step: str, settings: str | None, *, inputs: Sequence[Path] = (), **arguments: Any) -> None:
    """Call the `run` of a step's module; `inputs` are the files its provenance names."""
    from mammo_sae.settings import canonical_json
    from mammo_sae.steps import STEPS

    run = import_module(STEPS[step].module).run
    if settings is not None:
        arguments["settings"] = _settings(step, settings)
    provenance = _provenance(step, canonical_json(arguments.get("settings", {})), inputs)
    if "provenance" in signature(run).parameters:
        arguments["provenance"] = provenance
    run(**arguments)
    _record(step, provenance, arguments)


def _pairs(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    pairs = [text.split("=") for text in texts]
    for text, pair in zip(texts, pairs, strict=True):
        if len(pair) != 2:
            raise InputError(f"{option}: {text!r} is not {form}; give it in that form")
    return dict(pairs)


def _record(step: str, provenance: Any, arguments: Mapping[str, Any]) -> None:
    """Leave a record beside what the step has written; files among `arguments` were its inputs."""
    from mammo_sae.cohorts.pseudonyms import without_paths
    from mammo_sae.digests import packages
    from mammo_sae.records import write_record
    from mammo_sae.steps import STEPS
    from mammo_sae.stores.publish import PUBLISHED

    outputs = [path for path in PUBLISHED if path.is_file()]
    values = (v.values() if isinstance(v, Mapping) else [v] for v in arguments.values())
    flat = (item for group in values for v in group for item in (v if isinstance(v, list) else [v]))
    given = [path for path in flat if isinstance(path, Path) and path not in outputs]
    about = without_paths(provenance).model_dump(mode="json")
    about["inputs"] |= _digests(given)
    if outputs:
        write_record(outputs, about, packages(*STEPS[step].modules(provenance.config)))


def _provenance(step: str, settings: str, inputs: Sequence[Path]) -> Any:
    from mammo_sae.provenance import Provenance
    from mammo_sae.steps import STEPS

    digest = STEPS[step].digest(settings)
    return Provenance(step=step, config=settings, code=digest, inputs=_digests(inputs))


def _code(step: str, settings: Any) -> str:
    """Return the digest of the code that a step runs with `settings`."""
    from mammo_sae.settings import canonical_json
    from mammo_sae.steps import STEPS

    return STEPS[step].digest(canonical_json(settings))


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their paths; of a model's folder or description, all of it."""
    from mammo_sae.stores.checksums import file_digest

    digests = {}
    for path in dict.fromkeys(file for given in paths for file in _files(given)):
        digests[os.path.relpath(path)] = file_digest(path)
    return digests


def _files(path: Path) -> list[Path]:
    """Return the file itself, and of a model (`encoder`, `head`, `sae`) description and weights."""
    for kind in ("encoder", "head", "sae"):
        description = path / f"{kind}.json" if path.is_dir() else path
        if description.name == f"{kind}.json" and description.is_file():
            weights = description.with_suffix(".safetensors")
            return [description, *([weights] if weights.is_file() else [])]
    return [path] if path.is_file() else []


def _identity(run: tuple[str, str, str, int]) -> Any:
    from mammo_sae.analysis.cases import Identity

    return Identity(*run)


@app.command()
def phantom(
    settings: SettingsText,
    archive: Annotated[Path, typer.Option(help="Archive to write.")],
    manifest: Manifest,
    threads: Threads = 1,
) -> None:
    """Write one part of the phantom archive: DICOM files, annotation tables, masks, truth."""
    _run("phantom", settings, out=archive, manifest=manifest, threads=threads)


@app.command()
def cohort(
    settings: SettingsText,
    sources: Sources,
    images: Annotated[Path, typer.Option(help="Image table to write (.parquet).")],
    findings: Annotated[Path, typer.Option(help="Findings table to write (.parquet).")],
    summary: Annotated[Path, typer.Option(help="Counts to write (.json).")],
) -> None:
    """Read an archive's annotations into the two tables that every cohort has."""
    _run(
        "cohort",
        settings,
        sources=sources,
        images=images,
        findings=findings,
        manifest=summary,
    )


@app.command()
def splits(settings: SettingsText, sources: Sources, output: Output) -> None:
    """Read from an archive's tables which image is of which split, and no label."""
    _run("splits", settings, sources=sources, output=output)


@app.command()
def images(
    settings: SettingsText,
    sources: Sources,
    shard: Annotated[int, typer.Option(min=0, help="Number of the shard.")],
    store: Store,
    manifest: Manifest,
    threads: Threads = 1,
) -> None:
    """Convert one shard of DICOM files to canonical images with masks and geometry."""
    _run(
        "images",
        settings,
        sources=sources,
        shard=shard,
        path=store,
        manifest=manifest,
        threads=threads,
    )


@app.command()
def quarantine(
    image_stores: Annotated[list[Path], typer.Argument(help="Manifests of the image stores.")],
    cohort: Annotated[Path, typer.Option(help="Summary of the cohort (.json).")],
    output: Annotated[Path, typer.Option(help="Table to write (.csv).")],
) -> None:
    """List the files that were left out or noticed, with the reasons."""
    _run("quarantine", None, image_stores=image_stores, cohort=cohort, output=output)


@app.command("import-encoder")
def import_encoder(
    settings: SettingsText,
    weights: Annotated[Path, typer.Option(help="Weights to write (.safetensors).")],
    description: Annotated[Path, typer.Option(help="Description to write (.json).")],
) -> None:
    """Bring an encoder's published weights into the package's own form."""
    _run("import_encoder", settings, weights=weights, description=description)


@app.command("fetch-checkpoint")
def fetch_checkpoint(
    hub: Annotated[str, typer.Option(help="Hugging Face id: owner/repository/path/in/it.")],
    output: Annotated[Path, typer.Option(help="Where to put the file.")],
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, unless it is there already."""
    from mammo_sae.encoders.hub import fetch

    fetch(hub, output)


@app.command()
def registry(
    descriptions: Annotated[list[Path], typer.Argument(help="encoder.json of each encoder.")],
    output: Annotated[Path, typer.Option(help="Table to write (.csv).")],
) -> None:
    """List the encoders: where their weights come from, licence, pretraining data."""
    _run(
        "registry",
        None,
        inputs=descriptions,
        descriptions={path.parent.name: path for path in descriptions},
        output=output,
    )


@app.command()
def extract(
    settings: SettingsText,
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    layers: Annotated[str, typer.Option(help="Layers to keep, joined by +.")],
    images: Annotated[Path, typer.Option(help="Manifest of the shard's images (.json).")],
    store: Store,
    manifest: Manifest,
    frozen: Annotated[
        Path | None,
        typer.Option(help="Manifest of the base's embeddings to start from, for a frozen part."),
    ] = None,
) -> None:
    """Run an encoder over one shard and store the maps of its layers."""
    from mammo_sae.passes import layers_of

    _run(
        "extract",
        settings,
        inputs=[encoder / "encoder.json", images, *([frozen] if frozen else [])],
        encoder=encoder,
        layers=layers_of(layers),
        images=images,
        cached=frozen,
        path=store,
        manifest=manifest,
    )


@app.command()
def finetune(
    settings: SettingsText,
    manifests: Manifests,
    base: Annotated[Path, typer.Option(help="Folder of the encoder to start from.")],
    base_head: Annotated[Path, typer.Option(help="Folder of that encoder's head.")],
    images: Images,
    weights: Annotated[Path, typer.Option(help="Weights to write (.safetensors).")],
    description: Annotated[Path, typer.Option(help="Description to write (.json).")],
    head: Annotated[Path, typer.Option(help="The head's weights to write (.safetensors).")],
    head_description: Annotated[Path, typer.Option(help="The head's description (.json).")],
    history: Annotated[Path, typer.Option(help="Training log to write (.csv).")],
    concepts: Concepts,
) -> None:
    """Train an encoder and its head further on the concepts of the training split."""
    _run(
        "finetune",
        settings,
        inputs=[images, base / "encoder.json", base_head / "head.json", *manifests],
        base=base,
        base_head=base_head,
        cohort=images,
        stores=manifests,
        concepts=concepts.split(","),
        weights=weights,
        description=description,
        head_weights=head,
        head_description=head_description,
        log=history,
    )


@app.command("linear-probe")
def linear_probe(
    settings: SettingsText,
    manifests: Manifests,
    images: Images,
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    head: Annotated[Path, typer.Option(help="The head's weights to write (.safetensors).")],
    description: Annotated[Path, typer.Option(help="The head's description to write (.json).")],
    concepts: Concepts,
) -> None:
    """Fit a linear head per concept on an encoder's pooled features, the encoder untouched."""
    _run(
        "linear_probe",
        settings,
        inputs=[images, encoder / "encoder.json", *manifests],
        cohort=images,
        encoder=encoder,
        embeddings=manifests,
        concepts=concepts.split(","),
        head_weights=head,
        head_description=description,
    )


@app.command("evaluate-encoder")
def evaluate_encoder(
    settings: SettingsText,
    manifests: Manifests,
    encoder: Annotated[str, typer.Option(help="Name of the encoder, for the table.")],
    images: Images,
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    predictions: Annotated[Path, typer.Option(help="Logits of every image to write (.parquet).")],
    scores: Annotated[Path, typer.Option(help="Scores per concept and split to write (.parquet).")],
) -> None:
    """Predict every image from its pooled features and score the predictions."""
    _run(
        "evaluate_encoder",
        settings,
        inputs=[images, head / "head.json", *manifests],
        encoder=encoder,
        cohort=images,
        head=head,
        embeddings=manifests,
        predictions=predictions,
        table=scores,
    )


def _description_and_settings(text: str) -> list[str]:
    # A path may hold an equals sign, and the settings too; only they begin with a brace.
    words = re.split(r"=(?={)", text, maxsplit=1)
    if len(words) == 1:
        raise InputError(f"--beside {text!r} is not DESCRIPTION=JSON; give it in that form")
    return words


@app.command("train-sae")
def train_sae(
    settings: SettingsText,
    manifests: Manifests,
    layer: Layer,
    images: Images,
    weights: Annotated[Path, typer.Option(help="Weights to write (.safetensors).")],
    description: Annotated[Path, typer.Option(help="Description to write (.json).")],
    history: Annotated[Path, typer.Option(help="Training log to write (.csv).")],
    image_stores: ImageStores = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="Another SAE of the layer to train in the same pass, as DESCRIPTION=JSON: it "
            "is left as a checkpoint, from which its own run writes it."
        ),
    ] = None,
) -> None:
    """Train a sparse autoencoder on one layer's cells of the training split."""
    # A path may hold an equals sign, and the settings too; only they begin with a brace.
    others = {
        Path(path): _settings("train_sae", text)
        for path, text in (_description_and_settings(text) for text in beside or [])
    }
    _run(
        "train_sae",
        settings,
        inputs=[images, *manifests, *(image_stores or [])],
        images=images,
        embeddings=manifests,
        layer=layer,
        weights=weights,
        description=description,
        log=history,
        image_stores=image_stores or [],
        beside=others,
        codes={own.variant.name: _code("train_sae", own) for own in others.values()},
    )


@app.command()
def codes(
    manifests: Manifests,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    layer: Layer,
    image_stores: Masks,
    store: Store,
    manifest: Manifest,
) -> None:
    """Encode every cell of every image with a trained SAE."""
    _run(
        "codes",
        None,
        inputs=[sae, *manifests, *image_stores],
        sae=sae,
        embeddings=manifests,
        image_stores=image_stores,
        layer=layer,
        store=store,
        manifest=manifest,
    )


@app.command("sae-quality")
def sae_quality(
    settings: SettingsText,
    manifests: Manifests,
    run: Run,
    images: Images,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    codes: Codes,
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    output: Output,
) -> None:
    """Score a trained SAE: what it explains, how sparse it is, what splicing it in costs."""
    _run(
        "sae_quality",
        settings,
        inputs=[images, sae, codes, *manifests],
        identity=_identity(run),
        images=images,
        sae=sae,
        codes=codes,
        encoder=encoder,
        head=head,
        embeddings=manifests,
        output=output,
    )


@app.command("sae-stability")
def sae_stability(
    encoder: Annotated[str, typer.Option(help="Name of the encoder.")],
    layer: Layer,
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    seeds: Annotated[list[int], typer.Option("--seed", help="A seed; once per seed.")],
    saes: Annotated[
        list[Path], typer.Option("--description", help="Its sae.json, in the same order.")
    ],
    codes: Annotated[
        list[Path], typer.Option("--codes", help="Manifest of its codes, in the same order.")
    ],
    output: Output,
) -> None:
    """Say how far the seeds of one SAE agree on its atoms."""
    _run(
        "sae_stability",
        None,
        inputs=[*saes, *codes],
        encoder=encoder,
        layer=layer,
        sae=sae,
        seeds=seeds,
        saes=saes,
        codes=codes,
        output=output,
    )


@app.command()
def probing(
    settings: SettingsText,
    run: Run,
    images: Images,
    codes: Codes,
    concepts: Concepts,
    output: Output,
) -> None:
    """Rank latents by concept: class means, AUROC with interval, permutation p."""
    _run(
        "probing",
        settings,
        inputs=[images, codes],
        identity=_identity(run),
        images=images,
        codes=codes,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def readout(
    settings: SettingsText,
    manifests: Manifests,
    run: Run,
    images: Images,
    codes: Codes,
    concepts: Concepts,
    output: Output,
) -> None:
    """Probe a layer's embeddings and codes for concepts and confounders."""
    _run(
        "readout",
        settings,
        inputs=[images, codes, *manifests],
        identity=_identity(run),
        images=images,
        embeddings=manifests,
        codes=codes,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def interventions(
    settings: SettingsText,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    predictions: Annotated[Path, typer.Option(help="Table written by `evaluate-encoder`.")],
    concepts: Concepts,
    output: Output,
    sweep: Annotated[Path, typer.Option(help="Curves over every k to write (.parquet).")],
) -> None:
    """Keep or drop latents at the head layer, every k, and see what the prediction loses."""
    _run(
        "interventions",
        settings,
        inputs=[images, codes, latents, sae, predictions],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        sae=sae,
        head=head,
        predictions=predictions,
        concepts=concepts.split(","),
        interventions=output,
        sweep=sweep,
    )


@app.command()
def classes(
    settings: SettingsText,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    predictions: Annotated[Path, typer.Option(help="Table written by `evaluate-encoder`.")],
    concepts: Concepts,
    output: Output,
) -> None:
    """Score the four classes of density as one question, with latents kept or dropped."""
    _run(
        "classes",
        settings,
        inputs=[images, codes, latents, sae, predictions],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        sae=sae,
        head=head,
        predictions=predictions,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def effects(
    settings: SettingsText,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    concepts: Concepts,
    output: Output,
) -> None:
    """Measure what each latent of the head layer adds to every logit."""
    _run(
        "effects",
        settings,
        inputs=[images, codes, latents, sae, head / "head.json"],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        sae=sae,
        head=head,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def inner(
    settings: SettingsText,
    manifests: Manifests,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    sae: Annotated[Path, typer.Option(help="Description of the SAE (sae.json).")],
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    concepts: Concepts,
    output: Output,
    attribution: Annotated[Path, typer.Option(help="Latents' effects to write (.parquet).")],
) -> None:
    """Keep or drop latents at an inner layer and run the rest of the network."""
    _run(
        "inner",
        settings,
        inputs=[
            images,
            codes,
            latents,
            sae,
            encoder / "encoder.json",
            head / "head.json",
            *manifests,
        ],
        identity=_identity(run),
        images=images,
        embeddings=manifests,
        codes=codes,
        latents=latents,
        sae=sae,
        encoder=encoder,
        head=head,
        concepts=concepts.split(","),
        interventions=output,
        attribution=attribution,
    )


@app.command()
def matching(
    settings: SettingsText,
    sae_before: Annotated[Path, typer.Option(help="The base's SAE (sae.json).")],
    sae_after: Annotated[Path, typer.Option(help="The fine-tuned encoder's SAE (sae.json).")],
    effects_before: Annotated[Path, typer.Option(help="Effects of the base's latents.")],
    effects_after: Annotated[Path, typer.Option(help="Effects of the fine-tuned's latents.")],
    output: Output,
) -> None:
    """Pair the latents of a fine-tuned encoder with those of its base, and their effects."""
    _run(
        "matching",
        settings,
        inputs=[sae_before, sae_after, effects_before, effects_after],
        sae_before=sae_before,
        sae_after=sae_after,
        effects_before=effects_before,
        effects_after=effects_after,
        output=output,
    )


@app.command()
def alignment(
    settings: SettingsText,
    manifests: Manifests,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    concepts: Concepts,
    output: Output,
) -> None:
    """Compare latents' maps with the lesions' masks, against chance and random latents."""
    _run(
        "alignment",
        settings,
        inputs=[images, codes, latents, *manifests],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        image_stores=manifests,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def confounds(
    settings: SettingsText,
    manifests: Manifests,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    concepts: Concepts,
    output: Output,
) -> None:
    """Judge whether a latent follows its concept or a confounder."""
    _run(
        "confounds",
        settings,
        inputs=[images, codes, latents, *manifests],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        image_stores=manifests,
        concepts=concepts.split(","),
        output=output,
    )


@app.command()
def truth(
    settings: SettingsText,
    run: Run,
    images: Images,
    codes: Codes,
    latents: Latents,
    confounds: Annotated[Path, typer.Option(help="Table written by `confounds`.")],
    output: Output,
) -> None:
    """Score the verdicts against what was planted in the phantom."""
    _run(
        "truth",
        settings,
        inputs=[images, codes, latents, confounds],
        identity=_identity(run),
        images=images,
        codes=codes,
        latents=latents,
        confounds=confounds,
        output=output,
    )


@app.command()
def table(
    parts: Annotated[list[Path], typer.Argument(help="Tables of single SAEs or encoders.")],
    csv: Annotated[Path, typer.Option(help="Table to write (.csv).")],
    parquet: Annotated[Path, typer.Option(help="Table to write (.parquet).")],
) -> None:
    """Put the tables of all SAEs, or of all encoders, together."""
    _run("table", None, parts=parts, output_csv=csv, output_parquet=parquet)


@app.command("table-page")
def table_page(
    table: Annotated[Path, typer.Option(help="Table to show (.parquet or .csv).")],
    output: Annotated[Path, typer.Option(help="Page to write (.html).")],
) -> None:
    """Write a table as a page that a browser searches and sorts."""
    _run("table_page", None, table=table, output=output)


@app.command()
def verdicts(
    latents: Annotated[Path, typer.Option(help="Table `latents` of all SAEs.")],
    alignment: Annotated[Path, typer.Option(help="Table `alignment` of all SAEs.")],
    confounds: Annotated[Path, typer.Option(help="Table `confounds` of all SAEs.")],
    csv: Annotated[Path, typer.Option(help="Table to write (.csv).")],
    parquet: Annotated[Path, typer.Option(help="Table to write (.parquet).")],
) -> None:
    """Say of every tested latent in one word what its confounders and its maps come to."""
    _run(
        "verdicts",
        None,
        latents=latents,
        alignment=alignment,
        confounds=confounds,
        output_csv=csv,
        output_parquet=parquet,
    )


@app.command()
def published(
    settings: SettingsText,
    encoders: Annotated[Path, typer.Option(help="Table `encoders`.")],
    latents: Annotated[Path, typer.Option(help="Table `latents` of all SAEs.")],
    interventions: Annotated[Path, typer.Option(help="Table `interventions` of all SAEs.")],
    csv: Annotated[Path, typer.Option(help="Table to write (.csv).")],
    parquet: Annotated[Path, typer.Option(help="Table to write (.parquet).")],
) -> None:
    """Put the figures of Mammo-SAE's paper beside those of the run."""
    _run(
        "published",
        settings,
        encoders=encoders,
        latents=latents,
        interventions=interventions,
        csv=csv,
        parquet=parquet,
    )


@app.command()
def summary(
    encoders: Annotated[Path, typer.Option(help="Table `encoders`.")],
    latents: Annotated[Path, typer.Option(help="Table `latents` of all SAEs.")],
    verdicts: Annotated[Path, typer.Option(help="Table `verdicts`.")],
    split: ShownSplit,
    output: Annotated[Path, typer.Option(help="Page to write (.html).")],
    base: Annotated[
        list[str] | None,
        typer.Option(help="FINETUNED=PRETRAINED: which encoder another one started from."),
    ] = None,
) -> None:
    """Write the headline figures of a run, and warn where fine-tuning has not helped."""
    _run(
        "summary",
        None,
        encoders=encoders,
        latents=latents,
        verdicts=verdicts,
        bases=_pairs(base or [], "--base", "FINETUNED=PRETRAINED"),
        split=split,
        output=output,
    )


@app.command()
def configuration(
    content: Annotated[str, typer.Option(help="The configuration: JSON.")],
    output: Annotated[Path, typer.Option(help="Page to write (.html).")],
) -> None:
    """Show the configuration of the run as a page of the report."""
    _run("configuration", None, content=content, output=output)


@app.command()
def crate(
    results: Annotated[list[Path], typer.Argument(help="Tables and figures of the run.")],
    output: Annotated[Path, typer.Option(help="Metadata to write, in the run's folder (.json).")],
) -> None:
    """Describe the run as an RO-Crate: what was made of what, by which step."""
    _run("crate", None, results=results, output=output)


@app.command("figure-cohort")
def figure_cohort(
    settings: SettingsText,
    manifests: Manifests,
    images: Images,
    concepts: Concepts,
    counts: Annotated[Path, typer.Option(help="Counts per split to write (.csv).")],
    output: Picture,
) -> None:
    """Draw the cohort's contact sheet and count its images."""
    _run(
        "figure_cohort",
        settings,
        images=images,
        image_stores=manifests,
        concepts=concepts.split(","),
        counts=counts,
        output=output,
    )


@app.command("figure-encoders")
def figure_encoders(
    encoders: Annotated[Path, typer.Option(help="Table of all encoders.")], output: Picture
) -> None:
    """Draw how well the encoders predict."""
    _run("figure_encoders", None, encoders=encoders, output=output)


@app.command("figure-training")
def figure_training(
    histories: Annotated[list[Path], typer.Argument(help="Training logs (.csv) of SAEs.")],
    layers: Annotated[str, typer.Option(help="The layer of each log, with commas.")],
    encoder: Annotated[str, typer.Option(help="Name of the encoder.")],
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    output: Picture,
) -> None:
    """Draw the training curves of one encoder's SAEs."""
    _run(
        "figure_training",
        None,
        histories=histories,
        layers=layers.split(","),
        encoder=encoder,
        sae=sae,
        output=output,
    )


@app.command("figure-layers")
def figure_layers(
    quality: Annotated[Path, typer.Option(help="Table `sae_quality` of all SAEs.")],
    latents: Annotated[Path, typer.Option(help="Table `latents` of all SAEs.")],
    alignment: Annotated[Path, typer.Option(help="Table `alignment` of all SAEs.")],
    confounds: Annotated[Path, typer.Option(help="Table `confounds` of all SAEs.")],
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    output: Picture,
) -> None:
    """Draw what changes from layer to layer."""
    _run(
        "figure_layers",
        None,
        sae_quality=quality,
        latents=latents,
        alignment=alignment,
        confounds=confounds,
        sae=sae,
        output=output,
    )


@app.command("figure-readout")
def figure_readout(
    probes: Annotated[Path, typer.Option(help="Table `probes` of all SAEs.")],
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    split: ShownSplit,
    output: Picture,
) -> None:
    """Draw what can be read from layer to layer."""
    _run("figure_readout", None, probes=probes, sae=sae, split=split, output=output)


@app.command("figure-sweep")
def figure_sweep(
    interventions: Annotated[Path, typer.Option(help="Table `interventions` of all SAEs.")],
    concept: Concept,
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    splits: Annotated[
        str, typer.Option(help="The split to draw of each layer: LAYER=SPLIT, with commas.")
    ],
    output: Picture,
    sweeps: Annotated[
        list[Path] | None, typer.Argument(help="Curves written by `interventions`, if any.")
    ] = None,
) -> None:
    """Draw a prediction's AUROC for every number of latents kept or dropped."""
    _run(
        "figure_sweep",
        None,
        sweeps=sweeps or [],
        interventions=interventions,
        concept=concept,
        sae=sae,
        splits=_pairs(splits.split(","), "--splits", "LAYER=SPLIT"),
        output=output,
    )


@app.command("figure-effects")
def figure_effects(
    effects: Annotated[Path, typer.Option(help="Table `effects` of all SAEs.")],
    sae: Annotated[str, typer.Option(help="Name of the SAE.")],
    split: ShownSplit,
    output: Picture,
    matched: Annotated[Path | None, typer.Option(help="Table `matched_latents`.")] = None,
) -> None:
    """Draw which latents predictions rest on, and which of them fine-tuning brought."""
    _run(
        "figure_effects",
        None,
        effects=effects,
        matched=matched,
        sae=sae,
        split=split,
        output=output,
    )


@app.command("figure-latents")
def figure_latents(
    settings: SettingsText,
    manifests: Manifests,
    images: Images,
    codes: Codes,
    latents: Latents,
    alignment: Annotated[Path, typer.Option(help="Table written by `alignment`.")],
    confounds: Annotated[Path, typer.Option(help="Table written by `confounds`.")],
    concept: Concept,
    split: ShownSplit,
    output: Picture,
    latent: Annotated[
        list[int] | None,
        typer.Option(help="A latent to draw instead of the top ones; may be given several times."),
    ] = None,
) -> None:
    """Draw a concept's top latents, or those asked for, on the images that excite them."""
    _run(
        "figure_latents",
        settings,
        images=images,
        image_stores=manifests,
        codes=codes,
        latents=latents,
        alignment=alignment,
        confounds=confounds,
        concept=concept,
        split=split,
        chosen=latent or [],
        output=output,
    )


@app.command("figure-interventions")
def figure_interventions(
    interventions: Annotated[Path, typer.Option(help="Table written by `interventions`.")],
    concept: Concept,
    output: Picture,
) -> None:
    """Draw what a prediction loses as latents are kept or dropped."""
    _run("figure_interventions", None, interventions=interventions, concept=concept, output=output)


@app.command("figure-confounds")
def figure_confounds(
    latents: Latents,
    confounds: Annotated[Path, typer.Option(help="Table written by `confounds`.")],
    concept: Concept,
    min_kept: Annotated[float, typer.Option(help="The setting confounds.min_kept.")],
    output: Picture,
) -> None:
    """Draw which of a concept's latents are really a confounder's."""
    _run(
        "figure_confounds",
        None,
        latents=latents,
        confounds=confounds,
        concept=concept,
        min_kept=min_kept,
        output=output,
    )


@app.command("figure-truth")
def figure_truth(
    truth: Annotated[Path, typer.Option(help="Table `truth` of all SAEs.")],
    output: Picture,
) -> None:
    """Draw the verdicts against what was planted in the phantom."""
    _run("figure_truth", None, truth=truth, output=output)


@app.command("default-config")
def default_config() -> None:
    """Print the default configuration: every key with its meaning."""
    from mammo_sae.config import default_yaml

    print(default_yaml(), end="")


@app.command()
def layers(
    encoder: Annotated[str, typer.Argument(help="Name of an encoder of the configuration.")],
    configfile: ConfigFiles = None,
) -> None:
    """List the layers of an encoder: channels, stride, grid, receptive field, size stored."""
    from mammo_sae.config import read_config
    from mammo_sae.encoders.architectures import listing

    settings = read_config(configfile or [])
    if encoder not in settings.encoders:
        known = ", ".join(settings.encoders)
        raise InputError(f"there is no encoder {encoder!r}; choose one of {known}")
    images = settings.images
    print(listing(settings.architecture(encoder), images.height, images.width))


@app.command("slice")
def print_slice(
    step: Annotated[str, typer.Argument(help="Name of the step.")],
    wildcards: Annotated[
        list[str] | None, typer.Argument(help="Wildcards of the step, as name=value.")
    ] = None,
    configfile: ConfigFiles = None,
) -> None:
    """Print the settings of a step for a configuration, as `--settings` takes them."""
    from mammo_sae.config import read_config
    from mammo_sae.steps import STEPS

    if step not in STEPS or STEPS[step].settings is None:
        known = ", ".join(name for name, entry in STEPS.items() if entry.settings is not None)
        raise InputError(f"{step!r} is not a step with settings; choose one of {known}")
    odd = [pair for pair in wildcards or [] if "=" not in pair]
    if odd:
        raise InputError(
            f"{odd[0]!r} is no wildcard; give each as name=value, and files after --configfile"
        )
    pairs = dict(pair.split("=", 1) for pair in wildcards or [])
    settings = read_config(configfile or [])
    settings.check_wildcards(step, pairs)
    print(settings.slice(step, pairs))


@app.command()
def find(
    pseudonyms: Annotated[list[str], typer.Argument(help="Of images or patients.")],
    configfile: ConfigFiles = None,
) -> None:
    """Print the files behind pseudonyms, for who has the source and its key; write nothing."""
    from mammo_sae.cohorts.find import find_files
    from mammo_sae.config import read_config

    config = read_config(configfile or [])
    sources = [Path(source) for source in config.sources()]
    for pseudonym in pseudonyms:
        for image_id, path in find_files(config.cohort, sources, pseudonym):
            print(f"{image_id}\t{path}")


@app.command()
def stale(
    configfile: ConfigFiles = None,
    folder: Annotated[Path, typer.Option(help="The project's folder.")] = Path(),
    directory: Annotated[
        Path | None,
        typer.Option(help="The working folder, as Snakemake's --directory. None: the project's."),
    ] = None,
) -> None:
    """Say what `snakemake` would run again, and which key, module or file brought it about."""
    from mammo_sae.stale import explain_staleness

    for line in explain_staleness(folder, configfile or [], directory or folder):
        print(line)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or any folder below it.")],
) -> None:
    """Check every store, table, model and figure below a folder, reading every byte."""
    from mammo_sae.config import kept_configuration
    from mammo_sae.progress import progress
    from mammo_sae.records import find_records, verify_record
    from mammo_sae.stores.publish import find_manifests, verify_store

    manifests, records = find_manifests(folder), find_records(folder)
    if not manifests and not records:
        raise InputError(f"{folder} holds no results; give the folder of a run")
    problems = [
        (manifest, problem)
        for manifest in progress(manifests, label="stores")
        for problem in verify_store(manifest)
    ]
    problems += [
        problem for record in progress(records, label="files") for problem in verify_record(record)
    ]
    for path, problem in problems:
        configs = (kept_configuration(parent.name) for parent in path.parents)
        config = next((config for config in configs if config.is_file()), None)
        option = f" --configfile {config}" if config is not None else ""
        word = shlex.quote(str(path))
        print(f"{problem}; to rebuild: rm -f {word} && snakemake --cores all {word}{option}")
    print(f"{len(manifests)} stores and {len(records)} steps checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
