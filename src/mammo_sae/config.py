"""The whole configuration: the settings of all stages, checked when they are loaded.

The settings of a stage are defined next to its code. This module combines these settings and checks
the references between them (an encoder's base, a layer's name). It gives each rule its *slice*: the
canonical JSON of exactly the settings that the rule uses. Settings make a rule stale only if its
slice changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from mammo_sae.analysis.settings import (
    AblationSettings,
    AbsorptionSettings,
    ActivationMatchSettings,
    AlignmentSettings,
    BootstrapSettings,
    ConfoundSettings,
    EffectSettings,
    InnerAblationSettings,
    InnerSettings,
    InterventionSettings,
    LatentSettings,
    MatchedLatentSettings,
    NamingSettings,
    ProbesSettings,
    QualitySettings,
    ReplicationSettings,
    SaliencySettings,
    TruthSettings,
)
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.cohorts.settings import CohortSettings, PhantomCohort, TableCohort
from mammo_sae.cohorts.units import FINDING, IMAGE
from mammo_sae.complaints import explain, listed, nearest
from mammo_sae.demo import DEMO
from mammo_sae.dicom.settings import ClinicalSettings, ImagesSettings
from mammo_sae.digests import SOURCE
from mammo_sae.encoders import architectures
from mammo_sae.encoders.plans.plan import HEAD, POOLED
from mammo_sae.encoders.settings import (
    EncoderSettings,
    EvaluationSettings,
    ExtractionSettings,
    FinetunedSettings,
    LinearProbeSettings,
    PretrainedSettings,
)
from mammo_sae.errors import InputError
from mammo_sae.phantom.settings import CATEGORIES, PhantomSettings
from mammo_sae.provenance import public_settings
from mammo_sae.report.settings import ReportSettings
from mammo_sae.sae.settings import SaeSettings
from mammo_sae.settings import PathText, Settings, canonical_json
from mammo_sae.steps import STEPS
from mammo_sae.stores.publish import atomic_file
from mammo_sae.texts.settings import TextSettings, TransformersText
from mammo_sae.yaml_files import laid_over, plain, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
# The folder of the workflow: the checkout, or a part of the installed package (setup.py).
CHECKOUT = SOURCE.parents[1]
WORKFLOW = CHECKOUT if (CHECKOUT / "Snakefile").is_file() else SOURCE / "workflow_files"
DEFAULT = WORKFLOW / "config" / "config.yaml"
# The parts of the phantom's archive. Each is a separate source.
PARTS = ("training", "test", "external")


ANALYSES = (
    *("probes", "interventions", "effects", "inner", "alignment", "confounds", "ablation"),
    *("replication", "absorption", "inner_ablation", "truth"),
)


class Config(Settings):
    """All settings of a run."""

    name: Name = Field(
        "phantom",
        description="name of the run; results are written to <results>/<name>; the default is the "
        "kind of the cohort",
    )
    results: PathText = Field("results", description="folder of all runs")
    keep_embeddings: Literal["always", "until_codes"] = Field(
        "always",
        description="until_codes: when a run has ended and all codes exist, the maps of its "
        "embeddings are deleted; a step that reads them later makes them again",
    )
    cohort: CohortSettings = Field(PhantomCohort(), description="images, labels, boxes, covariates")
    phantom: PhantomSettings = Field(
        PhantomSettings(), description="content of the phantom archive (cohort.kind: phantom only)"
    )
    images: ImagesSettings = Field(ClinicalSettings(), description="DICOM to canonical images")
    encoders: dict[Name, EncoderSettings] = Field(
        {
            "pretrained": PretrainedSettings(),
            "finetuned": FinetunedSettings(kind="finetuned", base="pretrained", freeze="blocks.4"),
        },
        min_length=1,
        description="the networks to analyse, by name",
    )
    extraction: ExtractionSettings = Field(
        ExtractionSettings(), description="how encoders are run over the images"
    )
    linear_probe: LinearProbeSettings = Field(
        LinearProbeSettings(), description="the head of a pretrained encoder"
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="how encoders' predictions are scored"
    )
    layers: list[str] = Field(
        ["blocks.10", "blocks.14", "head"],
        min_length=1,
        description="feature maps to train SAEs on: blocks.N, head, pooled",
    )
    saes: dict[Name, SaeSettings] = Field(
        {"topk": SaeSettings()}, min_length=1, description="SAEs to train on each layer, by name"
    )
    sae_quality: QualitySettings = Field(QualitySettings(), description="how well SAEs reconstruct")
    latents: LatentSettings = Field(
        LatentSettings(), description="which latents respond to a concept"
    )
    probes: ProbesSettings = Field(
        ProbesSettings(), description="which concepts and confounders can be read from a layer"
    )
    interventions: InterventionSettings = Field(
        InterventionSettings(),
        description="which latents the prediction depends on, at the head layer",
    )
    effects: EffectSettings = Field(
        EffectSettings(), description="what each latent adds to the prediction, at the head layer"
    )
    inner: InnerSettings = Field(
        InnerSettings(), description="which latents the prediction depends on, at inner layers"
    )
    matched_latents: MatchedLatentSettings = Field(
        MatchedLatentSettings(), description="latents of fine-tuned encoders and of their bases"
    )
    activation_matches: ActivationMatchSettings = Field(
        ActivationMatchSettings(),
        description="latents of different encoders that activate on the same images",
    )
    alignment: AlignmentSettings = Field(
        AlignmentSettings(), description="whether latents fire on the lesion"
    )
    saliency: SaliencySettings = Field(
        SaliencySettings(),
        description="whether Grad-CAM and integrated gradients of an encoder lie on the lesion",
    )
    confounds: ConfoundSettings = Field(
        ConfoundSettings(), description="whether a confounder explains what latents respond to"
    )
    text: TextSettings | None = Field(
        None,
        description="the source of phrases and their embeddings, for names of latents in words; "
        "null: latents get no names (docs/naming.md)",
    )
    naming: NamingSettings = Field(
        NamingSettings(), description="which phrases describe latents, if text is set"
    )
    replication: ReplicationSettings = Field(
        ReplicationSettings(), description="whether latents have the same verdicts on other splits"
    )
    absorption: AbsorptionSettings = Field(
        AbsorptionSettings(),
        description="how many latents a concept is split over, and how often others absorb it",
    )
    ablation: AblationSettings = Field(
        AblationSettings(), description="predictions without the latents of a confounder"
    )
    inner_ablation: InnerAblationSettings = Field(
        InnerAblationSettings(),
        description="predictions without the latents of a confounder, at the layers of "
        "inner.layers",
    )
    responses: BootstrapSettings = Field(
        BootstrapSettings(), description="what latents respond to (phantom only)"
    )
    truth: TruthSettings = Field(
        TruthSettings(), description="verdicts compared with the ground truth (phantom only)"
    )
    report: ReportSettings = Field(ReportSettings(), description="content of the figures")
    atlas: AtlasSettings = Field(AtlasSettings(), description="content of the latent atlas")

    @model_validator(mode="after")
    def _references_hold(self) -> Config:
        wrong = [
            *self._wrong_encoders(),
            *self._wrong_layers(),
            *self._wrong_sizes(),
            *self._wrong_only(),
            *self._wrong_splits(),
            *self._wrong_preprocessing(),
            *self._wrong_analyses(),
            *self._wrong_unit(),
            *self._wrong_published(),
            *self._wrong_text(),
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_encoders(self) -> Iterator[str]:
        pretrained = [n for n, e in self.encoders.items() if isinstance(e, PretrainedSettings)]
        for name, encoder in self.encoders.items():
            if encoder.base is None:
                continue
            if encoder.base == name:
                yield f"encoders.{name}.base: names the encoder itself; name another, or null"
            elif encoder.base not in pretrained:
                what = "is not a pretrained encoder here"
                known = f"; name one of {listed(pretrained)}" if pretrained else "; add one"
                yield f"encoders.{name}.base: {encoder.base!r} {what}{known}"
            elif isinstance(encoder, FinetunedSettings) and not self.cohort.concepts:
                yield (
                    f"encoders.{name}: without concepts there is nothing to learn; set it to null, "
                    "or name the labels under cohort.concepts"
                )
            elif self.architecture(name) != self.architecture(encoder.base):
                yield (
                    f"encoders.{name}.base: {encoder.base!r} is of "
                    f"{self.architecture(encoder.base)}, {name!r} of {self.architecture(name)}; "
                    "name the encoder that it started from, or null"
                )

    def _wrong_layers(self) -> Iterator[str]:
        if len(set(self.layers)) < len(self.layers):
            yield f"layers: {self.layers} names a layer twice; remove one"
        for name, encoder in self.encoders.items():
            wanted = {f"layers: {layer!r}": layer for layer in self.layers}
            if isinstance(encoder, FinetunedSettings):
                if not isinstance(self.encoders.get(encoder.base), PretrainedSettings):
                    continue
                if encoder.freeze is not None:
                    wanted[f"encoders.{name}.freeze: {encoder.freeze!r}"] = encoder.freeze
            valid = self.layer_names(name)
            for where, layer in wanted.items():
                if layer not in valid:
                    yield (
                        f"{where} is not a layer of encoder {name!r}, which has "
                        f"{valid[0]} to {valid[-3]}, {valid[-2]} and {valid[-1]}"
                    )

    def _wrong_sizes(self) -> Iterator[str]:
        for name, encoder in self.encoders.items():
            if not isinstance(encoder, PretrainedSettings):
                continue
            patch = architectures.architecture(encoder.architecture).patch
            for edge in ("height", "width"):
                size = getattr(self.images, edge)
                if size % patch:
                    near = [size // patch * patch, (size // patch + 1) * patch]
                    yield (
                        f"images.{edge}: {size} is no multiple of {patch}, the patch of encoder "
                        f"{name!r}, which would not see the last {size % patch} pixels; set it to "
                        f"{listed([str(one) for one in near if one])}"
                    )

    def _wrong_only(self) -> Iterator[str]:
        there = {"layers": self.layers, "encoders": list(self.encoders)}
        for name, sae in self.saes.items():
            for key, named in sae.only:
                where = f"saes.{name}.only.{key}"
                if named is not None and len(set(named)) < len(named):
                    yield f"{where}: {listed(named, 'and')} has an entry twice; remove one"
                for one in named or ():
                    if one not in there[key]:
                        what = f"is not among the {key} of this run"
                        yield f"{where}: {one!r} {what}; name {listed(there[key])}, or null"

    def _wrong_published(self) -> Iterator[str]:
        published = self.report.published
        if published is None:
            return
        if HEAD not in self.layers:
            yield "report.published: the paper's layer is `head`; add it to layers"
        if published.sae not in self.saes:
            known = listed(list(self.saes))
            yield f"report.published.sae: {published.sae!r} is no SAE here; name {known}"
        for key, name in published:
            concept = key.partition("_")[2]
            if name is None or key in {"sae", "split"}:
                continue
            where = f"report.published.{key}"
            sae = self.saes.get(published.sae)
            if name not in self.encoders:
                known = listed(list(self.encoders))
                yield f"{where}: {name!r} is no encoder here; name {known}"
            elif sae is not None and not sae.covers(name, HEAD):
                yield (
                    f"{where}: the SAE {published.sae!r} is not trained on the head of {name!r}; "
                    f"add them to saes.{published.sae}.only"
                )
            if concept not in self.cohort.concepts:
                yield f"{where}: the cohort has no concept {concept!r}; add it to cohort.concepts"

    def _wrong_text(self) -> Iterator[str]:
        text = self.text
        if text is None:
            return
        own = self.encoders.get(text.encoder)
        if not isinstance(own, PretrainedSettings):
            known = [n for n, e in self.encoders.items() if isinstance(e, PretrainedSettings)]
            what = "is not a pretrained encoder here"
            yield f"text.encoder: {text.encoder!r} {what}; name {listed(known)}"
        elif isinstance(text, TransformersText):
            pooling = self.pooling(text.encoder)
            if pooling != text.pooling:
                yield (
                    f"text.encoder: {text.encoder!r} has pooling {pooling}, and the images of "
                    f"{text.path} have {text.pooling}; set encoders.{text.encoder}.source.pooling "
                    f"to {text.pooling}"
                )

    def _wrong_unit(self) -> Iterator[str]:
        unit = self.latents.unit
        if getattr(self.cohort, "labels", IMAGE) == FINDING and unit != IMAGE:
            yield (
                f"latents.unit: a {unit} has one label, and cohort.labels: finding scores the rows "
                "of findings one by one; set latents.unit to image, or cohort.labels to image"
            )

    def _wrong_splits(self) -> Iterator[str]:
        if isinstance(self.cohort, TableCohort):
            return  # the splits are those of its table
        there = ["training", "test"]
        if isinstance(self.cohort, PhantomCohort) or self.cohort.external:
            there.append("external")
        if self.cohort.validation_share > 0:
            there.append("validation")
        advice = {
            "external": "name its folder under cohort.external, or remove it here",
            "validation": "set cohort.validation_share, or remove it here",
        }
        for step in type(self).model_fields:
            settings = getattr(self, step)
            if not isinstance(settings, Settings) or step == "cohort":
                continue
            if step == "truth" and not isinstance(self.cohort, PhantomCohort):
                continue
            for key in ("split", "discovery", "confirmation", "splits"):
                named = getattr(settings, key, ())
                for split in [named] if isinstance(named, str) else named:
                    if split not in there:
                        what = "is a split that this cohort does not have"
                        yield f"{step}.{key}: {split!r} {what}; {advice[split]}"

    def _wrong_preprocessing(self) -> Iterator[str]:
        if self.cohort.kind == "mammo_clip" and self.images.preprocessing == "mammo_clip":
            yield (
                "images.preprocessing: mammo_clip would crop and stretch the images of "
                "cohort.kind mammo_clip a second time; set it to as_is"
            )

    def _wrong_analyses(self) -> Iterator[str]:
        for layer in self.inner.layers:
            if not layer.startswith("blocks."):
                yield f"inner.layers: {layer!r} is not an inner layer; name blocks.N, or none"
        for split in self.replication.splits:
            if split in (self.confounds.discovery, self.confounds.confirmation):
                yield (
                    f"replication.splits: the verdicts of confounds come from {split!r} images; "
                    "name a split with other patients, or none"
                )
        truth = self.truth.concept
        if isinstance(self.cohort, PhantomCohort) and truth not in self.cohort.concepts:
            known = listed(list(self.cohort.concepts))
            yield f"truth.concept: {truth!r} is not a concept of this cohort; name {known}"
        elif isinstance(self.cohort, PhantomCohort) and self.true_component is None:
            yield (
                f"truth.concept: {truth!r} is {self.cohort.concepts[truth]!r}, which the phantom "
                f"does not draw; name a concept that is {listed(list(CATEGORIES.values()), 'or')}"
            )
        for step in ANALYSES:
            for key, values in getattr(self, step):
                if isinstance(values, tuple) and len(set(values)) < len(values):
                    yield f"{step}.{key}: {listed(values, 'and')} has an entry twice; remove one"

    @property
    def true_component(self) -> str | None:
        """The finding of the phantom that is the concept of `truth`; None if it draws no such."""
        category = self.cohort.concepts.get(self.truth.concept)
        return next((name for name, of in CATEGORIES.items() if of == category), None)

    @property
    def density_classes(self) -> list[str]:
        """The concepts of density A to D, in order; empty unless all four are concepts."""
        names = {category: name for name, category in self.cohort.concepts.items()}
        wanted = [f"DENSITY {letter}" for letter in "ABCD"]
        return [names[category] for category in wanted] if names.keys() >= {*wanted} else []

    @property
    def folder(self) -> Path:
        """The folder of this run's results."""
        return Path(self.results) / self.name

    def check_writable(self) -> None:
        """Check that this run's results can be written.

        Raises
        ------
        InputError
            If the folder of the results, or the folder in which it is to be made, can't be written.
        """
        nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise InputError(
                f"folder {nearest} can't be written; get permission to write there, or write the "
                "results elsewhere (key `results`)"
            )

    def write(self, path: Path) -> None:
        """Write every key with its value as YAML. The file gives this configuration again."""
        with atomic_file(path) as aside:
            aside.write_text(
                yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
            )

    def public(self) -> str:
        """Return the configuration as canonical JSON, without the paths of sources and keys."""
        return public_settings(self.model_dump(mode="json"))

    def sources(self) -> list[str]:
        """Return the folders of the source archive: the phantom's parts, or the user's own."""
        if isinstance(self.cohort, PhantomCohort):
            return [(self.folder / "source" / part).as_posix() for part in PARTS]
        return [folder for folder in (self.cohort.source, self.cohort.external) if folder]

    @property
    def shards(self) -> int:
        """The number of shards of the cohort."""
        return self.cohort.shards

    def architecture(self, encoder: str) -> str:
        """Return the name of an encoder's architecture."""
        return self._pretrained(encoder).architecture

    def _pretrained(self, encoder: str) -> PretrainedSettings:
        """Return the settings of an encoder, or those of the encoder that it was trained from."""
        settings = self.encoders[encoder]
        if isinstance(settings, FinetunedSettings):
            return self._pretrained(settings.base)
        return settings

    def seen(self) -> list[str]:
        """Return the encoders that are known to be trained on images of this run's cohort."""
        return [
            name
            for name in self.encoders
            if self.cohort.kind in getattr(self._pretrained(name).source, "seen", ())
        ]

    def layer_names(self, encoder: str) -> list[str]:
        """Return the layers of an encoder, in the order in which the network computes them."""
        return [layer.name for layer in architectures.layers(self.architecture(encoder))]

    def pooling(self, encoder: str) -> str:
        """Return how an encoder turns its final map into features: mean, cls or attention."""
        return getattr(self._pretrained(encoder).source, "pooling", "mean")

    def is_linear(self, encoder: str, layer: str) -> bool:
        """Return whether predictions are linear in the cells of a layer, a map.

        They are at the head if its cells are averaged.
        """
        return layer == HEAD and self.pooling(encoder) == "mean"

    def is_named_by_direction(self, encoder: str, layer: str) -> bool:
        """Return whether the atoms of a layer's SAE are directions in the space of the phrases.

        They are if the layer belongs to the encoder of the phrases, and its features are the layer
        itself or linear in its cells.
        """
        own = self.text is not None and self.text.encoder == encoder
        return own and (layer == POOLED or self.is_linear(encoder, layer))

    def is_used(self, encoder: str, layer: str) -> bool:
        """Return whether predictions depend on the cells of a layer.

        A class token does not read the cells any more after the last block.
        """
        last = self.layer_names(encoder)[-3]
        return self.pooling(encoder) != "cls" or layer not in (last, HEAD)

    def is_rerun(self, encoder: str, layer: str) -> bool:
        """Return whether edits of the cells of a layer are scored by running the network."""
        asked = layer == HEAD or layer in self.inner.layers
        return asked and self.is_used(encoder, layer) and not self.is_linear(encoder, layer)

    def extracted_layers(self, encoder: str) -> list[str]:
        """Return the layers to extract, in network order.

        These are the configured layers; `pooled`, from which the head predicts; and for a base, the
        layers from which fine-tuned encoders start.
        """
        wanted = {*self.layers, POOLED}
        for other in self.encoders.values():
            if isinstance(other, FinetunedSettings) and other.base == encoder and other.freeze:
                wanted.add(other.freeze)
        settings = self.encoders[encoder]
        valid = self.layer_names(encoder)
        if isinstance(settings, FinetunedSettings) and settings.freeze:
            # Frozen layers are those of the base. Extracting them again would store them twice.
            first = valid.index(settings.freeze)
            wanted = {layer for layer in wanted if valid.index(layer) > first}
        return [layer for layer in valid if layer in wanted]

    def holder(self, encoder: str, layer: str) -> str:
        """Return the encoder whose embeddings contain `layer` of `encoder`.

        The frozen layers of a fine-tuned encoder are in the embeddings of its base.
        """
        settings = self.encoders[encoder]
        if layer not in self.extracted_layers(encoder) and isinstance(settings, FinetunedSettings):
            return settings.base
        return encoder

    def shown_split(self, analysis: str) -> str:
        """Return the split whose scores a figure of `analysis` shows.

        It is the confirmation split if the analysis uses it, else the first split that it uses.
        """
        splits: tuple[str, ...] = getattr(self, analysis).splits
        return self.latents.confirmation if self.latents.confirmation in splits else splits[0]

    def shown_splits(self) -> dict[str, str]:
        """Return layer -> split, for each layer with a figure of interventions and its split."""
        shown: dict[str, str] = {}
        for layer in self.layers:
            if any(self.is_linear(encoder, layer) for encoder in self.encoders):
                shown[layer] = self.shown_split("interventions")
            elif any(self.is_rerun(encoder, layer) for encoder in self.encoders):
                shown[layer] = self.inner.confirmation
        return shown

    def runs(self) -> list[dict[str, Any]]:
        """Return encoder, layer, name and seed of every SAE to train.

        The trained SAEs of a layer come before its controls. Tables and figures have this order.
        """
        return [
            {"encoder": encoder, "layer": layer, "sae": name, "seed": seed}
            for encoder in self.encoders
            for layer in self.layers
            for control in (False, True)
            for name, sae in self.saes.items()
            if sae.covers(encoder, layer) and sae.is_control(layer) is control
            for seed in sae.seeds
        ]

    def reference(self, run: Mapping[str, Any]) -> str | None:
        """Return the encoder with whose latents those of a run are matched by activation.

        It is the first encoder that has the same SAE at the same layer; None if it is the run's
        own.
        """
        sae = self.saes[run["sae"]]
        first = next(name for name in self.encoders if sae.covers(name, run["layer"]))
        return first if first != run["encoder"] else None

    def controls(self) -> list[str]:
        """Return the controls that stand beside a trained SAE, each as layer/name."""
        kinds = [(run["encoder"], run["layer"], run["sae"]) for run in self.runs()]
        trained = {kind[:2] for kind in kinds if not self.saes[kind[2]].is_control(kind[1])}
        beside = [f"{kind[1]}/{kind[2]}" for kind in kinds if kind[:2] in trained]
        return [
            name
            for name in dict.fromkeys(beside)
            if self.saes[name.partition("/")[2]].is_control(name.partition("/")[0])
        ]

    def slice(self, step: str, wildcards: Mapping[str, str]) -> str:
        """Return the part of the configuration that `step` uses, as canonical JSON.

        `wildcards` are the wildcards of the rule, as text.
        """
        return canonical_json(STEPS[step].slice(self, wildcards))

    def check_wildcards(self, step: str, wildcards: Mapping[str, str]) -> None:
        """Check the values that a user gives for the wildcards of a step.

        Raises
        ------
        InputError
            If a needed wildcard is missing or has an unknown value. The error names the known
            values.
        """
        needed = self._wildcards(step)
        unknown = sorted(wildcards.keys() - WILDCARDS)
        if unknown:
            raise InputError(
                f"step {step}: {unknown[0]} is not a wildcard of any step; leave it out"
                f"{nearest(unknown[0], list(needed))}"
            )
        for name, there in needed.items():
            given = wildcards.get(name)
            if not there:
                kind = get_args(STEPS[step].settings.model_fields["kind"].annotation)[0]
                raise InputError(
                    f"the configuration has no {kind} encoder, which step {step} needs; add one "
                    "under encoders"
                )
            if given is None:
                raise InputError(f"step {step} needs {name}: give {name}={listed(there)}")
            if given not in there:
                raise InputError(
                    f"step {step}: {name}={given} is not in the configuration; choose "
                    f"{listed(there)}"
                )

    def _wildcards(self, step: str) -> dict[str, list[str]]:
        """Return the wildcards that the settings of a step depend on, and the values of each."""
        there: dict[str, list[str]] = {
            "part": list(PARTS),
            "sae": list(self.saes),
            "layer": list(self.layers),
            "seed": sorted({str(seed) for own in self.saes.values() for seed in own.seeds}),
        }
        row = STEPS[step]
        if "encoder" in row.wildcards:
            kind = row.settings
            there["encoder"] = [n for n, own in self.encoders.items() if isinstance(own, kind)]
        return {name: there[name] for name in row.wildcards}


def kept_configuration(name: str) -> Path:
    """Return the path of the stored configuration of the run `name`, in the workflow's folder."""
    return Path(".snakemake") / "mammo_sae" / f"{name}.yaml"


# The wildcards on which the settings of steps depend.
WILDCARDS = {"part", "encoder", "layer", "sae", "seed"}
# Keys of earlier versions. For these, advice to use the most similar current key would be wrong.
RENAMED = {"probing": "latents", "readout": "probes", "matching": "matched_latents"}


def load_config(content: Mapping[str, Any], where: str) -> Config:
    """Validate a configuration, as read from YAML.

    An encoder, an SAE, a concept or a covariate that is null is left out, so that a later file can
    remove an entry of an earlier file. If this leaves no encoder or no SAE, the default entries
    that are not null are used.

    Raises
    ------
    InputError
        If keys are wrong. The message is one sentence that names every wrong key and its allowed
        values.
    """
    kept = _without_null(plain(content, where), where)
    for old, new in RENAMED.items():
        if old in kept:
            raise InputError(f"{where}: {old}: is called {new} now; rename the key")
    try:
        # The content goes through JSON, because in strict mode a list of YAML is not accepted as a
        # tuple.
        return Config.model_validate_json(canonical_json(_suited_to_the_cohort(kept)))
    except ValidationError as error:
        raise InputError(explain(error, where, Config)) from None


def _suited_to_the_cohort(content: dict[str, Any]) -> dict[str, Any]:
    """Fill in missing values that depend on the cohort: the name of the run and the splits."""
    cohort = content.get("cohort")
    kind = cohort.get("kind", "phantom") if isinstance(cohort, dict) else "phantom"
    if kind == "phantom" or not isinstance(kind, str):
        return content
    scored = ["test", "external"] if content["cohort"].get("external") else ["test"]
    filled = {"name": kind, **content}
    for step in ("probes", "interventions", "effects", "alignment", "ablation"):
        own = content.get(step, {})
        filled[step] = {"splits": scored, **own} if isinstance(own, dict) else own
    own = content.get("inner_ablation", {})
    filled["inner_ablation"] = {"splits": scored[-1:], **own} if isinstance(own, dict) else own
    own = content.get("replication", {})
    filled["replication"] = {"splits": scored[1:], **own} if isinstance(own, dict) else own
    return filled


def _without_null(content: dict[str, Any], where: str, path: str = "") -> dict[str, Any]:
    kept = dict(content)
    for key in ("encoders", "saes", "concepts", "covariates"):
        if not isinstance(kept.get(key), Mapping):
            continue
        named = kept[key]
        kept[key] = {name: value for name, value in named.items() if value is not None}
        if kept[key] or not named or key == "covariates":
            continue
        if not path and key in Config.model_fields:
            default = Config.model_fields[key].get_default(call_default_factory=True)
            kept[key] = {name: value for name, value in default.items() if name not in named}
        if not kept[key]:
            raise InputError(f"{where}: {path}{key}: null leaves none; give one of them a value")
    if isinstance(kept.get("cohort"), Mapping):
        kept["cohort"] = _without_null(kept["cohort"], where, "cohort.")
    return kept


def read_config(paths: Sequence[Path]) -> Config:
    """Read and validate YAML files. Values of later files replace earlier ones, as in Snakemake.

    Without files, read the configuration of the default run, `config/config.yaml`.

    Raises
    ------
    InputError
        If a file is missing, is not YAML, or has wrong keys.
    """
    paths = paths or [DEFAULT]
    content: dict[str, Any] = {}
    for path in paths:
        content = laid_over(content, read_yaml(path))
    return load_config(content, f"configuration {', '.join(map(str, paths))}")


def default_yaml() -> str:
    """Return the default configuration as YAML, with the meaning of every key as a comment."""
    lines = [
        "# The configuration of the default run on the phantom cohort, with all keys and meanings.",
        "# Written by `.venv/bin/python -m mammo_sae default-config`; a test fails if it differs.",
        "# Change values here, or in a second file: --configfile config/config.yaml mine.yaml",
    ]
    lines += _yaml_lines(load_config(DEMO, "demo"), indent=0, spaced=True)
    return "\n".join(lines) + "\n"


def _yaml_lines(settings: Settings, indent: int, spaced: bool = False) -> list[str]:
    pad = " " * indent
    lines: list[str] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if spaced:
            lines.append("")
        if field.description:
            lines.append(f"{pad}# {field.description}")
        lines += _yaml_value(name, value, indent)
    return lines


def _yaml_value(name: str, value: Any, indent: int) -> list[str]:
    pad = " " * indent
    if isinstance(value, Settings):
        return [f"{pad}{name}:", *_yaml_lines(value, indent + 2)]
    if isinstance(value, dict) and value:
        lines = [f"{pad}{name}:"]
        for key, item in value.items():
            lines += _yaml_value(key, item, indent + 2)
        return lines
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False)
    return [f"{pad}{name}: {text.removesuffix('...' + chr(10)).strip()}"]
