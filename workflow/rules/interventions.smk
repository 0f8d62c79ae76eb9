# Interventions show which latents predictions depend on: latents are kept or dropped. At the head
# the edited logits have a closed form. At inner layers the rest of the network is run on the CPU.


# At the head, `interventions` runs for encoders whose predictions are linear there, and `inner` for
# the others.
ruleorder: interventions > inner


rule interventions:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        head=lambda wildcards: head_files(wildcards.encoder),
        predictions=f"{RESULTS}/heads/{{encoder}}/predictions.parquet",
    output:
        interventions=f"{ANALYSIS}/interventions.parquet",
        sweep=f"{ANALYSIS}/sweep.parquet",
    log:
        log_of("interventions", RUN),
    benchmark:
        benchmark_of("interventions", RUN)
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
        cfg=cfg("interventions"),
        code=code("interventions"),
        concepts=CONCEPTS,
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Interventions: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae interventions --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --sae {input.sae[1]:q}"
        " --head {params.head:q} --predictions {input.predictions:q} --concepts {params.concepts:q}"
        " --interventions {output.interventions:q} --sweep {output.sweep:q} 2> {log:q}"


rule classes:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        head=lambda wildcards: head_files(wildcards.encoder),
        predictions=f"{RESULTS}/heads/{{encoder}}/predictions.parquet",
    output:
        f"{ANALYSIS}/classes.parquet",
    log:
        log_of("classes", RUN),
    benchmark:
        benchmark_of("classes", RUN)
    wildcard_constraints:
        layer=HEAD,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("classes"),
        code=code("classes"),
        concepts=CONFIG.density_classes,
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Classes of density: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae classes --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --sae {input.sae[1]:q}"
        " --head {params.head:q} --predictions {input.predictions:q} --concepts {params.concepts:q}"
        " --output {output:q} 2> {log:q}"


rule effects:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        head=lambda wildcards: head_files(wildcards.encoder),
    output:
        f"{ANALYSIS}/effects.parquet",
    log:
        log_of("effects", RUN),
    benchmark:
        benchmark_of("effects", RUN)
    wildcard_constraints:
        layer=HEAD,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("effects"),
        code=code("effects"),
        concepts=CONCEPTS,
        head=lambda wildcards, input: Path(input.head[1]).parent,
    message:
        "Effects of latents: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae effects --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --sae {input.sae[1]:q}"
        " --head {params.head:q} --concepts {params.concepts:q} --output {output:q} 2> {log:q}"


rule inner:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        sae=[f"{SAE}/sae.safetensors", f"{SAE}/sae.json"],
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        head=lambda wildcards: head_files(wildcards.encoder),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        interventions=f"{ANALYSIS}/interventions.parquet",
        attribution=f"{ANALYSIS}/attribution.parquet",
    log:
        log_of("inner", RUN),
    benchmark:
        benchmark_of("inner", RUN)
    wildcard_constraints:
        layer=rf"blocks\.[0-9]+|{HEAD}",
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("inner"),
        code=code("inner"),
        concepts=CONCEPTS,
        encoder=f"{RESULTS}/encoders/{{encoder}}",
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Inner interventions: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae inner --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --sae {input.sae[1]:q}"
        " --encoder {params.encoder:q} --head {params.head:q} --concepts {params.concepts:q}"
        " --interventions {output.interventions:q} --attribution {output.attribution:q}"
        " --embeddings {input.embeddings:q} 2> {log:q}"


rule matched_latents:
    input:
        before=lambda wildcards: based_on(
            wildcards, [f"{SAE}/sae.json", f"{SAE}/sae.safetensors", f"{ANALYSIS}/effects.parquet"]
        ),
        after=[f"{SAE}/sae.json", f"{SAE}/sae.safetensors", f"{ANALYSIS}/effects.parquet"],
    output:
        f"{ANALYSIS}/matched_latents.parquet",
    log:
        log_of("matched_latents", RUN),
    benchmark:
        benchmark_of("matched_latents", RUN)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("matched_latents"),
        code=code("matched_latents"),
    message:
        "Matched latents: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae matched_latents --settings {params.cfg:q} --sae-before {input.before[0]:q}"
        " --sae-after {input.after[0]:q} --effects-before {input.before[2]:q}"
        " --effects-after {input.after[2]:q} --output {output:q} 2> {log:q}"
