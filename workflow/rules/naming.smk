# What latents of any encoder are. Names in words: phrases are embedded once per run, and each SAE's latents are named.
# Without a source of phrases (key `text`) no target needs these rules.
PHRASES = f"{RESULTS}/texts"


rule embed_phrases:
    input:
        phrase_sources,
    output:
        phrases=f"{PHRASES}/phrases.parquet",
        vectors=f"{PHRASES}/phrases.safetensors",
    log:
        log_of("embed_phrases"),
    benchmark:
        benchmark_of("embed_phrases")
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("embed_phrases"),
        code=code("embed_phrases"),
        vocabulary=vocabulary(),
    message:
        "Phrases"
    shell:
        "python -m mammo_sae embed_phrases --settings {params.cfg:q}"
        " --vocabulary {params.vocabulary:q} --phrases {output.phrases:q}"
        " --vectors {output.vectors:q} 2> {log:q}"


rule naming:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        phrases=f"{PHRASES}/phrases.parquet",
        vectors=f"{PHRASES}/phrases.safetensors",
        embeddings=named_by,
        stores=named_by_stores,
        sae=named_sae,
    output:
        names=f"{ANALYSIS}/names.parquet",
        by_phrase=f"{ANALYSIS}/phrases.parquet",
    log:
        log_of("naming", RUN),
    benchmark:
        benchmark_of("naming", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("naming"),
        code=code("naming"),
        labels=[f"{name}={category}" for name, category in CONFIG.cohort.concepts.items()],
        directions=lambda wildcards, input: ["--sae", input.sae[0]] if input.sae else [],
    message:
        "Names: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae naming --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --phrases {input.phrases:q} --vectors {input.vectors:q}"
        " --embeddings {input.embeddings:q} --labels {params.labels:q} {params.directions:q}"
        " --names {output.names:q} --by-phrase {output.by_phrase:q} 2> {log:q}"


# Latents of different encoders that activate on the same images.
rule activation_matches:
    input:
        images=COHORT["images"],
        before=lambda wildcards: of_reference(wildcards, [f"{CODES}.json"]),
        after=f"{CODES}.json",
        stores_before=lambda wildcards: ancient(of_reference(wildcards, [f"{CODES}.zarr"])),
        store_after=ancient(f"{CODES}.zarr"),
    output:
        f"{ANALYSIS}/activation_matches.parquet",
    log:
        log_of("activation_matches", RUN),
    benchmark:
        benchmark_of("activation_matches", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("activation_matches"),
        code=code("activation_matches"),
        reference=lambda wildcards: CONFIG.reference(wildcards),
    message:
        "Latents matched by activation: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae},"
        " seed {wildcards.seed}"
    shell:
        "python -m mammo_sae activation_matches --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --reference {params.reference:q} --codes-before {input.before:q}"
        " --codes-after {input.after:q} --output {output:q} 2> {log:q}"
