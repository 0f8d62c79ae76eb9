# Tables and pages of the report, and the description of the run. Tables use the command of `table`,
# pages and lists use the command of `table_page`. Inputs with a name become options of that name,
# and `shown` has further options.
from snakemake.logging import logger


wildcard_constraints:
    table=only(PARTS),
    shown=only(SHOWN),
    concept=only(CONFIG.cohort.concepts),


rule table:
    input:
        parts=lambda wildcards: PARTS[wildcards.table],
    output:
        csv=f"{TABLE}/{{table}}.csv",
        parquet=f"{TABLE}/{{table}}.parquet",
    log:
        log_of("table", "{table}"),
    benchmark:
        benchmark_of("table", "{table}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        step="table",
        code=code("table"),
        inputs=named_inputs,
        shown=[],
    message:
        "Table: {wildcards.table}"
    shell:
        "python -m mammo_sae {params.step:q} {params.inputs:q} {params.shown:q} --csv {output.csv:q} --parquet {output.parquet:q}"
        " 2> {log:q}"


use rule table as verdicts with:
    input:
        latents=f"{TABLE}/latents.parquet",
        alignment=f"{TABLE}/alignment.parquet",
        confounds=f"{TABLE}/confounds.parquet",
    output:
        csv=f"{TABLE}/verdicts.csv",
        parquet=f"{TABLE}/verdicts.parquet",
    log:
        log_of("verdicts"),
    benchmark:
        benchmark_of("verdicts")
    params:
        step="verdicts",
        code=code("verdicts"),
    message:
        "Verdicts of all latents"


rule published:
    input:
        encoders=f"{TABLE}/encoders.parquet",
        latents=f"{TABLE}/latents.parquet",
        interventions=f"{TABLE}/interventions.parquet",
    output:
        csv=f"{TABLE}/published.csv",
        parquet=f"{TABLE}/published.parquet",
    log:
        log_of("published"),
    benchmark:
        benchmark_of("published")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("published"),
        code=code("published"),
    message:
        "Numbers of the paper and of the run"
    shell:
        "python -m mammo_sae published --settings {params.cfg:q} --encoders {input.encoders:q}"
        " --latents {input.latents:q} --interventions {input.interventions:q}"
        " --csv {output.csv:q} --parquet {output.parquet:q} 2> {log:q}"


rule table_page:
    input:
        table=lambda wildcards: SHOWN[wildcards.shown],
    output:
        report(
            f"{TABLE}/{{shown}}.html",
            caption="../report/table.rst",
            category=SECTIONS["tables"],
            labels={"table": "{shown}"},
        ),
    log:
        log_of("table_page", "{shown}"),
    benchmark:
        benchmark_of("table_page", "{shown}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        step="table_page",
        code=code("table_page"),
        inputs=named_inputs,
        shown=[],
    message:
        "Table as a page: {wildcards.shown}"
    shell:
        "python -m mammo_sae {params.step:q} {params.inputs:q} {params.shown:q} --output {output:q} 2> {log:q}"


use rule table_page as summary with:
    input:
        encoders=f"{TABLE}/encoders.parquet",
        latents=f"{TABLE}/latents.parquet",
        verdicts=f"{TABLE}/verdicts.parquet",
        ablation=[f"{TABLE}/ablation.parquet"] if "ablation" in PARTS else [],
        reliance=[f"{TABLE}/reliance.parquet"] if "reliance" in PARTS else [],
        replication=[f"{TABLE}/replication.parquet"] if "replication" in PARTS else [],
        verdict_replication=(
            [f"{TABLE}/verdict_replication.parquet"] if "verdict_replication" in PARTS else []
        ),
        verdict_stability=(
            [f"{TABLE}/verdict_stability.parquet"] if "verdict_stability" in PARTS else []
        ),
        controls=[f"{TABLE}/controls.parquet"] if CONTROLS else [],
        names=[f"{TABLE}/names.parquet"] if "names" in PARTS else [],
    output:
        report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "headline figures"},
        ),
    log:
        log_of("summary"),
    benchmark:
        benchmark_of("summary")
    params:
        step="summary",
        code=code("summary"),
        shown=["--split", CONFIG.latents.confirmation, *(["--bases", *BASES] if BASES else [])],
        split=CONFIG.latents.confirmation,
    message:
        "Headline figures"


rule configuration:
    output:
        report(
            f"{RESULTS}/configuration.html",
            caption="../report/configuration.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "configuration"},
        ),
    log:
        log_of("configuration"),
    benchmark:
        benchmark_of("configuration")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        content=CONFIG.public(),
        code=code("configuration"),
    message:
        "Configuration, for the report"
    shell:
        "python -m mammo_sae configuration --content {params.content:q} --output {output:q}"
        " 2> {log:q}"


use rule table_page as quarantine with:
    input:
        image_stores,
        summary=f"{RESULTS}/cohort/summary.json",
        image_stores=image_manifests,
    output:
        f"{TABLE}/quarantine.csv",
    log:
        log_of("quarantine"),
    benchmark:
        benchmark_of("quarantine")
    params:
        step="quarantine",
        code=code("quarantine"),
    message:
        "Files left out or noticed"


use rule table_page as registry with:
    input:
        descriptions=[encoder_files(encoder)[1] for encoder in ENCODERS],
    output:
        f"{TABLE}/registry.csv",
    log:
        log_of("registry"),
    benchmark:
        benchmark_of("registry")
    params:
        step="registry",
        code=code("registry"),
    message:
        "Registry of the encoders"


use rule table_page as crate with:
    input:
        results=[*TABLES, *FIGURES, *PAGES],
    output:
        CRATE,
    log:
        log_of("crate"),
    benchmark:
        benchmark_of("crate")
    params:
        step="crate",
        code=code("crate"),
    message:
        "RO-Crate of the run"


onsuccess:
    # An important warning is also printed at the end of the log.
    said = Path(RESULTS) / "logs" / "summary.log"
    for line in said.read_text().splitlines() if said.is_file() else []:
        if line.startswith("warning: "):
            logger.warning(line.removeprefix("warning: "))
    # Snakemake knows one `onsuccess`, so this is here.
    if CONFIG.keep_embeddings == "until_codes" and all(
        Path(path).exists() for path in of_runs(f"{CODES}.json")
    ):
        from mammo_sae.again import drop_embeddings

        drop_embeddings(Path(RESULTS) / "embeddings")
