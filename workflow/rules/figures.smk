# The figures of the report. Most rules use the command of the simplest rule, `figure_encoders`:
# inputs with a name become options of that name, and `shown` has further options. Captions read the
# parameters `split` and `min_kept`. Figures with settings or stores have commands of their own.


rule figure_encoders:
    input:
        encoders=f"{TABLE}/encoders.parquet",
    output:
        report(
            f"{FIGURE}/encoders.png",
            caption="../report/encoders.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "encoders' predictions"},
        ),
    log:
        log_of("figure_encoders"),
    benchmark:
        benchmark_of("figure_encoders")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        step="figure_encoders",
        code=code("figure_encoders"),
        inputs=named_inputs,
        shown=[],
    message:
        "Figure: encoders"
    shell:
        "python -m mammo_sae {params.step:q} {params.inputs:q} {params.shown:q} --output {output:q} 2> {log:q}"


use rule figure_encoders as figure_training with:
    input:
        histories=lambda wildcards: of_runs(f"{SAE}/history.csv", **wildcards),
    output:
        report(
            f"{FIGURE}/training/{{encoder}}/{{sae}}.png",
            caption="../report/training.rst",
            category=SECTIONS["sae"],
            labels={"figure": "training", "encoder": "{encoder}", "SAE": "{sae}"},
        ),
    log:
        log_of("figure_training", "{encoder}/{sae}"),
    benchmark:
        benchmark_of("figure_training", "{encoder}/{sae}")
    params:
        step="figure_training",
        code=code("figure_training"),
        shown=lambda wildcards: [
            *("--encoder-name", wildcards.encoder, "--sae-name", wildcards.sae),
            *("--layers", *of_runs("{layer}", **wildcards)),
        ],
    message:
        "Figure: training of {wildcards.sae} on {wildcards.encoder}"


use rule figure_encoders as figure_layers with:
    input:
        sae_quality=f"{TABLE}/sae_quality.parquet",
        latents=f"{TABLE}/latents.parquet",
        alignment=f"{TABLE}/alignment.parquet",
        confounds=f"{TABLE}/confounds.parquet",
    output:
        report(
            f"{FIGURE}/layers/{{sae}}.png",
            caption="../report/layers.rst",
            category=SECTIONS["sae"],
            labels={"figure": "layer by layer", "encoder": "all", "SAE": "{sae}"},
        ),
    log:
        log_of("figure_layers", "{sae}"),
    benchmark:
        benchmark_of("figure_layers", "{sae}")
    params:
        step="figure_layers",
        code=code("figure_layers"),
        shown=["--sae-name", "{sae}"],
    message:
        "Figure: layers, {wildcards.sae}"


use rule figure_encoders as figure_probes with:
    input:
        probes=f"{TABLE}/probes.parquet",
    output:
        report(
            f"{FIGURE}/probes/{{sae}}.png",
            caption="../report/probes.rst",
            category=SECTIONS["latents"],
            subcategory="all",
            labels={"encoder": "all", "layer": "all", "SAE": "{sae}", "seed": "all"},
        ),
    log:
        log_of("figure_probes", "{sae}"),
    benchmark:
        benchmark_of("figure_probes", "{sae}")
    params:
        step="figure_probes",
        code=code("figure_probes"),
        shown=["--sae-name", "{sae}", "--split", CONFIG.shown_split("probes")],
        split=CONFIG.shown_split("probes"),
    message:
        "Figure: what can be read, {wildcards.sae}"


use rule figure_encoders as figure_sweep with:
    input:
        interventions=f"{TABLE}/interventions.parquet",
        sweeps=SWEEPS,
    output:
        report(
            f"{FIGURE}/sweep/{{sae}}/{{concept}}.png",
            caption="../report/sweep.rst",
            category=SECTIONS["interventions"],
            subcategory="{concept}",
            labels={"encoder": "all", "layer": "all", "SAE": "{sae}", "seed": "all"},
        ),
    log:
        log_of("figure_sweep", "{sae}/{concept}"),
    benchmark:
        benchmark_of("figure_sweep", "{sae}/{concept}")
    params:
        step="figure_sweep",
        code=code("figure_sweep"),
        shown=[
            *("--sae-name", "{sae}", "--concept", "{concept}", "--layer-splits"),
            *(f"{layer}={split}" for layer, split in CONFIG.shown_splits().items()),
        ],
    message:
        "Figure: interventions on {wildcards.concept} for every k, {wildcards.sae}"


use rule figure_encoders as figure_effects with:
    input:
        effects=f"{TABLE}/effects.parquet",
        matched_latents=[f"{TABLE}/matched_latents.parquet"] if MATCHED else [],
    output:
        report(
            f"{FIGURE}/effects/{{sae}}.png",
            caption="../report/effects.rst",
            category=SECTIONS["interventions"],
            subcategory="effects of single latents",
            labels={"encoder": "all", "layer": HEAD, "SAE": "{sae}", "seed": "all"},
        ),
    log:
        log_of("figure_effects", "{sae}"),
    benchmark:
        benchmark_of("figure_effects", "{sae}")
    params:
        step="figure_effects",
        code=code("figure_effects"),
        shown=["--sae-name", "{sae}", "--split", CONFIG.shown_split("effects")],
        split=CONFIG.shown_split("effects"),
    message:
        "Figure: effects of single latents, {wildcards.sae}"


use rule figure_encoders as figure_alignment with:
    input:
        alignment=f"{TABLE}/alignment.parquet",
        alignment_by_size=f"{TABLE}/alignment_by_size.parquet",
        saliency=f"{TABLE}/saliency.parquet",
    output:
        report(
            f"{FIGURE}/alignment/{{sae}}.png",
            caption="../report/alignment.rst",
            category=SECTIONS["latents"],
            subcategory="all",
            labels={"encoder": "all", "layer": "all", "SAE": "{sae}", "seed": "first"},
        ),
    log:
        log_of("figure_alignment", "{sae}"),
    benchmark:
        benchmark_of("figure_alignment", "{sae}")
    params:
        step="figure_alignment",
        code=code("figure_alignment"),
        shown=["--sae-name", "{sae}", "--split", CONFIG.alignment.confirmation],
        split=CONFIG.alignment.confirmation,
    message:
        "Figure: activation on the lesion, {wildcards.sae}"


use rule figure_encoders as figure_truth with:
    input:
        truth=f"{TABLE}/truth.parquet",
    output:
        report(
            f"{FIGURE}/truth.png",
            caption="../report/truth.rst",
            category=SECTIONS["confounds"],
            subcategory="verdicts against the ground truth",
            labels={"encoder": "all", "layer": "all", "SAE": "all", "seed": "all"},
        ),
    log:
        log_of("figure_truth"),
    benchmark:
        benchmark_of("figure_truth")
    params:
        step="figure_truth",
        code=code("figure_truth"),
        least=CONFIG.truth.least_response,
        weak=CONFIG.truth.weak_response,
    message:
        "Figure: verdicts against the ground truth"


rule figure_cohort:
    input:
        images=COHORT["images"],
        image_stores=image_manifests,
        stores=image_stores,
    output:
        figure=report(
            f"{FIGURE}/cohort.png",
            caption="../report/cohort.rst",
            category=SECTIONS["cohort"],
            labels={"figure": "contact sheet"},
        ),
        counts=f"{TABLE}/cohort.csv",
    log:
        log_of("figure_cohort"),
    benchmark:
        benchmark_of("figure_cohort")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory,
        runtime=minutes,
    params:
        cfg=cfg("figure_cohort"),
        code=code("figure_cohort"),
        concepts=CONCEPTS,
    message:
        "Figure: cohort"
    shell:
        "python -m mammo_sae figure_cohort --settings {params.cfg:q} --images {input.images:q}"
        " --concepts {params.concepts:q} --counts {output.counts:q} --output {output.figure:q}"
        " --image-stores {input.image_stores:q} 2> {log:q}"
