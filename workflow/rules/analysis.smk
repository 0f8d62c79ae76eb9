# What the codes say: which latents carry a concept, what the prediction rests on, where latents
# look, and which are a confounder's. None of these needs torch.
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
        "python -m mammo_sae probing --settings {params.cfg:q} --run {wildcards.encoder}"
        " {wildcards.layer} {wildcards.sae} {wildcards.seed} --images {input.images}"
        " --codes {input.codes} --concepts {params.concepts} --output {output} 2> {log}"


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
        f"{ANALYSIS}/interventions.parquet",
    log:
        f"{RESULTS}/logs/interventions/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/interventions/{RUN}.tsv"
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
        head=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Interventions: {wildcards.encoder}, {wildcards.layer}, {wildcards.sae}, seed"
        " {wildcards.seed}"
    shell:
        "python -m mammo_sae interventions --settings {params.cfg:q} --run {wildcards.encoder}"
        " {wildcards.layer} {wildcards.sae} {wildcards.seed} --images {input.images}"
        " --codes {input.codes} --latents {input.latents} --sae {input.sae[1]}"
        " --head {params.head} --predictions {input.predictions} --concepts {params.concepts}"
        " --output {output} 2> {log}"


rule alignment:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        manifests=image_manifests,
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
        "python -m mammo_sae alignment --settings {params.cfg:q} --run {wildcards.encoder}"
        " {wildcards.layer} {wildcards.sae} {wildcards.seed} --images {input.images}"
        " --codes {input.codes} --latents {input.latents} --concepts {params.concepts}"
        " --output {output} {input.manifests} 2> {log}"


rule confounds:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        manifests=image_manifests,
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
        "python -m mammo_sae confounds --settings {params.cfg:q} --run {wildcards.encoder}"
        " {wildcards.layer} {wildcards.sae} {wildcards.seed} --images {input.images}"
        " --codes {input.codes} --latents {input.latents}"
        " --concepts {params.concepts} --output {output} {input.manifests} 2> {log}"


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
        "python -m mammo_sae truth --settings {params.cfg:q} --run {wildcards.encoder}"
        " {wildcards.layer} {wildcards.sae} {wildcards.seed} --images {input.images}"
        " --codes {input.codes} --latents {input.latents} --confounds {input.confounds}"
        " --output {output} 2> {log}"
