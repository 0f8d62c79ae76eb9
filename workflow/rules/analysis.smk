# Analyses of the codes: which latents respond to a concept, what probes can predict from the codes,
# and whether latents fire on the lesion.
ANALYSIS = f"{RESULTS}/analysis/{RUN}"


rule latents:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
    output:
        f"{ANALYSIS}/latents.parquet",
    log:
        log_of("latents", RUN),
    benchmark:
        benchmark_of("latents", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("latents"),
        code=code("latents"),
        concepts=CONCEPTS,
    message:
        "Latents: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae latents --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --concepts {params.concepts:q} --output {output:q} 2> {log:q}"


rule probes:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        f"{ANALYSIS}/probes.parquet",
    log:
        log_of("probes", RUN),
    benchmark:
        benchmark_of("probes", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("probes"),
        code=code("probes"),
        concepts=CONCEPTS,
    message:
        "Probes: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae probes --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --concepts {params.concepts:q} --output {output:q}"
        " --embeddings {input.embeddings:q} 2> {log:q}"


rule alignment:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        image_stores=image_manifests,
        stores=image_stores,
    output:
        output=f"{ANALYSIS}/alignment.parquet",
        by_size=f"{ANALYSIS}/alignment_by_size.parquet",
        regions=f"{ANALYSIS}/regions.parquet",
    log:
        log_of("alignment", RUN),
    benchmark:
        benchmark_of("alignment", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("alignment"),
        code=code("alignment"),
        concepts=CONCEPTS,
    message:
        "Alignment: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae alignment --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --concepts {params.concepts:q}"
        " --image-stores {input.image_stores:q} --output {output.output:q}"
        " --by-size {output.by_size:q} --regions {output.regions:q} 2> {log:q}"


rule saliency:
    input:
        images=COHORT["images"],
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        head=lambda wildcards: head_files(wildcards.encoder),
        image_stores=image_manifests,
        stores=image_stores,
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        embedding_stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        f"{RESULTS}/analysis/{{encoder}}/{{layer}}/saliency.parquet",
    log:
        log_of("saliency", "{encoder}/{layer}"),
    benchmark:
        benchmark_of("saliency", "{encoder}/{layer}")
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("saliency"),
        code=code("saliency"),
        concepts=CONCEPTS,
        encoder=f"{RESULTS}/encoders/{{encoder}}",
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Saliency: {wildcards.encoder}, {wildcards.layer}"
    shell:
        "python -m mammo_sae saliency --settings {params.cfg:q} --encoder-name {wildcards.encoder:q}"
        " --layer {wildcards.layer:q} --images {input.images:q} --image-stores {input.image_stores:q}"
        " --encoder {params.encoder:q} --head {params.head:q} --concepts {params.concepts:q}"
        " --embeddings {input.embeddings:q} --output {output:q} 2> {log:q}"
