# The networks: imported weights, fine-tuning, the linear probe, and the scores of predictions.
import re

PRETRAINED = [name for name in ENCODERS if CONFIG.encoders[name].kind == "pretrained"]
FINETUNED = [name for name in ENCODERS if CONFIG.encoders[name].kind == "finetuned"]


# Path of a checkpoint to download -> its id on the hub. A file that exists belongs to the user, and
# no rule makes it.
HUB = {
    settings.source.path: settings.source.hub
    for settings in (CONFIG.encoders[name] for name in PRETRAINED)
    if getattr(settings.source, "hub", None) and not Path(settings.source.path).exists()
}

if HUB:

    localrules:
        fetch_checkpoint,

    rule fetch_checkpoint:
        output:
            "{checkpoint}",
        log:
            log_of("fetch_checkpoint", "{checkpoint}"),
        wildcard_constraints:
            checkpoint="|".join(map(re.escape, HUB)),
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory,
            runtime=minutes,
        params:
            hub=lambda wildcards: HUB[wildcards.checkpoint],
        message:
            "Checkpoint: {wildcards.checkpoint}"
        shell:
            "python -m mammo_sae fetch_checkpoint --hub {params.hub:q} --output {output:q}"
            " 2> {log:q}"


rule import_encoder:
    input:
        checkpoint,
    output:
        weights=f"{RESULTS}/encoders/{{encoder}}/encoder.safetensors",
        description=f"{RESULTS}/encoders/{{encoder}}/encoder.json",
    log:
        log_of("import_encoder", "{encoder}"),
    benchmark:
        benchmark_of("import_encoder", "{encoder}")
    wildcard_constraints:
        encoder=only(PRETRAINED),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("import_encoder"),
        code=code("import_encoder"),
    message:
        "Encoder: {wildcards.encoder}"
    shell:
        "python -m mammo_sae import_encoder --settings {params.cfg:q}"
        " --weights {output.weights:q} --description {output.description:q} 2> {log:q}"


rule finetune:
    input:
        images=COHORT["images"],
        encoder=lambda wildcards: encoder_files(CONFIG.encoders[wildcards.encoder].base),
        head=lambda wildcards: head_files(CONFIG.encoders[wildcards.encoder].base),
        embeddings=frozen_embeddings,
        embedding_stores=frozen_stores,
        image_stores=finetuning_images,
        stores=finetuning_stores,
    output:
        weights=f"{RESULTS}/encoders/{{encoder}}/encoder.safetensors",
        description=f"{RESULTS}/encoders/{{encoder}}/encoder.json",
        head_weights=f"{RESULTS}/heads/{{encoder}}/head.safetensors",
        head_description=f"{RESULTS}/heads/{{encoder}}/head.json",
        history=f"{RESULTS}/encoders/{{encoder}}/history.csv",
    log:
        log_of("finetune", "{encoder}"),
    benchmark:
        benchmark_of("finetune", "{encoder}")
    wildcard_constraints:
        encoder=only(FINETUNED),
    # This is the longest job, and half of all jobs wait for it. It starts before others.
    priority: 1
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        gpu=gpu,
        ranks=1,
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("finetune"),
        code=code("finetune"),
        concepts=CONCEPTS,
        launch=several_ranks,
        base=lambda wildcards: f"{RESULTS}/encoders/{CONFIG.encoders[wildcards.encoder].base}",
        base_head=lambda wildcards: f"{RESULTS}/heads/{CONFIG.encoders[wildcards.encoder].base}",
    message:
        "Fine-tuning: {wildcards.encoder}"
    shell:
        "python -m {params.launch:q} mammo_sae finetune --settings {params.cfg:q} --base {params.base:q}"
        " --base-head {params.base_head:q}"
        " --images {input.images:q} --concepts {params.concepts:q}"
        " --weights {output.weights:q} --description {output.description:q} "
        " --head-weights {output.head_weights:q}"
        " --head-description {output.head_description:q} --history {output.history:q}"
        " --embeddings {input.embeddings:q} --image-stores {input.image_stores:q} 2> {log:q}"


rule linear_probe:
    input:
        images=COHORT["images"],
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, "pooled"),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, "pooled"),
    output:
        head_weights=f"{RESULTS}/heads/{{encoder}}/head.safetensors",
        head_description=f"{RESULTS}/heads/{{encoder}}/head.json",
    log:
        log_of("linear_probe", "{encoder}"),
    benchmark:
        benchmark_of("linear_probe", "{encoder}")
    wildcard_constraints:
        encoder=only(PRETRAINED),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("linear_probe"),
        code=code("linear_probe"),
        concepts=CONCEPTS,
        folder=f"{RESULTS}/encoders/{{encoder}}",
    message:
        "Linear probe: {wildcards.encoder}"
    shell:
        "python -m mammo_sae linear_probe --settings {params.cfg:q} --images {input.images:q}"
        " --encoder {params.folder:q}"
        " --embeddings {input.embeddings:q}"
        " --concepts {params.concepts:q} --head-weights {output.head_weights:q}"
        " --head-description {output.head_description:q} 2> {log:q}"


rule evaluate_encoder:
    input:
        images=COHORT["images"],
        head=lambda wildcards: head_files(wildcards.encoder),
        embeddings=lambda wildcards: embedding_manifests(wildcards.encoder, "pooled"),
        stores=lambda wildcards: embedding_stores(wildcards.encoder, "pooled"),
    output:
        predictions=f"{RESULTS}/heads/{{encoder}}/predictions.parquet",
        scores=f"{RESULTS}/heads/{{encoder}}/scores.parquet",
    log:
        log_of("evaluate_encoder", "{encoder}"),
    benchmark:
        benchmark_of("evaluate_encoder", "{encoder}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("evaluate_encoder"),
        code=code("evaluate_encoder"),
        folder=f"{RESULTS}/heads/{{encoder}}",
    message:
        "Predictions: {wildcards.encoder}"
    shell:
        "python -m mammo_sae evaluate_encoder --settings {params.cfg:q}"
        " --encoder-name {wildcards.encoder:q} --images {input.images:q} --head {params.folder:q}"
        " --predictions {output.predictions:q} --scores {output.scores:q}"
        " --embeddings {input.embeddings:q} 2> {log:q}"
