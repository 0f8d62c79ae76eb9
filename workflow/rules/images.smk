# Conversion of image files to canonical images, one Zarr store per shard of patients.
rule images:
    input:
        sources=source_manifests,
    output:
        store=directory(f"{RESULTS}/images/{{shard}}.zarr"),
        manifest=f"{RESULTS}/images/{{shard}}.json",
    log:
        log_of("images", "{shard}"),
    benchmark:
        benchmark_of("images", "{shard}")
    conda:
        ENVIRONMENT
    # For small images a second thread does not help, but several shards in parallel do.
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("images"),
        code=code("images"),
        content=shard_content,
        folders=SOURCES,
    message:
        "Images: shard {wildcards.shard}"
    shell:
        "python -m mammo_sae images --settings {params.cfg:q}"
        " --shard {wildcards.shard:q}"
        " --threads {threads} --store {output.store:q} --manifest {output.manifest:q}"
        " --sources {params.folders:q} 2> {log:q}"


# Measurements of the canonical images, as candidate confounders.
rule measurements:
    input:
        image_stores=f"{RESULTS}/images/{{shard}}.json",
        stores=ancient(f"{RESULTS}/images/{{shard}}.zarr"),
    output:
        f"{RESULTS}/measurements/{{shard}}.parquet",
    log:
        log_of("measurements", "{shard}"),
    benchmark:
        benchmark_of("measurements", "{shard}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        code=code("measurements"),
    message:
        "Measurements: shard {wildcards.shard}"
    shell:
        "python -m mammo_sae measurements --image-stores {input.image_stores:q} --output {output:q}"
        " 2> {log:q}"
