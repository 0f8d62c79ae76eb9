"""The steps of the workflow: which module does each, and what its settings look like.

One rule, one step, one verb of the command line, one `run` function. The module decides the code
digest of the step; the settings model reads its slice of the configuration back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mammo_sae.analysis import settings as analysis
from mammo_sae.cohorts.settings import CohortSettings, SplitSettings
from mammo_sae.digests import code_digest, code_parts
from mammo_sae.encoders import settings as encoders
from mammo_sae.encoders.sources.choice import source_module
from mammo_sae.extensions import tags
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.phantom.settings import PhantomPartSettings
from mammo_sae.report import settings as report
from mammo_sae.sae.settings import SaeTraining, Variant
from mammo_sae.sae.variants.choice import variant_module
from mammo_sae.settings import canonical_json


@dataclass(frozen=True)
class Choice:
    """A module that a step imports by name, because its settings ask for it.

    Attributes
    ----------
    key
        Where in the settings the name stands.
    module
        Name -> module.
    names
        All names that settings may hold there.
    """

    key: Sequence[str]
    module: Callable[[str], str]
    names: Sequence[str]


@dataclass(frozen=True)
class Step:
    """A step's module, whose `run` does the work, and the type of its settings (None: none).

    `choice` says which module it imports besides, if that hangs on its settings.
    """

    module: str
    settings: Any
    choice: Choice | None = None

    def modules(self, settings: str) -> list[str]:
        """Return the modules that the step runs with `settings`, given as JSON."""
        if self.choice is None:
            return [self.module]
        name = json.loads(settings)
        for key in self.choice.key:
            name = name[key]
        return [self.module, self.choice.module(name)]

    def all_modules(self) -> list[str]:
        """Return the modules that the step runs with one settings or another."""
        choice = self.choice
        return [self.module, *(choice.module(name) for name in (choice.names if choice else ()))]

    def digest(self, settings: str) -> str:
        """Return the digest of the code that the step runs with `settings`, given as JSON."""
        return code_digest(*self.modules(settings))

    def code(self, pins: Mapping[str, str], settings: str) -> str:
        """Return the code and the packages that the step runs, part by part, as canonical JSON.

        `settings` are its settings as JSON. A step that has no settings ignores them.
        """
        return canonical_json(code_parts(self.modules(settings), pins))


def _reader(kind: str) -> str:
    from mammo_sae.cohorts.readers import reader_module  # which imports pandas

    return reader_module(kind)


READER = Choice(("kind",), _reader, tags(CohortSettings))
SOURCE = Choice(("source", "kind"), source_module, tags(encoders.Source))
VARIANT = Choice(("variant", "name"), variant_module, tags(Variant))


STEPS = {
    "phantom": Step("mammo_sae.phantom.archive", PhantomPartSettings),
    "cohort": Step("mammo_sae.cohorts.build", CohortSettings, READER),
    "splits": Step("mammo_sae.cohorts.split_table", SplitSettings, READER),
    "images": Step("mammo_sae.images.convert", ConversionSettings, READER),
    "quarantine": Step("mammo_sae.images.quarantine", None),
    "import_encoder": Step("mammo_sae.encoders.importing", encoders.PretrainedSettings, SOURCE),
    "registry": Step("mammo_sae.encoders.registry", None),
    "finetune": Step("mammo_sae.encoders.finetune", encoders.FinetunedSettings),
    "extract": Step("mammo_sae.encoders.extract", encoders.ExtractionSettings),
    "linear_probe": Step("mammo_sae.encoders.linear_probe", encoders.ProbeSettings),
    "evaluate_encoder": Step("mammo_sae.encoders.evaluate", encoders.EvaluationSettings),
    "train_sae": Step("mammo_sae.sae.train", SaeTraining, VARIANT),
    "codes": Step("mammo_sae.sae.codes", None),
    "sae_quality": Step("mammo_sae.analysis.quality", analysis.QualitySettings),
    "sae_stability": Step("mammo_sae.sae.stability", None),
    "probing": Step("mammo_sae.analysis.probing", analysis.ProbingSettings),
    "readout": Step("mammo_sae.analysis.readout", analysis.ReadoutSettings),
    "interventions": Step("mammo_sae.analysis.interventions", analysis.InterventionSettings),
    "classes": Step("mammo_sae.analysis.classes", analysis.InterventionSettings),
    "effects": Step("mammo_sae.analysis.effects", analysis.EffectSettings),
    "inner": Step("mammo_sae.analysis.inner", analysis.InnerSettings),
    "matching": Step("mammo_sae.analysis.matching", analysis.MatchingSettings),
    "alignment": Step("mammo_sae.analysis.alignment", analysis.AlignmentSettings),
    "confounds": Step("mammo_sae.analysis.confounds", analysis.ConfoundSettings),
    "truth": Step("mammo_sae.analysis.truth", analysis.TruthSettings),
    "table": Step("mammo_sae.report.tables", None),
    "table_page": Step("mammo_sae.report.pages", None),
    "verdicts": Step("mammo_sae.report.verdicts", None),
    "summary": Step("mammo_sae.report.summary", None),
    "configuration": Step("mammo_sae.report.configuration", None),
    "crate": Step("mammo_sae.report.crate", None),
    "published": Step("mammo_sae.report.published", report.PublishedSettings | None),
    "figure_cohort": Step("mammo_sae.report.cohort", report.CohortSheetSettings),
    "figure_encoders": Step("mammo_sae.report.encoders", None),
    "figure_training": Step("mammo_sae.report.training", None),
    "figure_layers": Step("mammo_sae.report.layers", None),
    "figure_readout": Step("mammo_sae.report.readout", None),
    "figure_sweep": Step("mammo_sae.report.sweep", None),
    "figure_effects": Step("mammo_sae.report.effects", None),
    "figure_latents": Step("mammo_sae.report.latents", report.LatentSheetSettings),
    "figure_interventions": Step("mammo_sae.report.interventions", None),
    "figure_confounds": Step("mammo_sae.report.confounds", None),
    "figure_truth": Step("mammo_sae.report.truth", None),
}
