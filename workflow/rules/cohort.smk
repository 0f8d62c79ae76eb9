# The source of images, which is a phantom archive made here or the user's archive, and the two
# tables of the cohort.
SOURCES = CONFIG.sources()

if CONFIG.cohort.kind == "phantom":

    rule phantom:
        output:
            archive=directory(f"{RESULTS}/source/{{part}}"),
            manifest=f"{RESULTS}/source/{{part}}.json",
        log:
            log_of("phantom", "{part}"),
        benchmark:
            benchmark_of("phantom", "{part}")
        conda:
            ENVIRONMENT
        threads: 2
        resources:
            mem_mb=memory,
            runtime=minutes,
        params:
            cfg=cfg("phantom"),
            code=code("phantom"),
        message:
            "Phantom archive: {wildcards.part}"
        shell:
            "python -m mammo_sae phantom --settings {params.cfg:q} --threads {threads}"
            " --archive {output.archive:q} --manifest {output.manifest:q} 2> {log:q}"


rule cohort:
    input:
        sources=source_manifests,
    output:
        **COHORT,
        summary=f"{RESULTS}/cohort/summary.json",
    log:
        log_of("cohort"),
    benchmark:
        benchmark_of("cohort")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("cohort"),
        code=code("cohort"),
        content=cohort_content,
        folders=SOURCES,
    message:
        "Cohort tables"
    shell:
        "python -m mammo_sae cohort --settings {params.cfg:q} --images {output.images:q}"
        " --findings {output.findings:q} --summary {output.summary:q} --sources {params.folders:q}"
        " 2> {log:q}"


# The split of each image, without labels, for steps that use no label.
rule splits:
    input:
        sources=source_manifests,
    output:
        SPLITS,
    log:
        log_of("splits"),
    benchmark:
        benchmark_of("splits")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("splits"),
        code=code("splits"),
        content=splits_content,
        folders=SOURCES,
    message:
        "Splits"
    shell:
        "python -m mammo_sae splits --settings {params.cfg:q} --output {output:q}"
        " --sources {params.folders:q} 2> {log:q}"
