"""Functions that follow the instructions of docs/architecture.md on additions, in a copy."""

from __future__ import annotations

from pathlib import Path

MODULE = '''"""Step: how dark an image is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mammo_sae.analysis.cases import Identity
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import DarknessSettings


def run(
    settings: DarknessSettings, *, identity: Identity, images: Path, output: Path
) -> list[Path]:
    """Write the first images of the cohort.

    Parameters
    ----------
    images
        Image table.
    output
        Table to write (.parquet).
    """
    write_table(identity.label(read_table(images).head(settings.images)), output)
    return [output]
'''
SETTINGS = '''class DarknessSettings(Settings):
    """How dark an image is."""

    images: int = Field(5, ge=1, description="images shown")


class TruthSettings('''
RULE = """

rule darkness:
    input:
        images=COHORT["images"],
    output:
        f"{ANALYSIS}/darkness.parquet",
    log:
        log_of("darkness", RUN),
    benchmark:
        benchmark_of("darkness", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("darkness"),
        code=code("darkness"),
    message:
        "Darkness: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae darkness --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q}"
        " --images {input.images:q} --output {output:q} 2> {log:q}"
"""

THINNED = '''"""TopK with half as many active latents."""

from __future__ import annotations

from torch import Tensor

from mammo_sae.sae.variants.topk import TopK


class Thinned(TopK):
    """A TopK SAE that keeps half of its latents."""

    def select(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return index and value of the larger half of the active latents."""
        return self.candidates(u, max(1, self.settings.k // 2))


VARIANT = Thinned
'''
THINNED_SETTINGS = '''class ThinnedVariant(AuxKVariant):
    """TopK with half as many active latents."""

    name: Literal["thinned"] = Field("thinned", description="sparsity rule")


class BatchTopKVariant('''
READER = '''"""A dataset of CMMD's form."""

from __future__ import annotations

from mammo_sae.cohorts.cmmd import CmmdReader


class SecondReader(CmmdReader):
    """A folder of CMMD's form."""


READER = SecondReader
'''
READER_SETTINGS = '''class SecondCohort(CmmdCohort):
    """A dataset of CMMD's form."""

    kind: Literal["second"] = Field("second", description="a folder of CMMD's form")


CohortSettings = Annotated['''


ZEROS = '''"""Weights that are all zero."""

from __future__ import annotations

from torch import Tensor

from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.network import build
from mammo_sae.encoders.settings import ZerosSource


def read(source: ZerosSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and what is known of them."""
    details = EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source="zeros",
        licence="none needed",
        data="none",
    )
    state = build(details).state_dict()
    return {name: tensor * 0 for name, tensor in state.items()}, details
'''
ZEROS_SETTINGS = '''class ZerosSource(Settings):
    """Weights that are all zero."""

    kind: Literal["zeros"]
    architecture: ArchitectureName = Field(description="which network")


Source = Annotated['''


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} no longer holds {old!r}: adapt this test"
    path.write_text(text.replace(old, new, 1))


def add_analysis(folder: Path) -> None:
    """Add the analysis `darkness`, without writing its generated files."""
    package, rules = folder / "src" / "mammo_sae", folder / "workflow" / "rules"
    (package / "analysis" / "darkness.py").write_text(MODULE)
    edit(package / "analysis" / "settings.py", "class TruthSettings(", SETTINGS)
    edit(
        package / "config.py",
        "    ConfoundSettings,\n",
        "    ConfoundSettings,\n    DarknessSettings,\n",
    )
    edit(
        package / "config.py",
        "    truth: TruthSettings =",
        '    darkness: DarknessSettings = Field(DarknessSettings(), description="darkness")\n'
        "    truth: TruthSettings =",
    )
    entry = '    "truth": Step('
    added = """    "darkness": Step(
        "mammo_sae.analysis.darkness", analysis.DarknessSettings, "darkness", tables=("darkness",)
    ),
"""
    edit(package / "steps.py", entry, added + entry)
    needs = '    "truth": _of_tables('
    edit(package / "resources.py", needs, '    "darkness": _of_tables(0),\n' + needs)
    rule = rules / "analysis.smk"
    rule.write_text(rule.read_text() + RULE)
    table = '    "latents": of_runs('
    added = '    "darkness": of_runs(f"{ANALYSIS}/darkness.parquet"),\n'
    edit(rules / "targets.smk", table, added + table)


def add_variant(folder: Path) -> None:
    """Add the variant `thinned`."""
    sae = folder / "src" / "mammo_sae" / "sae"
    (sae / "variants" / "thinned.py").write_text(THINNED)
    edit(sae / "settings.py", "class BatchTopKVariant(", THINNED_SETTINGS)
    edit(
        sae / "settings.py",
        "    | BatchTopKVariant\n",
        "    | BatchTopKVariant\n    | ThinnedVariant\n",
    )


def add_dataset(folder: Path) -> None:
    """Add the dataset `second`."""
    cohorts = folder / "src" / "mammo_sae" / "cohorts"
    (cohorts / "second.py").write_text(READER)
    edit(cohorts / "settings.py", "CohortSettings = Annotated[", READER_SETTINGS)
    edit(cohorts / "settings.py", "    | CmmdCohort,\n", "    | CmmdCohort\n    | SecondCohort,\n")


def add_source(folder: Path) -> None:
    """Add the encoder source `zeros`."""
    encoders = folder / "src" / "mammo_sae" / "encoders"
    (encoders / "sources" / "zeros.py").write_text(ZEROS)
    edit(encoders / "settings.py", "Source = Annotated[", ZEROS_SETTINGS)
    edit(encoders / "settings.py", " | RandomSource,\n", " | RandomSource | ZerosSource,\n")
