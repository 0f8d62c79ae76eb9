# One forward pass per image for all the layers of a pass (src/mammo_sae/passes.py).


rule extract:
    input:
        encoder=lambda wildcards: encoder_files(wildcards.encoder),
        images=f"{RESULTS}/images/{{shard}}.json",
        store=ancient(f"{RESULTS}/images/{{shard}}.zarr"),
        frozen=frozen_manifest,
        frozen_store=lambda wildcards: ancient(
            [path.removesuffix(".json") for path in frozen_manifest(wildcards)]
        ),
    output:
        store=directory(f"{RESULTS}/embeddings/{{encoder}}/{{layers}}/{{shard}}"),
        manifest=f"{RESULTS}/embeddings/{{encoder}}/{{layers}}/{{shard}}.json",
    log:
        f"{RESULTS}/logs/extract/{{encoder}}/{{layers}}/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/extract/{{encoder}}/{{layers}}/{{shard}}.tsv"
    conda:
        ENVIRONMENT
    threads: TORCH_THREADS
    resources:
        gpu=1,
        mem_mb=attempts(3000),
        runtime=attempts(60),
    params:
        cfg=cfg("extract"),
        code=code("extract"),
        folder=f"{RESULTS}/encoders/{{encoder}}",
        frozen=lambda wildcards: options("--frozen", frozen_manifest(wildcards)),
    message:
        "Embeddings: {wildcards.encoder}, {wildcards.layers}, shard {wildcards.shard}"
    shell:
        "python -m mammo_sae extract --settings {params.cfg:q} --encoder {params.folder:q}"
        " --layers {wildcards.layers:q} --images {input.images:q} {params.frozen:q}"
        " --store {output.store:q} --manifest {output.manifest:q} 2> {log:q}"
