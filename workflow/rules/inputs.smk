# The input functions of rules, which take wildcards. The rules are in other files.


def source_manifests(wildcards):
    """Manifests of the phantom's archives; none if the archive is the user's own."""
    if CONFIG.cohort.kind == "phantom":
        return [f"{source}.json" for source in SOURCES]
    return []


@cache
def archive():
    """The current state of the user's archive, and the digest of its table of splits.

    The state is computed from the files, because the time of a folder does not show changes of
    files.
    """
    from mammo_sae.cohorts.check import check_tables
    from mammo_sae.cohorts.state import archive_state

    sources = [Path(source) for source in SOURCES]
    try:
        state = archive_state(CONFIG.cohort, sources)
        # This comes before Snakemake starts jobs and removes their outputs.
        kept = kept_configuration(CONFIG.name).with_suffix(".checked")
        return state, check_tables(CONFIG.cohort, sources, state.tables, kept)
    except InputError as error:
        raise WorkflowError(str(error)) from None


# For the phantom's archive, manifests are inputs instead. A local job runs in its own process and
# gets its parameters only in its command, so it does not need the state of the archive.
SEEN = CONFIG.cohort.kind == "phantom" or workflow.subprocess_exec


@cache
def cohort_size():
    """The cohort's number of images, from which memory and time of jobs follow.

    Without a table of the cohort it is that of the user's archive. A job in its own process does
    not need it: what it may use was decided before it was started.
    """
    known = cohort_images(CONFIG)
    if known is None:
        known = 0 if SEEN else archive()[0].images
    return known


def cohort_content(wildcards):
    """The state of the sources of the cohort's tables."""
    return "" if SEEN else archive()[0].tables


def splits_content(wildcards):
    """The digest of the table of splits to be written. An edit of labels may leave it unchanged."""
    return "" if SEEN else canonical_json({"archive": {"splits": archive()[1]}})


def shard_content(wildcards):
    """The state of the sources of one shard of images."""
    return "" if SEEN else archive()[0].shards[int(wildcards.shard)]


def frozen_embeddings(wildcards):
    """The base's embeddings from which fine-tuning starts, if a part is frozen."""
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


def several_ranks(wildcards, resources):
    """The start of a command whose work several processes share, each with its own GPU.

    Nothing for one process. The function takes `resources`, so Snakemake never compares its value:
    the number of ranks does not make a result stale.
    """
    if resources.ranks == 1:
        return []
    ranks = ["--standalone", "--nproc-per-node", str(resources.ranks)]
    return ["mammo_sae.compute.launch", *ranks, "-m"]


def is_of_other_settings(step, wildcards, output):
    """Whether `output` exists and was made with other settings than those of the configuration.

    Snakemake uses an output as it is if an input of its job is missing, even after an edit. Rules
    with files of the user therefore leave a missing file out of their inputs after an edit. Then
    the job runs, and its message names the file. Without an edit, the user may delete the file.
    """
    record = record_path(Path(output))
    if not record.exists():
        return False
    settings = public_settings(json.loads(CONFIG.slice(step, dict(wildcards))))
    return read_json(record).get("config") != settings


def checkpoint(wildcards):
    """The files of a pretrained encoder's weights, if the configuration names them.

    If the configuration has the file's SHA-256, the time of the file does not count.
    """
    source = CONFIG.encoders[wildcards.encoder].source
    changed = is_of_other_settings(
        "import_encoder", wildcards, f"{RESULTS}/encoders/{wildcards.encoder}/encoder.safetensors"
    )
    return [
        path if getattr(part, "sha256", None) is None else ancient(path)
        for part in (source, *getattr(source, "heads", ()))
        if hasattr(part, "path")
        for path in getattr(part, "files", [part.path])
        if not changed or Path(path).exists() or path in HUB
    ]


def frozen_manifest(wildcards):
    """The base's embeddings from which a fine-tuned encoder starts, if a part is frozen."""
    settings = CONFIG.encoders[wildcards.encoder]
    if settings.kind == "finetuned" and settings.freeze is not None:
        return embedding_manifests(settings.base, settings.freeze, [wildcards.shard])
    return []


def breast_masks(wildcards):
    """Manifests of the image stores, if the training of an SAE needs their masks."""
    training = CONFIG.saes[wildcards.sae].training(wildcards.layer, int(wildcards.seed))
    return image_manifests() if training.background < 1 else []


def of_seeds(pattern):
    """Files of all seeds of an SAE of one encoder and layer."""
    return lambda wildcards: of_runs(pattern, **wildcards)


def based_on(wildcards, patterns):
    """Files of the same run for the encoder from which this encoder started."""
    base = CONFIG.encoders[wildcards.encoder].base
    return [pattern.format(**{**wildcards, "encoder": base}) for pattern in patterns]


def of_reference(wildcards, patterns):
    """Files of the same run for the encoder with whose latents they are matched by activation."""
    reference = CONFIG.reference(wildcards)
    return [pattern.format(**{**wildcards, "encoder": reference}) for pattern in patterns]


def trained_beside(wildcards, threads):
    """Options that name the other SAEs of the layer, to be trained in the same pass.

    They are given only on a machine whose jobs run one after the other. Elsewhere each job has its
    own GPU. The function takes `threads` so that Snakemake never compares its value, because the
    other SAEs of a pass do not change this SAE.
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


def encoded_shards(wildcards):
    """The shards of images that a job of the rule `codes` encodes."""
    return [PAIRS] if wildcards.images else SHARDS


def encoded_manifests(wildcards):
    """Manifests of the embeddings that a job of the rule `codes` encodes."""
    return embedding_manifests(wildcards.encoder, wildcards.layer, encoded_shards(wildcards))


def encoded_stores(wildcards):
    """The stores of `encoded_manifests`."""
    return embedding_stores(wildcards.encoder, wildcards.layer, encoded_shards(wildcards))


def vocabulary():
    """The file of phrases: the user's own, or the project's."""
    own = None if CONFIG.text is None else CONFIG.text.vocabulary
    return own or f"{BASE}/config/vocabulary.csv"


def phrase_sources(wildcards):
    """The file of phrases, and the files of the text encoder."""
    if CONFIG.text is None:
        return []
    changed = is_of_other_settings("embed_phrases", wildcards, f"{PHRASES}/phrases.parquet")
    files = [vocabulary(), *CONFIG.text.files]
    return [path for path in files if not changed or Path(path).exists()]


def named_by(wildcards):
    """Manifests of the embeddings of the images that name latents."""
    return [] if CONFIG.text is None else embedding_manifests(CONFIG.text.encoder, "pooled")


def named_by_stores(wildcards):
    """The stores of `named_by`."""
    return [] if CONFIG.text is None else embedding_stores(CONFIG.text.encoder, "pooled")


def named_sae(wildcards):
    """The files of an SAE whose atoms are directions in the space of the phrases."""
    if not CONFIG.is_named_by_direction(wildcards.encoder, wildcards.layer):
        return []
    folder = SAE.format(**wildcards)
    return [f"{folder}/sae.json", f"{folder}/sae.safetensors"]
