# The latent atlas: pages that a browser opens from a folder.
from mammo_sae.atlas.assets import assets_digest


rule atlas:
    input:
        images=COHORT["images"],
        image_stores=image_manifests,
        stores=image_stores,
        codes=of_runs(f"{CODES}.json"),
        codes_stores=ancient(of_runs(f"{CODES}.zarr")),
        saes=of_runs(f"{SAE}/sae.json"),
        weights=of_runs(f"{SAE}/sae.safetensors"),
        heads=[head_files(encoder)[1] for encoder in ENCODERS],
        head_weights=[head_files(encoder)[0] for encoder in ENCODERS],
        logits=expand(f"{RESULTS}/heads/{{encoder}}/predictions.parquet", encoder=ENCODERS),
        tables=[f"{TABLE}/{table}.parquet" for table in (*PARTS, *DERIVED)],
        registry=f"{TABLE}/registry.csv",
    output:
        store=directory(f"{RESULTS}/atlas"),
        manifest=ATLAS,
    log:
        log_of("atlas"),
    benchmark:
        benchmark_of("atlas")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("atlas"),
        code=code("atlas"),
        assets=assets_digest(),
        content=CONFIG.public(),
        split=CONFIG.latents.confirmation,
    message:
        "Latent atlas"
    shell:
        "python -m mammo_sae atlas --settings {params.cfg:q} --images {input.images:q}"
        " --image-stores {input.image_stores:q} --codes {input.codes:q} --saes {input.saes:q}"
        " --heads {input.heads:q} --logits {input.logits:q} --tables {input.tables:q}"
        " --registry {input.registry:q} --content {params.content:q} --split {params.split:q}"
        " --store {output.store:q} --manifest {output.manifest:q} 2> {log:q}"
