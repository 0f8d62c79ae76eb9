# The ground truth of a phantom. Pairs of images differ in one finding or artefact. They show what
# latents and predictions respond to. The verdicts are compared with these responses.


rule pairs:
    output:
        store=directory(f"{RESULTS}/images/{PAIRS}.zarr"),
        manifest=f"{RESULTS}/images/{PAIRS}.json",
        pairs=f"{RESULTS}/pairs/pairs.parquet",
    log:
        log_of("pairs"),
    benchmark:
        benchmark_of("pairs")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("pairs"),
        code=code("pairs"),
    message:
        "Pairs of phantom images"
    shell:
        "python -m mammo_sae pairs --settings {params.cfg:q} --store {output.store:q}"
        " --manifest {output.manifest:q} --pairs {output.pairs:q} 2> {log:q}"


rule responses:
    input:
        pairs=rules.pairs.output.pairs,
        codes=f"{CODES}.{PAIRS}.json",
        codes_store=ancient(f"{CODES}.{PAIRS}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/responses.parquet",
    log:
        log_of("responses", RUN),
    benchmark:
        benchmark_of("responses", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("responses"),
        code=code("responses"),
    message:
        "Responses: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae responses --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --pairs {input.pairs:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --confounds {input.confounds:q}"
        " --output {output:q} 2> {log:q}"


rule logit_responses:
    input:
        pairs=rules.pairs.output.pairs,
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, "pooled", [PAIRS]),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, "pooled", [PAIRS]),
        head=lambda wildcards: head_files(wildcards.encoder),
    output:
        f"{RESULTS}/heads/{{encoder}}/logit_responses.parquet",
    log:
        log_of("logit_responses", "{encoder}"),
    benchmark:
        benchmark_of("logit_responses", "{encoder}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("logit_responses"),
        code=code("logit_responses"),
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Responses of the logits: {wildcards.encoder}"
    shell:
        "python -m mammo_sae logit_responses --settings {params.cfg:q}"
        " --encoder-name {wildcards.encoder:q} --pairs {input.pairs:q}"
        " --embeddings {input.embeddings:q} --head {params.head:q} --output {output:q} 2> {log:q}"


rule truth:
    input:
        responses=rules.responses.output,
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/truth.parquet",
    log:
        log_of("truth", RUN),
    benchmark:
        benchmark_of("truth", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("truth"),
        code=code("truth"),
        component=CONFIG.true_component,
    message:
        "Truth: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae truth --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q}"
        " --responses {input.responses:q} --confounds {input.confounds:q}"
        " --component {params.component:q} --output {output:q} 2> {log:q}"
