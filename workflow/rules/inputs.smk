# What rules read: functions of wildcards, apart from the rules themselves.


def source_manifests(wildcards):
    """Manifests of the phantom's archives; none where they are the user's."""
    if CONFIG.cohort.kind == "phantom":
        return [f"{source}.json" for source in SOURCES]
    return []


@cache
def archive():
    """What the user's archive holds now: a folder's time says nothing of the files inside.

    Returns its state and the digest of its table of splits.
    """
    from mammo_sae.cohorts.check import check_tables
    from mammo_sae.cohorts.state import archive_state

    sources = [Path(source) for source in SOURCES]
    try:
        state = archive_state(CONFIG.cohort, sources)
        # Before jobs are started, and before Snakemake removes what they will make.
        kept = kept_configuration(CONFIG.name).with_suffix(".checked")
        return state, check_tables(CONFIG.cohort, sources, state.tables, kept)
    except InputError as error:
        raise WorkflowError(str(error)) from None


# Of the phantom's archive manifests are inputs instead. A local job runs in a process of its own,
# to which its parameters are given nowhere but in its command: it need not look again.
SEEN = CONFIG.cohort.kind == "phantom" or workflow.subprocess_exec


def cohort_content(wildcards):
    """What the cohort's tables are read from."""
    return "" if SEEN else archive()[0].tables


def splits_content(wildcards):
    """What the table of splits will hold: labels that are edited need not change it."""
    return "" if SEEN else canonical_json({"archive": {"splits": archive()[1]}})


def shard_content(wildcards):
    """What a shard of images is converted from."""
    return "" if SEEN else archive()[0].shards[int(wildcards.shard)]


def frozen_embeddings(wildcards):
    """The base's embeddings that fine-tuning starts from, if a part is frozen."""
    settings = CONFIG.encoders[wildcards.encoder]
    return embedding_manifests(settings.base, settings.freeze) if settings.freeze else []


def frozen_stores(wildcards):
    """The stores of `frozen_embeddings`."""
    settings = CONFIG.encoders[wildcards.encoder]
    return embedding_stores(settings.base, settings.freeze) if settings.freeze else []


def finetuning_images(wildcards):
    """Manifests of the images, which fine-tuning reads if nothing is frozen."""
    return [] if CONFIG.encoders[wildcards.encoder].freeze else image_manifests()


def finetuning_stores(wildcards):
    """The stores of `finetuning_images`."""
    return [] if CONFIG.encoders[wildcards.encoder].freeze else image_stores()


def checkpoint(wildcards):
    """The files that a pretrained encoder's weights are read from, where the user has named them.

    Where the configuration says which file it must be, its time says nothing.
    """
    source = CONFIG.encoders[wildcards.encoder].source
    return [
        part.path if getattr(part, "sha256", None) is None else ancient(part.path)
        for part in (source, *getattr(source, "heads", ()))
        if hasattr(part, "path")
    ]


def frozen_manifest(wildcards):
    """The base's embeddings a fine-tuned encoder starts from, where part of it is frozen."""
    settings = CONFIG.encoders[wildcards.encoder]
    if settings.kind == "finetuned" and settings.freeze is not None:
        return [embedding_manifests(settings.base, settings.freeze)[int(wildcards.shard)]]
    return []


def breast_masks(wildcards):
    """Manifests of the image stores, if an SAE's training asks for their masks."""
    training = CONFIG.saes[wildcards.sae].training(wildcards.layer, int(wildcards.seed))
    return image_manifests() if training.background < 1 else []


def of_seeds(pattern):
    """Files of all seeds of one encoder's, layer's and SAE's run."""
    return lambda wildcards: of_runs(pattern, **wildcards)


def based_on(wildcards, patterns):
    """Files of the same run of the encoder that another one started from."""
    base = CONFIG.encoders[wildcards.encoder].base
    return [pattern.format(**{**wildcards, "encoder": base}) for pattern in patterns]


def trained_beside(wildcards, threads):
    """Options that name the other SAEs of the layer, to be trained in the same pass.

    Where the jobs of this machine take turns anyway. Elsewhere each has a GPU of its own. It takes
    `threads` so that Snakemake never compares it: what is trained beside an SAE changes nothing
    in it.
    """
    gpus = workflow.global_resources.get("gpu")
    if workflow.remote_exec or gpus is None or gpus.value != 1:
        return []
    mine = {**wildcards, "seed": int(wildcards.seed)}
    others = [
        run
        for run in RUNS
        if run != mine and all(run[name] == mine[name] for name in ("encoder", "layer"))
    ]
    settings = {f"{SAE.format(**run)}/sae.json": CONFIG.slice("train_sae", run) for run in others}
    return options("--beside", [f"{path}={text}" for path, text in settings.items()])
