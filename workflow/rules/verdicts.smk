# Verdicts: whether a confounder explains what a latent responds to, and whether other patients and
# other seeds give the same verdict.


rule confounds:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        image_stores=image_manifests,
        stores=image_stores,
        measurements=MEASUREMENTS,
    output:
        f"{ANALYSIS}/confounds.parquet",
    log:
        log_of("confounds", RUN),
    benchmark:
        benchmark_of("confounds", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("confounds"),
        code=code("confounds"),
        concepts=CONCEPTS,
    message:
        "Confounds: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae confounds --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q}"
        " --concepts {params.concepts:q} --image-stores {input.image_stores:q}"
        " --measurements {input.measurements:q} --output {output:q} 2> {log:q}"


rule replication:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        confounds=f"{ANALYSIS}/confounds.parquet",
        image_stores=image_manifests,
        stores=image_stores,
        measurements=MEASUREMENTS,
    output:
        replication=f"{ANALYSIS}/replication.parquet",
        verdict_replication=f"{ANALYSIS}/verdict_replication.parquet",
    log:
        log_of("replication", RUN),
    benchmark:
        benchmark_of("replication", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("replication"),
        code=code("replication"),
        concepts=CONCEPTS,
    message:
        "Verdicts on other splits: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae replication --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --confounds {input.confounds:q} --concepts {params.concepts:q}"
        " --image-stores {input.image_stores:q} --measurements {input.measurements:q}"
        " --replication {output.replication:q} --verdict-replication {output.verdict_replication:q}"
        " 2> {log:q}"


rule verdict_stability:
    input:
        saes=of_seeds(f"{SAE}/sae.json"),
        weights=of_seeds(f"{SAE}/sae.safetensors"),
        confounds=of_seeds(f"{ANALYSIS}/confounds.parquet"),
    output:
        f"{RESULTS}/analysis/{{encoder}}/{{layer}}/{{sae}}/verdict_stability.parquet",
    log:
        log_of("verdict_stability", "{encoder}/{layer}/{sae}"),
    benchmark:
        benchmark_of("verdict_stability", "{encoder}/{layer}/{sae}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        code=code("verdict_stability"),
        seeds=lambda wildcards: CONFIG.saes[wildcards.sae].seeds,
        concepts=CONCEPTS,
    message:
        "Verdicts of other seeds: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}"
    shell:
        "python -m mammo_sae verdict_stability --encoder-name {wildcards.encoder:q}"
        " --layer {wildcards.layer:q} --sae-name {wildcards.sae:q} --seeds {params.seeds:q}"
        " --saes {input.saes:q} --confounds {input.confounds:q} --concepts {params.concepts:q}"
        " --output {output:q} 2> {log:q}"
