# Sparse autoencoders: training, codes and quality.
SAE = f"{RESULTS}/sae/{RUN}"
CODES = f"{RESULTS}/codes/{RUN}"


rule train_sae:
    input:
        splits=SPLITS,
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
        image_stores=breast_masks,
        stores_of_images=lambda wildcards: image_stores() if breast_masks(wildcards) else [],
    output:
        weights=f"{SAE}/sae.safetensors",
        description=f"{SAE}/sae.json",
        history=f"{SAE}/history.csv",
    log:
        log_of("train_sae", RUN),
    benchmark:
        benchmark_of("train_sae", RUN)
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        # These jobs take turns even without a GPU, because the first one trains all SAEs of its layer.
        gpu=1,
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("train_sae"),
        code=code("train_sae"),
        beside=trained_beside,
    message:
        "SAE: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae train_sae --settings {params.cfg:q} --layer {wildcards.layer:q}"
        " --splits {input.splits:q} --embeddings {input.embeddings:q}"
        " --image-stores {input.image_stores:q}"
        " --weights {output.weights:q} --description {output.description:q}"
        " --history {output.history:q} {params.beside:q} 2> {log:q}"


# `images` is empty for the cohort's images. The phantom's pairs of images have codes of their own.
rule codes:
    input:
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        embeddings=encoded_manifests,
        stores=encoded_stores,
        image_stores=lambda wildcards: image_manifests(shards=encoded_shards(wildcards)),
        stores_of_images=lambda wildcards: image_stores(shards=encoded_shards(wildcards)),
    output:
        store=directory(f"{CODES}{{images}}.zarr"),
        manifest=f"{CODES}{{images}}.json",
    log:
        log_of("codes", f"{RUN}{{images}}"),
    benchmark:
        benchmark_of("codes", f"{RUN}{{images}}")
    wildcard_constraints:
        images=rf"|\.{PAIRS}",
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        gpu=gpu,
        mem_mb=memory,
        runtime=minutes,
    params:
        code=code("codes"),
    message:
        "Codes{wildcards.images}: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae codes --sae {input.sae[1]:q} --layer {wildcards.layer:q}"
        " --embeddings {input.embeddings:q} --image-stores {input.image_stores:q}"
        " --store {output.store:q} --manifest {output.manifest:q} 2> {log:q}"


rule sae_quality:
    input:
        images=COHORT["images"],
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        head=lambda wildcards: head_files(wildcards.encoder),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        f"{RESULTS}/analysis/{RUN}/sae_quality.parquet",
    log:
        log_of("sae_quality", RUN),
    benchmark:
        benchmark_of("sae_quality", RUN)
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        gpu=gpu,
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("sae_quality"),
        code=code("sae_quality"),
        encoder=f"{RESULTS}/encoders/{{encoder}}",
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Quality: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae sae_quality --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --sae {input.sae[1]:q} --codes {input.codes:q}"
        " --encoder {params.encoder:q} --head {params.head:q}"
        " --embeddings {input.embeddings:q} --output {output:q} 2> {log:q}"


# The folders of SAEs with two or more seeds. Their atoms and verdicts are compared between seeds.
SEVERAL_SEEDS = [
    f"{RESULTS}/analysis/{encoder}/{layer}/{sae}"
    for encoder in ENCODERS
    for layer in CONFIG.layers
    for sae, settings in CONFIG.saes.items()
    if len(settings.seeds) > 1 and settings.covers(encoder, layer)
]


rule sae_stability:
    input:
        saes=of_seeds(f"{SAE}/sae.json"),
        weights=of_seeds(f"{SAE}/sae.safetensors"),
        codes=of_seeds(f"{CODES}.json"),
        codes_stores=lambda wildcards: ancient(of_runs(f"{CODES}.zarr", **wildcards)),
    output:
        f"{RESULTS}/analysis/{{encoder}}/{{layer}}/{{sae}}/sae_stability.parquet",
    log:
        log_of("sae_stability", "{encoder}/{layer}/{sae}"),
    benchmark:
        benchmark_of("sae_stability", "{encoder}/{layer}/{sae}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        code=code("sae_stability"),
        seeds=lambda wildcards: CONFIG.saes[wildcards.sae].seeds,
    message:
        "Seed stability: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}"
    shell:
        "python -m mammo_sae sae_stability --encoder-name {wildcards.encoder:q}"
        " --layer {wildcards.layer:q} --sae-name {wildcards.sae:q} --seeds {params.seeds:q}"
        " --saes {input.saes:q} --codes {input.codes:q} --output {output:q} 2> {log:q}"
