"""The words of docs/architecture.md on adding an analysis, followed in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "src", "config", "profiles", "envs", "docs", "tests")

MODULE = '''"""Step: how dark an image is."""

from __future__ import annotations

from pathlib import Path

from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.darkness_settings import DarknessSettings
from mammo_sae.stores.tables import read_table, write_table


def run(settings: DarknessSettings, *, identity: Identity, images: Path, output: Path) -> None:
    """Write the first images of the cohort."""
    write_table(identity.label(read_table(images).head(settings.images)), output)
'''
SETTINGS = '''"""Settings of the step `darkness`."""

from __future__ import annotations

from pydantic import Field

from mammo_sae.settings import Settings


class DarknessSettings(Settings):
    """How dark an image is."""

    images: int = Field(5, ge=1, description="images shown")
'''
VERB = '''@app.command()
def darkness(settings: SettingsText, run: Run, images: Images, output: Output) -> None:
    """Show how dark images are."""
    _run("darkness", settings, identity=_identity(run), images=images, output=output)


@app.command()
def truth('''
RULE = """

rule darkness:
    input:
        images=COHORT["images"],
    output:
        f"{ANALYSIS}/darkness.parquet",
    log:
        f"{RESULTS}/logs/darkness/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/darkness/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        cfg=cfg("darkness"),
        code=code("darkness"),
    message:
        "Darkness: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae darkness --settings {params.cfg:q} --run {wildcards.encoder:q}"
        " {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --output {output:q} 2> {log:q}"
"""
# What every job of every step would be given: its settings and its code.
PARAMETERS = """
import json
from pathlib import Path
from mammo_sae.config import read_config
from mammo_sae.digests import read_pins
from mammo_sae.steps import STEPS
config, pins = read_config([]), read_pins(Path("envs/constraints.txt"))
w = {"part": "test", "layer": "head", "sae": "topk", "seed": "0"}
encoders = {"finetune": "finetuned"}
print(json.dumps({
    name: [
        step.code(pins),
        step.settings and config.slice(name, {**w, "encoder": encoders.get(name, "pretrained")}),
    ]
    for name, step in STEPS.items()
}))
"""


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} no longer holds {old!r}: adapt this test"
    path.write_text(text.replace(old, new, 1))


def python(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def add_analysis(folder: Path) -> None:
    """Follow docs/architecture.md: the files it names, and no other."""
    package, rules = folder / "src" / "mammo_sae", folder / "workflow" / "rules"
    (package / "analysis" / "darkness.py").write_text(MODULE)
    (package / "analysis" / "darkness_settings.py").write_text(SETTINGS)
    imported = "from mammo_sae.analysis.darkness_settings import DarknessSettings\n"
    first = "from mammo_sae.analysis.settings import ("
    edit(package / "config.py", first, imported + first)
    edit(
        package / "config.py",
        "    truth: TruthSettings =",
        '    darkness: DarknessSettings = Field(DarknessSettings(), description="darkness")\n'
        "    truth: TruthSettings =",
    )
    first = "from mammo_sae.analysis import settings as analysis\n"
    edit(package / "steps.py", first, first + imported)
    entry = '    "truth": Step('
    added = '    "darkness": Step("mammo_sae.analysis.darkness", DarknessSettings),\n'
    edit(package / "steps.py", entry, added + entry)
    edit(package / "cli.py", "@app.command()\ndef truth(", VERB)
    rule = rules / "analysis.smk"
    rule.write_text(rule.read_text() + RULE)
    table = '    "latents": of_runs('
    added = '    "darkness": of_runs(f"{ANALYSIS}/darkness.parquet"),\n'
    edit(rules / "report.smk", table, added + table)
    written = python(folder, "-m", "mammo_sae", "default-config")
    (folder / "config" / "config.yaml").write_text(written)
    python(folder, "tests/test_modules.py")


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("adding")
    for part in PARTS:
        source, target = PROJECT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    before = json.loads(python(folder, "-c", PARAMETERS))
    add_analysis(folder)
    return folder, before


def test_an_analysis_that_is_added_makes_no_other_step_stale(copied):
    folder, before = copied
    after = json.loads(python(folder, "-c", PARAMETERS))
    assert after.keys() - before.keys() == {"darkness"}
    assert {name: after[name] for name in before} == before


def test_an_analysis_that_is_added_is_planned_with_its_table(copied):
    folder, _ = copied
    plan = python(folder, "-m", "snakemake", "-n", "--cores", "2")
    assert "analysis/finetuned/head/topk/seed0/darkness.parquet" in plan
    assert "tables/darkness.csv" in plan


@pytest.mark.soak
def test_the_projects_tests_pass_with_an_analysis_that_is_added(copied):
    folder, _ = copied
    files = ("modules", "rules", "slices", "config", "cli", "stale", "settings", "digests")
    python(
        folder,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."),
        *(f"tests/test_{name}.py" for name in files),
    )
