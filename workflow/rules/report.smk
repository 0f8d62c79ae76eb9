# Tables, figures and the report: TABLES and FIGURES are what the workflow makes by default.
from snakemake.logging import logger

FIGURE = f"{RESULTS}/figures"
TABLE = f"{RESULTS}/tables"
# The report lists its sections by name, hence the numbers.
SECTIONS = {
    "cohort": "1 Cohort and encoders",
    "sae": "2 Sparse autoencoders",
    "latents": "3 Latents",
    "interventions": "4 Interventions",
    "confounds": "5 Confounders",
    "tables": "6 Tables",
}
# Table -> the parts it is put together from. Other tables have a rule of their own.
PARTS = {
    "encoders": [f"{RESULTS}/heads/{encoder}/scores.parquet" for encoder in ENCODERS],
    "sae_quality": of_runs(f"{ANALYSIS}/quality.parquet"),
    **({"sae_stability": STABILITY} if STABILITY else {}),
    "latents": of_runs(f"{ANALYSIS}/latents.parquet"),
    "alignment": of_runs(f"{ANALYSIS}/alignment.parquet"),
    "confounds": of_runs(f"{ANALYSIS}/confounds.parquet"),
    "probes": of_runs(f"{ANALYSIS}/probes.parquet"),
}
# Interventions are algebra at the head and runs of the network at the inner layers named for them.
HEAD = CONFIG.interventions.layer
INNER = [layer for layer in CONFIG.layers if layer in CONFIG.inner.layers]
EDITED = [layer for layer in CONFIG.layers if layer == HEAD or layer in INNER]
SWEEPS = of_runs(f"{ANALYSIS}/sweep.parquet", layer=HEAD)
if EDITED:
    PARTS["interventions"] = [
        path
        for layer in EDITED
        for path in of_runs(f"{ANALYSIS}/interventions.parquet", layer=layer)
    ]
if HEAD in CONFIG.layers:
    PARTS["effects"] = of_runs(f"{ANALYSIS}/effects.parquet", layer=HEAD)
if HEAD in CONFIG.layers and CONFIG.density_classes:
    PARTS["classes"] = of_runs(f"{ANALYSIS}/classes.parquet", layer=HEAD)
if INNER:
    PARTS["attribution"] = [
        path for layer in INNER for path in of_runs(f"{ANALYSIS}/attribution.parquet", layer=layer)
    ]
MATCHED = [
    path
    for encoder, settings in CONFIG.encoders.items()
    if settings.base is not None
    for path in of_runs(f"{ANALYSIS}/matching.parquet", encoder=encoder, layer=HEAD)
]
if MATCHED:
    PARTS["matched_latents"] = MATCHED
if CONFIG.cohort.kind == "phantom":
    PARTS["truth"] = of_runs(f"{ANALYSIS}/truth.parquet")

# Tables made of other tables.
DERIVED = ["verdicts", *(["published"] if CONFIG.report.published else [])]

# Tables shown in the report, and the file that the page is made of.
SHOWN = {table: f"{TABLE}/{table}.parquet" for table in (*PARTS, *DERIVED)}
SHOWN |= {table: f"{TABLE}/{table}.csv" for table in ("cohort", "registry", "quarantine")}
TABLES = [
    f"{TABLE}/{table}.{suffix}" for table in (*PARTS, *DERIVED) for suffix in ("csv", "parquet")
]
TABLES += [f"{TABLE}/{table}.csv" for table in ("registry", "quarantine")]
BASES = [
    f"{encoder}={settings.base}"
    for encoder, settings in CONFIG.encoders.items()
    if settings.base is not None
]
FIGURES = [
    f"{FIGURE}/cohort.png",
    f"{FIGURE}/encoders.png",
    *expand(f"{FIGURE}/training/{{encoder}}/{{sae}}.png", encoder=ENCODERS, sae=CONFIG.saes),
    *expand(f"{FIGURE}/layers/{{sae}}.png", sae=CONFIG.saes),
    *expand(f"{FIGURE}/readout/{{sae}}.png", sae=CONFIG.saes),
    *(
        figure
        for concept in CONFIG.cohort.concepts
        for figure in (
            *of_runs(f"{FIGURE}/latents/{RUN}/{concept}.png"),
            *of_runs(f"{FIGURE}/confounds/{RUN}/{concept}.png"),
            *of_runs(
                f"{FIGURE}/interventions/{RUN}/{concept}.png", layer=CONFIG.interventions.layer
            ),
        )
    ),
]
if "interventions" in PARTS:
    FIGURES += expand(
        f"{FIGURE}/sweep/{{sae}}/{{concept}}.png", sae=CONFIG.saes, concept=CONFIG.cohort.concepts
    )
if "effects" in PARTS:
    FIGURES += expand(f"{FIGURE}/effects/{{sae}}.png", sae=CONFIG.saes)
if "truth" in PARTS:
    FIGURES.append(f"{FIGURE}/truth.png")
PAGES = [
    f"{RESULTS}/summary.html",
    *(f"{TABLE}/{table}.html" for table in SHOWN),
    f"{RESULTS}/configuration.html",
]
CRATE = f"{RESULTS}/ro-crate-metadata.json"


wildcard_constraints:
    table="|".join(PARTS),
    shown="|".join(SHOWN),
    concept="|".join(CONFIG.cohort.concepts),


rule table:
    input:
        lambda wildcards: PARTS[wildcards.table],
    output:
        csv=f"{TABLE}/{{table}}.csv",
        parquet=f"{TABLE}/{{table}}.parquet",
    log:
        f"{RESULTS}/logs/table/{{table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table/{{table}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("table"),
    message:
        "Table: {wildcards.table}"
    shell:
        "python -m mammo_sae table --csv {output.csv:q} --parquet {output.parquet:q} --parts {input:q}"
        " 2> {log:q}"


rule verdicts:
    input:
        latents=f"{TABLE}/latents.parquet",
        alignment=f"{TABLE}/alignment.parquet",
        confounds=f"{TABLE}/confounds.parquet",
    output:
        csv=f"{TABLE}/verdicts.csv",
        parquet=f"{TABLE}/verdicts.parquet",
    log:
        f"{RESULTS}/logs/verdicts.log",
    benchmark:
        f"{RESULTS}/benchmarks/verdicts.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("verdicts"),
    message:
        "Verdicts of all latents"
    shell:
        "python -m mammo_sae verdicts --latents {input.latents:q} --alignment {input.alignment:q}"
        " --confounds {input.confounds:q} --csv {output.csv:q} --parquet {output.parquet:q}"
        " 2> {log:q}"


rule published:
    input:
        encoders=f"{TABLE}/encoders.parquet",
        latents=f"{TABLE}/latents.parquet",
        interventions=f"{TABLE}/interventions.parquet",
    output:
        csv=f"{TABLE}/published.csv",
        parquet=f"{TABLE}/published.parquet",
    log:
        f"{RESULTS}/logs/published.log",
    benchmark:
        f"{RESULTS}/benchmarks/published.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        cfg=cfg("published"),
        code=code("published"),
    message:
        "Published figures beside the run's"
    shell:
        "python -m mammo_sae published --settings {params.cfg:q} --encoders {input.encoders:q}"
        " --latents {input.latents:q} --interventions {input.interventions:q}"
        " --csv {output.csv:q} --parquet {output.parquet:q} 2> {log:q}"


rule table_page:
    input:
        lambda wildcards: SHOWN[wildcards.shown],
    output:
        report(
            f"{TABLE}/{{shown}}.html",
            caption="../report/table.rst",
            category=SECTIONS["tables"],
            labels={"table": "{shown}"},
        ),
    log:
        f"{RESULTS}/logs/table_page/{{shown}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table_page/{{shown}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("table_page"),
    message:
        "Table as a page: {wildcards.shown}"
    shell:
        "python -m mammo_sae table-page --table {input:q} --output {output:q} 2> {log:q}"


rule summary:
    input:
        encoders=f"{TABLE}/encoders.parquet",
        latents=f"{TABLE}/latents.parquet",
        verdicts=f"{TABLE}/verdicts.parquet",
    output:
        report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "headline figures"},
        ),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("summary"),
        bases=options("--bases", BASES),
        split=CONFIG.probing.confirmation,
    message:
        "Headline figures"
    shell:
        "python -m mammo_sae summary --encoders {input.encoders:q} --latents {input.latents:q}"
        " --verdicts {input.verdicts:q} --split {params.split:q} {params.bases:q}"
        " --output {output:q} 2> {log:q}"


rule figure_cohort:
    input:
        images=COHORT["images"],
        image_stores=image_manifests,
        stores=image_stores,
    output:
        figure=report(
            f"{FIGURE}/cohort.png",
            caption="../report/cohort.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "contact sheet"},
        ),
        counts=f"{TABLE}/cohort.csv",
    log:
        f"{RESULTS}/logs/figure_cohort.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_cohort.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        cfg=cfg("figure_cohort"),
        code=code("figure_cohort"),
        concepts=CONCEPTS,
    message:
        "Figure: cohort"
    shell:
        "python -m mammo_sae figure-cohort --settings {params.cfg:q} --images {input.images:q}"
        " --concepts {params.concepts:q} --counts {output.counts:q} --output {output.figure:q}"
        " --image-stores {input.image_stores:q} 2> {log:q}"


rule configuration:
    output:
        report(
            f"{RESULTS}/configuration.html",
            caption="../report/configuration.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "configuration"},
        ),
    log:
        f"{RESULTS}/logs/configuration.log",
    benchmark:
        f"{RESULTS}/benchmarks/configuration.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        content=CONFIG.public(),
        code=code("configuration"),
    message:
        "Configuration, for the report"
    shell:
        "python -m mammo_sae configuration --content {params.content:q} --output {output:q}"
        " 2> {log:q}"


rule crate:
    input:
        TABLES,
        FIGURES,
        PAGES,
    output:
        CRATE,
    log:
        f"{RESULTS}/logs/crate.log",
    benchmark:
        f"{RESULTS}/benchmarks/crate.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("crate"),
    message:
        "RO-Crate of the run"
    shell:
        "python -m mammo_sae crate --output {output:q} --results {input:q} 2> {log:q}"


rule quarantine:
    input:
        summary=f"{RESULTS}/cohort/summary.json",
        image_stores=image_manifests,
        stores=image_stores,
    output:
        f"{TABLE}/quarantine.csv",
    log:
        f"{RESULTS}/logs/quarantine.log",
    benchmark:
        f"{RESULTS}/benchmarks/quarantine.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("quarantine"),
    message:
        "Files left out or noticed"
    shell:
        "python -m mammo_sae quarantine --summary {input.summary:q} --output {output:q}"
        " --image-stores {input.image_stores:q} 2> {log:q}"


rule registry:
    input:
        [encoder_files(encoder)[1] for encoder in ENCODERS],
    output:
        f"{TABLE}/registry.csv",
    log:
        f"{RESULTS}/logs/registry.log",
    benchmark:
        f"{RESULTS}/benchmarks/registry.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("registry"),
    message:
        "Registry of the encoders"
    shell:
        "python -m mammo_sae registry --output {output:q} --descriptions {input:q} 2> {log:q}"


rule figure_encoders:
    input:
        f"{TABLE}/encoders.parquet",
    output:
        report(
            f"{FIGURE}/encoders.png",
            caption="../report/encoders.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "encoders' predictions"},
        ),
    log:
        f"{RESULTS}/logs/figure_encoders.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_encoders.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_encoders"),
    message:
        "Figure: encoders"
    shell:
        "python -m mammo_sae figure-encoders --encoders {input:q} --output {output:q} 2> {log:q}"


rule figure_training:
    input:
        lambda wildcards: of_runs(f"{SAE}/history.csv", **wildcards),
    output:
        report(
            f"{FIGURE}/training/{{encoder}}/{{sae}}.png",
            caption="../report/training.rst",
            category=SECTIONS["sae"],
            labels={"figure": "training", "encoder": "{encoder}", "SAE": "{sae}"},
        ),
    log:
        f"{RESULTS}/logs/figure_training/{{encoder}}/{{sae}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_training/{{encoder}}/{{sae}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_training"),
        layers=lambda wildcards: of_runs("{layer}", **wildcards),
    message:
        "Figure: training of {wildcards.sae} on {wildcards.encoder}"
    shell:
        "python -m mammo_sae figure-training --encoder-name {wildcards.encoder:q}"
        " --sae-name {wildcards.sae:q} --layers {params.layers:q} --histories {input:q}"
        " --output {output:q} 2> {log:q}"


rule figure_layers:
    input:
        sae_quality=f"{TABLE}/sae_quality.parquet",
        latents=f"{TABLE}/latents.parquet",
        alignment=f"{TABLE}/alignment.parquet",
        confounds=f"{TABLE}/confounds.parquet",
    output:
        report(
            f"{FIGURE}/layers/{{sae}}.png",
            caption="../report/layers.rst",
            category=SECTIONS["sae"],
            labels={"figure": "layer by layer", "encoder": "all", "SAE": "{sae}"},
        ),
    log:
        f"{RESULTS}/logs/figure_layers/{{sae}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_layers/{{sae}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_layers"),
    message:
        "Figure: layers, {wildcards.sae}"
    shell:
        "python -m mammo_sae figure-layers --sae-quality {input.sae_quality:q}"
        " --latents {input.latents:q}"
        " --alignment {input.alignment:q} --confounds {input.confounds:q} --sae-name {wildcards.sae:q}"
        " --output {output:q} 2> {log:q}"


rule figure_readout:
    input:
        f"{TABLE}/probes.parquet",
    output:
        report(
            f"{FIGURE}/readout/{{sae}}.png",
            caption="../report/readout.rst",
            category=SECTIONS["latents"],
            subcategory="all",
            labels={"encoder": "all", "layer": "all", "SAE": "{sae}", "seed": "all"},
        ),
    log:
        f"{RESULTS}/logs/figure_readout/{{sae}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_readout/{{sae}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_readout"),
        split=CONFIG.shown_split("readout"),
    message:
        "Figure: what can be read, {wildcards.sae}"
    shell:
        "python -m mammo_sae figure-readout --probes {input:q} --sae-name {wildcards.sae:q}"
        " --split {params.split:q} --output {output:q} 2> {log:q}"


rule figure_sweep:
    input:
        interventions=f"{TABLE}/interventions.parquet",
        sweeps=SWEEPS,
    output:
        report(
            f"{FIGURE}/sweep/{{sae}}/{{concept}}.png",
            caption="../report/sweep.rst",
            category=SECTIONS["interventions"],
            subcategory="{concept}",
            labels={"encoder": "all", "layer": "all", "SAE": "{sae}", "seed": "all"},
        ),
    log:
        f"{RESULTS}/logs/figure_sweep/{{sae}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_sweep/{{sae}}/{{concept}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_sweep"),
        splits=[f"{layer}={split}" for layer, split in CONFIG.shown_splits().items()],
    message:
        "Figure: interventions on {wildcards.concept} for every k, {wildcards.sae}"
    shell:
        "python -m mammo_sae figure-sweep --interventions {input.interventions:q}"
        " --concept {wildcards.concept:q} --sae-name {wildcards.sae:q} --layer-splits {params.splits:q}"
        " --sweeps {input.sweeps:q} --output {output:q}"
        " 2> {log:q}"


rule figure_effects:
    input:
        effects=f"{TABLE}/effects.parquet",
        matched=[f"{TABLE}/matched_latents.parquet"] if MATCHED else [],
    output:
        report(
            f"{FIGURE}/effects/{{sae}}.png",
            caption="../report/effects.rst",
            category=SECTIONS["interventions"],
            subcategory="effects of single latents",
            labels={"encoder": "all", "layer": HEAD, "SAE": "{sae}", "seed": "all"},
        ),
    log:
        f"{RESULTS}/logs/figure_effects/{{sae}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_effects/{{sae}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_effects"),
        split=CONFIG.shown_split("effects"),
        matched=lambda wildcards, input: options("--matched-latents", input.matched),
    message:
        "Figure: effects of single latents, {wildcards.sae}"
    shell:
        "python -m mammo_sae figure-effects --effects {input.effects:q} {params.matched:q}"
        " --sae-name {wildcards.sae:q} --split {params.split:q} --output {output:q} 2> {log:q}"


rule figure_latents:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        alignment=f"{ANALYSIS}/alignment.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
        image_stores=image_manifests,
        stores=image_stores,
    output:
        report(
            f"{FIGURE}/latents/{RUN}/{{concept}}.png",
            caption="../report/latents.rst",
            category=SECTIONS["latents"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/figure_latents/{RUN}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_latents/{RUN}/{{concept}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        cfg=cfg("figure_latents"),
        code=code("figure_latents"),
        split=CONFIG.probing.confirmation,
    message:
        "Figure: latents of {wildcards.concept}: {wildcards.encoder}, {wildcards.layer},"
        " {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae figure-latents --settings {params.cfg:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --alignment {input.alignment:q}"
        " --confounds {input.confounds:q} --concept {wildcards.concept:q} --split {params.split:q}"
        " --image-stores {input.image_stores:q} --output {output:q} 2> {log:q}"


rule figure_interventions:
    input:
        f"{ANALYSIS}/interventions.parquet",
    output:
        report(
            f"{FIGURE}/interventions/{RUN}/{{concept}}.png",
            caption="../report/interventions.rst",
            category=SECTIONS["interventions"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/figure_interventions/{RUN}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_interventions/{RUN}/{{concept}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_interventions"),
    message:
        "Figure: interventions on {wildcards.concept}: {wildcards.encoder}, {wildcards.sae},"
        " seed {wildcards.seed}"
    shell:
        "python -m mammo_sae figure-interventions --interventions {input:q}"
        " --concept {wildcards.concept:q} --output {output:q} 2> {log:q}"


rule figure_confounds:
    input:
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        report(
            f"{FIGURE}/confounds/{RUN}/{{concept}}.png",
            caption="../report/confounds.rst",
            category=SECTIONS["confounds"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/figure_confounds/{RUN}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_confounds/{RUN}/{{concept}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_confounds"),
        min_kept=CONFIG.confounds.min_kept,
        split=CONFIG.confounds.confirmation,
    message:
        "Figure: confounds of {wildcards.concept}: {wildcards.encoder}, {wildcards.layer},"
        " {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae figure-confounds --latents {input.latents:q}"
        " --confounds {input.confounds:q} --concept {wildcards.concept:q}"
        " --min-kept {params.min_kept:q} --output {output:q} 2> {log:q}"


rule figure_truth:
    input:
        f"{TABLE}/truth.parquet",
    output:
        report(
            f"{FIGURE}/truth.png",
            caption="../report/truth.rst",
            category=SECTIONS["confounds"],
            subcategory="verdicts against the plant",
            labels={"encoder": "all", "layer": "all", "SAE": "all", "seed": "all"},
        ),
    log:
        f"{RESULTS}/logs/figure_truth.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure_truth.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(15),
    params:
        code=code("figure_truth"),
    message:
        "Figure: verdicts against the plant"
    shell:
        "python -m mammo_sae figure-truth --truth {input:q} --output {output:q} 2> {log:q}"


onsuccess:
    # What must not go unread stands at the end of the log, too.
    said = Path(RESULTS) / "logs" / "summary.log"
    for line in said.read_text().splitlines() if said.is_file() else []:
        if line.startswith("warning: "):
            logger.warning(line.removeprefix("warning: "))
