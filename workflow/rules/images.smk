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
        mem_mb=attempts(2000),
        runtime=attempts(60),
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
