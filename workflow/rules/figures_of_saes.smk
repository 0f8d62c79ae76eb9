# Figures of one SAE, most of them of one concept, the comparison of SAEs with controls, and the
# names of latents.


rule figure_latents:
    input:
        images=COHORT["images"],
        codes=f"{CODES}.json",
        codes_store=ancient(f"{CODES}.zarr"),
        latents=f"{ANALYSIS}/latents.parquet",
        alignment=f"{ANALYSIS}/alignment.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
        naming=[] if CONFIG.text is None else [f"{ANALYSIS}/names.parquet"],
        image_stores=image_manifests,
        stores=image_stores,
    output:
        report(
            f"{FIGURE}/latents/{RUN}/{{concept}}.png",
            caption="../report/latents.rst",
            category=SECTIONS["latents"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        log_of("figure_latents", RUN, "{concept}"),
    benchmark:
        benchmark_of("figure_latents", RUN, "{concept}")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("figure_latents"),
        code=code("figure_latents"),
        split=CONFIG.latents.confirmation,
        naming=lambda wildcards, input: options("--naming", input.naming),
    message:
        "Figure: latents of {wildcards.concept}: {wildcards.encoder}, {wildcards.layer},"
        " {wildcards.sae}, seed {wildcards.seed}"
    shell:
        "python -m mammo_sae figure_latents --settings {params.cfg:q} --images {input.images:q}"
        " --codes {input.codes:q} --latents {input.latents:q} --alignment {input.alignment:q}"
        " --confounds {input.confounds:q} {params.naming:q} --concept {wildcards.concept:q}"
        " --split {params.split:q}"
        " --image-stores {input.image_stores:q} --output {output:q} 2> {log:q}"


use rule figure_encoders as figure_interventions with:
    input:
        interventions=f"{ANALYSIS}/interventions.parquet",
    output:
        report(
            f"{FIGURE}/interventions/{RUN}/{{concept}}.png",
            caption="../report/interventions.rst",
            category=SECTIONS["interventions"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        log_of("figure_interventions", RUN, "{concept}"),
    benchmark:
        benchmark_of("figure_interventions", RUN, "{concept}")
    params:
        step="figure_interventions",
        code=code("figure_interventions"),
        shown=["--concept", "{concept}"],
    message:
        "Figure: interventions on {wildcards.concept}: {wildcards.encoder}, {wildcards.sae},"
        " seed {wildcards.seed}"


use rule figure_encoders as figure_confounds with:
    input:
        latents=f"{ANALYSIS}/latents.parquet",
        confounds=f"{ANALYSIS}/confounds.parquet",
    output:
        report(
            f"{FIGURE}/confounds/{RUN}/{{concept}}.png",
            caption="../report/confounds.rst",
            category=SECTIONS["confounds"],
            subcategory="{concept}",
            labels={"encoder": "{encoder}", "layer": "{layer}", "SAE": "{sae}", "seed": "{seed}"},
        ),
    log:
        log_of("figure_confounds", RUN, "{concept}"),
    benchmark:
        benchmark_of("figure_confounds", RUN, "{concept}")
    params:
        step="figure_confounds",
        code=code("figure_confounds"),
        shown=["--concept", "{concept}", "--min-kept", CONFIG.confounds.min_kept],
        min_kept=CONFIG.confounds.min_kept,
        split=CONFIG.confounds.confirmation,
    message:
        "Figure: confounds of {wildcards.concept}: {wildcards.encoder}, {wildcards.layer},"
        " {wildcards.sae}, seed {wildcards.seed}"


use rule figure_encoders as figure_ablation with:
    input:
        ablation=f"{TABLE}/ablation.parquet",
        reliance=f"{TABLE}/reliance.parquet",
    output:
        report(
            f"{FIGURE}/ablation/{{sae}}.png",
            caption="../report/ablation.rst",
            category=SECTIONS["confounds"],
            subcategory="what predictions rest on",
            labels={"encoder": "all", "layer": HEAD, "SAE": "{sae}", "seed": "first"},
        ),
    log:
        log_of("figure_ablation", "{sae}"),
    benchmark:
        benchmark_of("figure_ablation", "{sae}")
    params:
        step="figure_ablation",
        code=code("figure_ablation"),
        shown=["--sae-name", "{sae}"],
    message:
        "Figure: what predictions rest on, {wildcards.sae}"


use rule table as controls with:
    input:
        probes=f"{TABLE}/probes.parquet",
        latents=f"{TABLE}/latents.parquet",
        alignment=f"{TABLE}/alignment.parquet",
        verdicts=f"{TABLE}/verdicts.parquet",
        interventions=[f"{TABLE}/interventions.parquet"] if "interventions" in PARTS else [],
    output:
        csv=f"{TABLE}/controls.csv",
        parquet=f"{TABLE}/controls.parquet",
    log:
        log_of("controls"),
    benchmark:
        benchmark_of("controls")
    params:
        step="controls",
        code=code("controls"),
        shown=["--control-saes", *CONTROLS],
    message:
        "Trained SAEs against controls"


use rule table as names with:
    input:
        naming=of_runs(f"{ANALYSIS}/names.parquet"),
        latents=f"{TABLE}/latents.parquet",
        verdicts=f"{TABLE}/verdicts.parquet",
    output:
        csv=f"{TABLE}/names.csv",
        parquet=f"{TABLE}/names.parquet",
    log:
        log_of("names"),
    benchmark:
        benchmark_of("names")
    params:
        step="names",
        code=code("names"),
    message:
        "Names of all latents"
