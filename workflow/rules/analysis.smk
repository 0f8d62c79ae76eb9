# What the codes say: which latents carry a concept, what the prediction rests on, where latents
# look, and which are a confounder's. Only `inner` runs a network, on the processor.
ANALYSIS = f"{RESULTS}/analysis/{RUN}"


rule probing:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
    output:
        f"{ANALYSIS}/latents.parquet",
    log:
        f"{RESULTS}/logs/probing/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/probing/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(120),
    params:
        cfg=cfg("probing"),
        code=code("probing"),
        concepts=CONCEPTS,
    message:
        "Probing: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae probing --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --concepts {params.concepts:q} --output {output:q} 2> {log:q}"


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
        f"{RESULTS}/logs/interventions/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/interventions/{RUN}.tsv"
    wildcard_constraints:
        layer=CONFIG.interventions.layer,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(120),
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
        f"{RESULTS}/logs/classes/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/classes/{RUN}.tsv"
    wildcard_constraints:
        layer=CONFIG.interventions.layer,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(120),
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
        f"{RESULTS}/logs/effects/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/effects/{RUN}.tsv"
    wildcard_constraints:
        layer=CONFIG.effects.layer,
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(60),
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
        f"{RESULTS}/logs/inner/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/inner/{RUN}.tsv"
    wildcard_constraints:
        layer=r"blocks\.[0-9]+",
    conda:
        ENVIRONMENT
    threads: TORCH_THREADS
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(240),
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


rule matching:
    input:
        before=lambda wildcards: based_on(
            wildcards, [f"{SAE}/sae.json", f"{SAE}/sae.safetensors", f"{ANALYSIS}/effects.parquet"]
        ),
        after=[f"{SAE}/sae.json", f"{SAE}/sae.safetensors", f"{ANALYSIS}/effects.parquet"],
    output:
        f"{ANALYSIS}/matching.parquet",
    log:
        f"{RESULTS}/logs/matching/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/matching/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        cfg=cfg("matching"),
        code=code("matching"),
    message:
        "Matched latents: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae matching --settings {params.cfg:q} --sae-before {input.before[0]:q}"
        " --sae-after {input.after[0]:q} --effects-before {input.before[2]:q}"
        " --effects-after {input.after[2]:q} --output {output:q} 2> {log:q}"


rule readout:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, wildcards.layer),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, wildcards.layer),
    output:
        f"{ANALYSIS}/probes.parquet",
    log:
        f"{RESULTS}/logs/readout/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/readout/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(240),
    params:
        cfg=cfg("readout"),
        code=code("readout"),
        concepts=CONCEPTS,
    message:
        "Readout: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae readout --settings {params.cfg:q}"
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
        f"{ANALYSIS}/alignment.parquet",
    log:
        f"{RESULTS}/logs/alignment/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/alignment/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(120),
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
        " --image-stores {input.image_stores:q} --output {output:q} 2> {log:q}"


rule confounds:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        image_stores=image_manifests,
        stores=image_stores,
    output:
        f"{ANALYSIS}/confounds.parquet",
    log:
        f"{RESULTS}/logs/confounds/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/confounds/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(240),
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
        " --concepts {params.concepts:q} --image-stores {input.image_stores:q} --output {output:q}"
        " 2> {log:q}"


rule truth:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        f"{ANALYSIS}/truth.parquet",
    log:
        f"{RESULTS}/logs/truth/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/truth/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        cfg=cfg("truth"),
        code=code("truth"),
    message:
        "Truth: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae truth --settings {params.cfg:q}"
        " --identity {wildcards.encoder:q} {wildcards.layer:q} {wildcards.sae:q} {wildcards.seed:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --confounds {input.confounds:q}"
        " --output {output:q} 2> {log:q}"
