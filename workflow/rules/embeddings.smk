# One forward pass per image gives all layers of a pass (src/mammo_sae/passes.py).


rule extract:
    input:
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        image_store=f"{RESULTS}/images/{{shard}}.json",
        store=ancient(f"{RESULTS}/images/{{shard}}.zarr"),
        base_embeddings=frozen_manifest,
        base_store=lambda wildcards: ancient(
            [path.removesuffix(".json") for path in frozen_manifest(wildcards)]
        ),
    output:
        store=directory(f"{RESULTS}/embeddings/{{encoder}}/{{layers}}/{{shard}}"),
        manifest=f"{RESULTS}/embeddings/{{encoder}}/{{layers}}/{{shard}}.json",
    log:
        log_of("extract", "{encoder}/{layers}/{shard}"),
    benchmark:
        benchmark_of("extract", "{encoder}/{layers}/{shard}")
    wildcard_constraints:
        shard=f"[0-9]+|{PAIRS}",
    conda:
        ENVIRONMENT
    threads: torch_threads
    resources:
        gpu=gpu,
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("extract"),
        code=code("extract"),
        folder=f"{RESULTS}/encoders/{{encoder}}",
        layers=lambda wildcards: layers_of(wildcards.layers),
        base=lambda wildcards, input: options("--base-embeddings", input.base_embeddings),
    message:
        "Embeddings: {wildcards.encoder}, {wildcards.layers}, shard {wildcards.shard}"
    shell:
        "python -m mammo_sae extract --settings {params.cfg:q} --encoder {params.folder:q}"
        " --layers {params.layers:q} --image-store {input.image_store:q} {params.base:q}"
        " --store {output.store:q} --manifest {output.manifest:q} 2> {log:q}"
