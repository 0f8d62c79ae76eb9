# The default outputs of the workflow (TABLES, FIGURES and PAGES) and the files from which they are
# made.
FIGURE = f"{RESULTS}/figures"
TABLE = f"{RESULTS}/tables"
# The report sorts its sections by name, so the names begin with numbers.
SECTIONS = {
    "cohort": "1 Cohort and encoders",
    "sae": "2 Sparse autoencoders",
    "latents": "3 Latents",
    "interventions": "4 Interventions",
    "confounds": "5 Confounders",
    "tables": "6 Tables",
}
# Table -> its parts, which one rule combines. Other tables have rules of their own.
PARTS = {
    "encoders": [f"{RESULTS}/heads/{encoder}/scores.parquet" for encoder in ENCODERS],
    "sae_quality": of_runs(f"{ANALYSIS}/sae_quality.parquet"),
    "latents": of_runs(f"{ANALYSIS}/latents.parquet"),
    "alignment": of_runs(f"{ANALYSIS}/alignment.parquet"),
    "alignment_by_size": of_runs(f"{ANALYSIS}/alignment_by_size.parquet"),
    "regions": of_runs(f"{ANALYSIS}/regions.parquet"),
    "saliency": [
        f"{RESULTS}/analysis/{encoder}/{layer}/saliency.parquet"
        for encoder in ENCODERS
        for layer in CONFIG.layers
        if CONFIG.is_used(encoder, layer)
    ],
    "confounds": of_runs(f"{ANALYSIS}/confounds.parquet"),
    "probes": of_runs(f"{ANALYSIS}/probes.parquet"),
}
if CONFIG.replication.splits:
    for table in ("replication", "verdict_replication"):
        PARTS[table] = of_runs(f"{ANALYSIS}/{table}.parquet")
if SEVERAL_SEEDS:
    for table in ("sae_stability", "verdict_stability"):
        PARTS[table] = [f"{folder}/{table}.parquet" for folder in SEVERAL_SEEDS]
# Interventions have a closed form where predictions are linear, and need runs of the network
# elsewhere.
EDITED = [run for run in RUNS if run in LINEAR or run in RERUN]
EDITED_LAYERS = [layer for layer in CONFIG.layers if any(run["layer"] == layer for run in EDITED)]
EXPLAINED_LINEAR = [run for run in EXPLAINED if run in LINEAR]
SWEEPS = of_runs(f"{ANALYSIS}/sweep.parquet", LINEAR)
for table, runs in (("interventions", EDITED), ("attribution", RERUN)):
    PARTS[table] = [
        path
        for layer in EDITED_LAYERS
        for path in of_runs(f"{ANALYSIS}/{table}.parquet", runs, layer=layer)
    ]
for table in ("effects", "absorption", "ablation", "reliance"):
    PARTS[table] = of_runs(f"{ANALYSIS}/{table}.parquet", EXPLAINED_LINEAR)
EXPLAINED_RERUN = [run for run in EXPLAINED if run in RERUN]
PARTS["ablation"] += of_runs(f"{ANALYSIS}/ablation.parquet", EXPLAINED_RERUN)
if CONFIG.density_classes:
    PARTS["classes"] = of_runs(f"{ANALYSIS}/classes.parquet", LINEAR)
# Latents are matched where the base of an encoder has the same SAE.
MATCHED = [
    f"{ANALYSIS}/matched_latents.parquet".format(**run)
    for run in EXPLAINED
    if run["layer"] == HEAD
    and {**run, "encoder": CONFIG.encoders[run["encoder"]].base} in EXPLAINED
]
PARTS["matched_latents"] = MATCHED
PARTS["activation_matches"] = of_runs(
    f"{ANALYSIS}/activation_matches.parquet", [run for run in EXPLAINED if CONFIG.reference(run)]
)
if CONFIG.cohort.kind == "phantom":
    PARTS["truth"] = of_runs(f"{ANALYSIS}/truth.parquet", EXPLAINED)
    PARTS["responses"] = of_runs(f"{ANALYSIS}/responses.parquet", EXPLAINED)
    PARTS["logit_responses"] = [
        f"{RESULTS}/heads/{encoder}/logit_responses.parquet" for encoder in ENCODERS
    ]
if CONFIG.text is not None:
    PARTS["phrases"] = of_runs(f"{ANALYSIS}/phrases.parquet")
# Without labels nothing can be said of concepts. Embeddings, SAEs and codes are the results.
UNLABELLED = not CONCEPTS
if UNLABELLED:
    PARTS = {}
# A run that has no SAE at a layer lacks the tables of this layer.
PARTS = {table: parts for table, parts in PARTS.items() if parts}

# Tables that are computed from other tables.
DERIVED = [
    *([] if UNLABELLED else ["verdicts"]),
    *(["names"] if CONFIG.text is not None and not UNLABELLED else []),
    *(["controls"] if CONTROLS and not UNLABELLED else []),
    *(["published"] if CONFIG.report.published else []),
]

# Tables in the report -> the file from which the page is made.
SHOWN = {table: f"{TABLE}/{table}.parquet" for table in (*PARTS, *DERIVED)}
LISTED = ("registry", "quarantine", *([] if UNLABELLED else ["cohort"]))
SHOWN |= {table: f"{TABLE}/{table}.csv" for table in LISTED}
TABLES = [
    f"{TABLE}/{table}.{suffix}" for table in (*PARTS, *DERIVED) for suffix in ("csv", "parquet")
]
TABLES += [f"{TABLE}/{table}.csv" for table in ("registry", "quarantine")]
BASES = [
    f"{encoder}={settings.base}"
    for encoder, settings in CONFIG.encoders.items()
    if settings.base is not None
]
FIGURES = [
    f"{FIGURE}/cohort.png",
    f"{FIGURE}/encoders.png",
    *of_runs(f"{FIGURE}/training/{{encoder}}/{{sae}}.png"),
    *expand(f"{FIGURE}/layers/{{sae}}.png", sae=CONFIG.saes),
    *expand(f"{FIGURE}/probes/{{sae}}.png", sae=CONFIG.saes),
    *expand(f"{FIGURE}/alignment/{{sae}}.png", sae=CONFIG.saes),
    *(
        figure
        for concept in CONFIG.cohort.concepts
        for figure in (
            *of_runs(f"{FIGURE}/latents/{RUN}/{concept}.png"),
            *of_runs(f"{FIGURE}/confounds/{RUN}/{concept}.png"),
            *of_runs(f"{FIGURE}/interventions/{RUN}/{concept}.png", EDITED, layer=HEAD),
        )
    ),
]
for layer in EDITED_LAYERS:
    for concept in CONFIG.cohort.concepts:
        FIGURES += of_runs(f"{FIGURE}/sweep/{{sae}}/{concept}.png", EDITED, layer=layer)
FIGURES += of_runs(f"{FIGURE}/effects/{{sae}}.png", EXPLAINED_LINEAR)
FIGURES += of_runs(f"{FIGURE}/ablation/{{sae}}.png", EXPLAINED_LINEAR)
# A figure of several runs is there once.
FIGURES = list(dict.fromkeys(FIGURES))
if "truth" in PARTS:
    FIGURES.append(f"{FIGURE}/truth.png")
if UNLABELLED:
    FIGURES = []
PAGES = [
    *([] if UNLABELLED else [f"{RESULTS}/summary.html"]),
    *(f"{TABLE}/{table}.html" for table in SHOWN),
    f"{RESULTS}/configuration.html",
]
ATLAS = f"{RESULTS}/atlas.json"  # the manifest; the start page is atlas/index.html
CRATE = f"{RESULTS}/ro-crate-metadata.json"
# What a run ends with, beside tables, figures and pages.
STORES = of_runs(f"{CODES}.json") if UNLABELLED else [ATLAS]
