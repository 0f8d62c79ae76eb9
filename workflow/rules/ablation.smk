# Analyses of sets of latents. The latents that a confounder explains are ablated: at the head, and at
# inner layers, where the rest of the network is run on the CPU. At the head, the logit's difference
# between the classes is divided among the verdicts, and the latents over which a concept is split
# are compared with those that absorb it.


# At the head, `ablation` runs for encoders whose predictions are linear there, and `inner_ablation`
# for the others.
ruleorder: ablation > inner_ablation


rule ablation:
    input:
        images=COHORT["images"],
        image_stores=image_manifests,
        stores=image_stores,
        measurements=MEASUREMENTS,
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, "pooled"),
        embedding_stores=lambda wildcards: embedding_stores(wildcards.encoder, "pooled"),
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        head=lambda wildcards: head_files(wildcards.encoder),
        predictions=f"{RESULTS}/heads/{{encoder}}/predictions.parquet",
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/ablation.parquet",
    log:
        log_of("ablation", RUN),
    benchmark:
        benchmark_of("ablation", RUN)
    wildcard_constraints:
        encoder=only({run["encoder"] for run in LINEAR}),
        layer=HEAD,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("ablation"),
        code=code("ablation"),
        concepts=CONCEPTS,
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Ablation: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae ablation --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --sae {input.sae[1]:q} --head {params.head:q}"
        " --predictions {input.predictions:q} --latents {input.latents:q}"
        " --confounds {input.confounds:q} --concepts {params.concepts:q} --output {output:q}"
        " --image-stores {input.image_stores:q} --measurements {input.measurements:q}"
        " --embeddings {input.embeddings:q} 2> {log:q}"


rule inner_ablation:
    input:
        images=COHORT["images"],
        image_stores=image_manifests,
        stores=image_stores,
        measurements=MEASUREMENTS,
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        embedding_stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        head=lambda wildcards: head_files(wildcards.encoder),
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/ablation.parquet",
    log:
        log_of("inner_ablation", RUN),
    benchmark:
        benchmark_of("inner_ablation", RUN)
    wildcard_constraints:
        layer=rf"blocks\.[0-9]+|{HEAD}",
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("inner_ablation"),
        code=code("inner_ablation"),
        concepts=CONCEPTS,
        encoder=f"{RESULTS}/encoders/{{encoder}}",
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Inner ablation: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae inner_ablation --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --sae {input.sae[1]:q} --encoder {params.encoder:q}"
        " --head {params.head:q} --latents {input.latents:q}"
        " --confounds {input.confounds:q} --concepts {params.concepts:q} --output {output:q}"
        " --image-stores {input.image_stores:q} --measurements {input.measurements:q}"
        " --embeddings {input.embeddings:q} 2> {log:q}"


rule absorption:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, "pooled"),
        embedding_stores=lambda wildcards: embedding_stores(wildcards.encoder, "pooled"),
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        latents=f"{ANALYSIS}/latents.parquet",
    output:
        f"{ANALYSIS}/absorption.parquet",
    log:
        log_of("absorption", RUN),
    benchmark:
        benchmark_of("absorption", RUN)
    wildcard_constraints:
        layer=HEAD,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("absorption"),
        code=code("absorption"),
        concepts=CONCEPTS,
    message:
        "Absorption: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae absorption --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --sae {input.sae[1]:q} --latents {input.latents:q}"
        " --concepts {params.concepts:q} --embeddings {input.embeddings:q} --output {output:q} 2> {log:q}"


rule reliance:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        head=lambda wildcards: head_files(wildcards.encoder),
        predictions=f"{RESULTS}/heads/{{encoder}}/predictions.parquet",
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/reliance.parquet",
    log:
        log_of("reliance", RUN),
    benchmark:
        benchmark_of("reliance", RUN)
    wildcard_constraints:
        layer=HEAD,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("reliance"),
        code=code("reliance"),
        concepts=CONCEPTS,
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Reliance on verdicts: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae reliance --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --sae {input.sae[1]:q} --head {params.head:q}"
        " --predictions {input.predictions:q} --latents {input.latents:q}"
        " --confounds {input.confounds:q} --concepts {params.concepts:q} --output {output:q} 2> {log:q}"
