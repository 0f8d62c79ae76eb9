# Sparse autoencoders: training, codes, and how well each does.
SAE = f"{RESULTS}/sae/{RUN}"
CODES = f"{RESULTS}/codes/{RUN}"


rule train_sae:
    input:
        images=SPLITS,
        manifests=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
        masks=breast_masks,
        image_stores=lambda wildcards: image_stores() if breast_masks(wildcards) else [],
    output:
        weights=f"{SAE}/sae.safetensors",
        description=f"{SAE}/sae.json",
        history=f"{SAE}/history.csv",
    log:
        f"{RESULTS}/logs/train_sae/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_sae/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: TORCH_THREADS
    resources:
        gpu=1,
        mem_mb=attempts(4000),
        runtime=attempts(720),
    params:
        cfg=cfg("train_sae"),
        code=code("train_sae"),
        masks=lambda wildcards, input: options("--image-store", input.masks),
        beside=trained_beside,
    message:
        "SAE: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae train-sae --settings {params.cfg:q} --layer {wildcards.layer:q}"
        " --images {input.images:q}"
        " --weights {output.weights:q} --description {output.description:q}"
        " --history {output.history:q} {params.masks:q} {params.beside:q} {input.manifests:q}"
        " 2> {log:q}"


rule codes:
    input:
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        manifests=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
        masks=image_manifests,
        images=image_stores,
    output:
        store=directory(f"{CODES}.zarr"),
        manifest=f"{CODES}.json",
    log:
        f"{RESULTS}/logs/codes/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/codes/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: TORCH_THREADS
    resources:
        gpu=1,
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        code=code("codes"),
        masks=lambda wildcards, input: options("--image-store", input.masks),
    message:
        "Codes: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae codes --sae {input.sae[1]:q} --layer {wildcards.layer:q}"
        " {params.masks:q} --store {output.store:q} --manifest {output.manifest:q}"
        " {input.manifests:q}"
        " 2> {log:q}"


rule sae_quality:
    input:
        images=COHORT["images"],
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        head=lambda wildcards: head_files(wildcards.encoder),
        manifests=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        f"{RESULTS}/analysis/{RUN}/quality.parquet",
    log:
        f"{RESULTS}/logs/sae_quality/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sae_quality/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: TORCH_THREADS
    resources:
        gpu=1,
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        cfg=cfg("sae_quality"),
        code=code("sae_quality"),
        encoder=f"{RESULTS}/encoders/{{encoder}}",
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Quality: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae sae-quality --settings {params.cfg:q} --run {wildcards.encoder:q}"
        " {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --sae {input.sae[1]:q} --codes {input.codes:q}"
        " --encoder {params.encoder:q} --head {params.head:q}"
        " --output {output:q} {input.manifests:q} 2> {log:q}"


# One table per SAE of two seeds or more: how far they agree.
STABILITY = [
    f"{RESULTS}/analysis/{encoder}/{layer}/{sae}/stability.parquet"
    for encoder in ENCODERS
    for layer in CONFIG.layers
    for sae, settings in CONFIG.saes.items()
    if len(settings.seeds) > 1
]


rule sae_stability:
    input:
        saes=of_seeds(f"{SAE}/sae.json"),
        weights=of_seeds(f"{SAE}/sae.safetensors"),
        codes=of_seeds(f"{CODES}.json"),
        codes_stores=lambda wildcards: ancient(of_runs(f"{CODES}.zarr", **wildcards)),
    output:
        f"{RESULTS}/analysis/{{encoder}}/{{layer}}/{{sae}}/stability.parquet",
    log:
        f"{RESULTS}/logs/sae_stability/{{encoder}}/{{layer}}/{{sae}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sae_stability/{{encoder}}/{{layer}}/{{sae}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(6000),
        runtime=attempts(60),
    params:
        code=code("sae_stability"),
        seeds=lambda wildcards, input: [
            word
            for seed, sae, codes in zip(
                CONFIG.saes[wildcards.sae].seeds, input.saes, input.codes, strict=True
            )
            for word in ("--seed", seed, "--description", sae, "--codes", codes)
        ],
    message:
        "Seed stability: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}"
    shell:
        "python -m mammo_sae sae-stability --encoder {wildcards.encoder:q}"
        " --layer {wildcards.layer:q} --sae {wildcards.sae:q} {params.seeds:q} --output {output:q}"
        " 2> {log:q}"
