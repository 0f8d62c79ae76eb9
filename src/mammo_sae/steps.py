"""The steps of the workflow: their modules and the types of their settings.

Each step has one rule, one verb of the command line and one `run` function. The row of a step
contains everything that rules, the command line, `stale` and the documentation need. The record of
a step lists as inputs those files among the arguments of `run` that `run` does not write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from mammo_sae.analysis import settings as analysis
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.cohorts.settings import CohortSettings, SplitSettings
from mammo_sae.digests import code_digest, code_parts
from mammo_sae.encoders import settings as encoders
from mammo_sae.encoders.sources.choice import source_module
from mammo_sae.extensions import tags
from mammo_sae.images.settings import ConversionSettings, PairsSettings
from mammo_sae.phantom.settings import PhantomPartSettings
from mammo_sae.report import settings as report
from mammo_sae.sae.settings import SaeTraining, Variant
from mammo_sae.sae.variants.choice import variant_module
from mammo_sae.settings import canonical_json
from mammo_sae.texts.settings import TextSettings

MISSING = object()
FIGURE = "figure_"  # how the names of steps begin that draw a figure


@dataclass(frozen=True)
class Choice:
    """The choice of a module that a step imports by a name in its settings.

    Attributes
    ----------
    key
        The keys that lead to the name in the settings, the outermost first.
    module
        Function that returns the module of a name.
    names
        All names that can be chosen.
    """

    key: Sequence[str]
    module: Callable[[str], str]
    names: Sequence[str]


@dataclass(frozen=True)
class Step:
    """One row of the workflow: the module, the settings and the tables of a step.

    Attributes
    ----------
    module
        Name of the module whose `run` does the work.
    settings
        Type of the step's settings; None if it has no settings.
    key
        The key of the step's settings in the configuration. Words in braces are wildcards of the
        rule.
    inner_keys
        Key in the settings -> key of the configuration, for values that come from another key. An
        entry is used only if the configuration has its key.
    cut
        Function that returns the settings from the configuration and the wildcards; None if the
        settings are the value of `key`.
    choice
        The module that the step imports by a name in its settings; None if there is no such module.
    tables
        The tables of the report that the step writes, as a whole or in part.
    """

    module: str
    settings: Any = None
    key: str = ""
    inner_keys: Mapping[str, str] = field(default_factory=dict)
    cut: Callable[..., Any] | None = None
    choice: Choice | None = None
    tables: Sequence[str] = ()

    @property
    def wildcards(self) -> tuple[str, ...]:
        """The wildcards on which the settings depend."""
        if self.cut is not None:
            return tuple(list(signature(self.cut).parameters)[1:])
        return tuple(re.findall(r"{(\w+)}", self.key))

    def slice(self, config: Any, wildcards: Mapping[str, str]) -> Any:
        """Return the step's settings in a configuration, for the wildcards of a rule."""
        if self.cut is not None:
            return self.cut(config, **{name: wildcards[name] for name in self.wildcards})
        return _at(config, _steps_to(self.key, wildcards))

    def key_of(self, path: Sequence[str], config: Any, wildcards: Mapping[str, str]) -> str:
        """Return the key of the configuration from which a value of the step's settings comes.

        `path` is the path of the value in the settings.
        """
        for place, key in self.inner_keys.items():
            steps = [*_steps_to(key, wildcards), *path[len(_steps_to(place)) :]]
            if [*path[: len(_steps_to(place))]] == _steps_to(place) and _has(config, steps):
                return ".".join(steps)
        return ".".join([*_steps_to(self.key, wildcards), *path])

    def modules(self, settings: str) -> list[str]:
        """Return the modules that the step runs with `settings`, given as JSON."""
        if self.choice is None:
            return [self.module]
        name = json.loads(settings)
        for key in self.choice.key:
            name = name[key]
        return [self.module, self.choice.module(name)]

    def all_modules(self) -> list[str]:
        """Return all modules that the step may run, over all possible settings."""
        if self.choice is None:
            return [self.module]
        return [self.module, *map(self.choice.module, self.choice.names)]

    def digest(self, settings: str) -> str:
        """Return the digest of the code that the step runs with `settings`, given as JSON."""
        return code_digest(*self.modules(settings))

    def code(self, pins: Mapping[str, str], settings: str) -> str:
        """Return the code and the packages that the step runs, part by part, as canonical JSON.

        `settings` are its settings as JSON. A step that has no settings ignores them.
        """
        return canonical_json(code_parts(self.modules(settings), pins))


def _reader(kind: str) -> str:
    # Import here, because this module imports pandas, which takes long.
    from mammo_sae.cohorts.readers import reader_module

    return reader_module(kind)


READER = Choice(("kind",), _reader, tags(CohortSettings))
SOURCE = Choice(("source", "kind"), source_module, tags(encoders.Source))
VARIANT = Choice(("variant", "name"), variant_module, tags(Variant))


def _steps_to(key: str, wildcards: Mapping[str, str] | None = None) -> list[str]:
    """Return the parts of a key between its dots. The value of a wildcard is one part."""
    return [step.format(**(wildcards or {})) for step in key.split(".") if step]


def _at(value: Any, steps: Sequence[str]) -> Any:
    """Return the value inside `value` under the keys or attributes `steps`.

    Raises
    ------
    LookupError
        If there is no such value.
    """
    for step in steps:
        value = value[step] if isinstance(value, Mapping) else getattr(value, step, MISSING)
        if value is MISSING:
            raise LookupError(step)
    return value


def _has(config: Any, steps: Sequence[str]) -> bool:
    try:
        _at(config, steps)
    except LookupError:
        return False
    return True


def _phantom(config: Any, part: str) -> PhantomPartSettings:
    return config.phantom.part(part)


def _pairs(config: Any) -> PairsSettings:
    return PairsSettings(phantom=config.phantom.part("pairs"), images=config.images)


def _splits(config: Any) -> SplitSettings:
    return SplitSettings.of(config.cohort)


def _images(config: Any) -> ConversionSettings:
    cohort = config.cohort
    return ConversionSettings(
        images=config.images, kind=cohort.kind, shards=cohort.shards, key_file=cohort.key_file
    )


def _import_encoder(config: Any, encoder: str) -> encoders.PretrainedSettings:
    # Leave `base` out: the imported weights do not depend on it.
    return config.encoders[encoder].model_copy(update={"base": None})


def _train_sae(config: Any, sae: str, layer: str, seed: str) -> SaeTraining:
    return config.saes[sae].training(layer, int(seed))


def _replication(config: Any) -> analysis.JudgementSettings:
    return analysis.JudgementSettings(
        splits=config.replication.splits, latents=config.latents, confounds=config.confounds
    )


# One row per step, in the order of the data flow.
STEPS = {
    "phantom": Step(
        "mammo_sae.phantom.archive",
        PhantomPartSettings,
        "phantom",
        inner_keys={"patients": "phantom.patients.{part}"},
        cut=_phantom,
    ),
    "cohort": Step("mammo_sae.cohorts.build", CohortSettings, "cohort", choice=READER),
    "splits": Step(
        "mammo_sae.cohorts.splits",
        SplitSettings,
        "cohort",
        inner_keys={"categories": "cohort.concepts"},
        cut=_splits,
        choice=READER,
    ),
    "images": Step(
        "mammo_sae.images.convert",
        ConversionSettings,
        "cohort",
        inner_keys={"images": "images"},
        cut=_images,
        choice=READER,
    ),
    "pairs": Step(
        "mammo_sae.images.pairs",
        PairsSettings,
        "phantom",
        inner_keys={
            "phantom.patients": "phantom.patients.pairs",
            "phantom": "phantom",
            "images": "images",
        },
        cut=_pairs,
    ),
    "quarantine": Step("mammo_sae.images.quarantine", tables=("quarantine",)),
    "measurements": Step("mammo_sae.images.measurements"),
    "import_encoder": Step(
        "mammo_sae.encoders.import_encoder",
        encoders.PretrainedSettings,
        "encoders.{encoder}",
        cut=_import_encoder,
        choice=SOURCE,
    ),
    "registry": Step("mammo_sae.encoders.registry", tables=("registry",)),
    "finetune": Step(
        "mammo_sae.encoders.finetune", encoders.FinetunedSettings, "encoders.{encoder}"
    ),
    "extract": Step("mammo_sae.encoders.extract", encoders.ExtractionSettings, "extraction"),
    "linear_probe": Step(
        "mammo_sae.encoders.linear_probe", encoders.LinearProbeSettings, "linear_probe"
    ),
    "evaluate_encoder": Step(
        "mammo_sae.encoders.evaluate_encoder",
        encoders.EvaluationSettings,
        "evaluation",
        tables=("encoders",),
    ),
    "train_sae": Step(
        "mammo_sae.sae.train_sae",
        SaeTraining,
        "saes.{sae}",
        inner_keys={"": "saes.{sae}.layers.{layer}"},
        cut=_train_sae,
        choice=VARIANT,
    ),
    "codes": Step("mammo_sae.sae.codes"),
    "sae_quality": Step(
        "mammo_sae.analysis.sae_quality",
        analysis.QualitySettings,
        "sae_quality",
        tables=("sae_quality",),
    ),
    "sae_stability": Step("mammo_sae.sae.sae_stability", tables=("sae_stability",)),
    "latents": Step(
        "mammo_sae.analysis.latents", analysis.LatentSettings, "latents", tables=("latents",)
    ),
    "probes": Step(
        "mammo_sae.analysis.probes", analysis.ProbesSettings, "probes", tables=("probes",)
    ),
    "interventions": Step(
        "mammo_sae.analysis.interventions",
        analysis.InterventionSettings,
        "interventions",
        tables=("interventions",),
    ),
    "classes": Step(
        "mammo_sae.analysis.classes",
        analysis.InterventionSettings,
        "interventions",
        tables=("classes",),
    ),
    "effects": Step(
        "mammo_sae.analysis.effects", analysis.EffectSettings, "effects", tables=("effects",)
    ),
    "inner": Step(
        "mammo_sae.analysis.inner",
        analysis.InnerSettings,
        "inner",
        tables=("interventions", "attribution"),
    ),
    "matched_latents": Step(
        "mammo_sae.analysis.matched_latents",
        analysis.MatchedLatentSettings,
        "matched_latents",
        tables=("matched_latents",),
    ),
    "activation_matches": Step(
        "mammo_sae.analysis.activation_matches",
        analysis.ActivationMatchSettings,
        "activation_matches",
        tables=("activation_matches",),
    ),
    "alignment": Step(
        "mammo_sae.analysis.alignment",
        analysis.AlignmentSettings,
        "alignment",
        tables=("alignment", "alignment_by_size", "regions"),
    ),
    "saliency": Step(
        "mammo_sae.analysis.saliency",
        analysis.SaliencySettings,
        "saliency",
        tables=("saliency",),
    ),
    "confounds": Step(
        "mammo_sae.analysis.confounds",
        analysis.ConfoundSettings,
        "confounds",
        tables=("confounds",),
    ),
    "embed_phrases": Step("mammo_sae.texts.embed_phrases", TextSettings | None, "text"),
    "naming": Step(
        "mammo_sae.analysis.naming", analysis.NamingSettings, "naming", tables=("phrases",)
    ),
    "replication": Step(
        "mammo_sae.analysis.replication",
        analysis.JudgementSettings,
        "replication",
        inner_keys={"latents": "latents", "confounds": "confounds"},
        cut=_replication,
        tables=("replication", "verdict_replication"),
    ),
    "verdict_stability": Step(
        "mammo_sae.analysis.verdict_stability", tables=("verdict_stability",)
    ),
    "absorption": Step(
        "mammo_sae.analysis.absorption",
        analysis.AbsorptionSettings,
        "absorption",
        tables=("absorption",),
    ),
    "ablation": Step(
        "mammo_sae.analysis.ablation", analysis.AblationSettings, "ablation", tables=("ablation",)
    ),
    "inner_ablation": Step(
        "mammo_sae.analysis.inner_ablation",
        analysis.InnerAblationSettings,
        "inner_ablation",
        tables=("ablation",),
    ),
    "reliance": Step(
        "mammo_sae.analysis.reliance", analysis.EffectSettings, "effects", tables=("reliance",)
    ),
    "responses": Step(
        "mammo_sae.analysis.responses",
        analysis.BootstrapSettings,
        "responses",
        tables=("responses",),
    ),
    "logit_responses": Step(
        "mammo_sae.analysis.logit_responses",
        analysis.BootstrapSettings,
        "responses",
        tables=("logit_responses",),
    ),
    "truth": Step("mammo_sae.analysis.truth", analysis.TruthSettings, "truth", tables=("truth",)),
    "table": Step("mammo_sae.report.table"),
    "table_page": Step("mammo_sae.report.table_page"),
    "verdicts": Step("mammo_sae.report.verdicts", tables=("verdicts",)),
    "names": Step("mammo_sae.report.names", tables=("names",)),
    "controls": Step("mammo_sae.report.controls", tables=("controls",)),
    "summary": Step("mammo_sae.report.summary"),
    "configuration": Step("mammo_sae.report.configuration"),
    "crate": Step("mammo_sae.report.crate"),
    "published": Step(
        "mammo_sae.report.published",
        report.PublishedSettings | None,
        "report.published",
        tables=("published",),
    ),
    "atlas": Step("mammo_sae.atlas.build", AtlasSettings, "atlas"),
    "figure_cohort": Step(
        "mammo_sae.report.cohort", report.CohortSheetSettings, "report.cohort", tables=("cohort",)
    ),
    "figure_encoders": Step("mammo_sae.report.encoders"),
    "figure_training": Step("mammo_sae.report.training"),
    "figure_layers": Step("mammo_sae.report.layers"),
    "figure_probes": Step("mammo_sae.report.probes"),
    "figure_sweep": Step("mammo_sae.report.sweep"),
    "figure_effects": Step("mammo_sae.report.effects"),
    "figure_latents": Step(
        "mammo_sae.report.latents", report.LatentSheetSettings, "report.latents"
    ),
    "figure_interventions": Step("mammo_sae.report.interventions"),
    "figure_ablation": Step("mammo_sae.report.ablation"),
    "figure_confounds": Step("mammo_sae.report.confounds"),
    "figure_alignment": Step("mammo_sae.report.alignment"),
    "figure_truth": Step("mammo_sae.report.truth"),
}
