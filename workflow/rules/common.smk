# The configuration, the names every rule shares, and the two parameters that decide staleness.
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The package is run from this folder, whatever is installed: one truth for code and its digests.
SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))

from mammo_sae.config import DEFAULT, kept_configuration, load_config
from mammo_sae.digests import read_pins
from mammo_sae.errors import InputError
from mammo_sae.interpreter import share_interpreter
from mammo_sae.passes import assign_passes, layers_of
from mammo_sae.settings import canonical_json, check_path
from mammo_sae.slurm import settle_states
from mammo_sae.steps import STEPS
from mammo_sae.yaml_files import read_yaml

try:
    share_interpreter(SOURCE)
    # Snakemake has read these files already, and drops the first of two equal keys without a word.
    for file in workflow.overwrite_configfiles or [DEFAULT]:
        read_yaml(Path(file))
    CONFIG = load_config(config, "configuration")
    for folder in (workflow.basedir, Path.cwd()):
        check_path(str(folder))
except (InputError, ValueError) as error:
    raise WorkflowError(str(error)) from None

# For the report's first page, which sees this dictionary alone.
config["seen"] = CONFIG.seen()

settle_states()

RESULTS = CONFIG.folder.as_posix()
SHARDS = range(CONFIG.shards)
ENCODERS = list(CONFIG.encoders)
RUNS = [
    {"encoder": encoder, "layer": layer, "sae": sae, "seed": seed}
    for encoder in ENCODERS
    for layer in CONFIG.layers
    for sae, settings in CONFIG.saes.items()
    for seed in settings.seeds
]
PASSES = {
    encoder: assign_passes(CONFIG.extracted_layers(encoder), CONFIG.folder / "embeddings" / encoder)
    for encoder in ENCODERS
}

# The software of the whole workflow; used with --software-deployment-method conda.
ENVIRONMENT = f"{workflow.basedir}/envs/cpu.yaml"

# The versions that the project asks for; a step is stale when one that it imports changes.
PINS = read_pins(Path(workflow.basedir) / "envs" / "constraints.txt")

# Torch takes all cores it is given, and two torch jobs on the same cores are slower than one after
# the other: ask for more than a workstation has, and Snakemake gives what there is.
TORCH_THREADS = 8

COHORT = {
    "images": f"{RESULTS}/cohort/images.parquet",
    "findings": f"{RESULTS}/cohort/findings.parquet",
}
SPLITS = f"{RESULTS}/cohort/splits.parquet"
CONCEPTS = list(CONFIG.cohort.concepts)
RUN = "{encoder}/{layer}/{sae}/seed{seed}"


wildcard_constraints:
    encoder="[A-Za-z0-9_-]+",
    layer=r"blocks\.[0-9]+|head|pooled",
    sae="[A-Za-z0-9_-]+",
    seed="[0-9]+",
    shard="[0-9]+",
    layers=r"[A-Za-z0-9.+]+",
    part="training|test|external",


def cfg(step):
    """The `cfg` parameter of a step: what it uses of the configuration, as canonical JSON."""
    return lambda wildcards: CONFIG.slice(step, dict(wildcards))


def code(step):
    """The `code` parameter of a step: digests of its modules, pins of its packages."""
    if STEPS[step].choice is None:
        return STEPS[step].code(PINS, "{}")
    return lambda wildcards: STEPS[step].code(PINS, CONFIG.slice(step, dict(wildcards)))


def log_of(*parts):
    """Where a job's log goes: its rule, then what tells the rule's jobs apart."""
    return f"{RESULTS}/logs/{'/'.join(parts)}.log"


def benchmark_of(*parts):
    """Where a job's time and memory go, as `log_of`."""
    return f"{RESULTS}/benchmarks/{'/'.join(parts)}.tsv"


def options(flag, values):
    """The words `flag value flag value ...` of a command line."""
    return [word for value in values for word in (flag, value)]


def named_inputs(wildcards, input):
    """A job's inputs as options of the names that they have in the rule; those without stay out."""
    words = []
    for name, files in input.items():
        files = [files] if isinstance(files, str) else files
        words += [f"--{name.replace('_', '-')}", *files] if files else []
    return words


def attempts(amount):
    """Memory in MB or time in minutes: more at each attempt of a job killed for want of it."""
    return lambda wildcards, attempt: amount * attempt


def of_runs(pattern, **wanted):
    """Files of the runs whose wildcards are as wanted, from a pattern with the wildcards of RUN."""
    return [pattern.format(**run) for run in RUNS if wanted.items() <= run.items()]


# Consumers depend on manifests, whose content decides; the stores themselves are inputs too, as
# ancient files, so that one that was deleted is made again and nothing else about it counts.


def image_manifests(wildcards=None):
    """Manifests of all image shards."""
    return [f"{RESULTS}/images/{shard}.json" for shard in SHARDS]


def image_stores(wildcards=None):
    """Stores of all image shards."""
    return ancient([f"{RESULTS}/images/{shard}.zarr" for shard in SHARDS])


def embedding_folders(encoder, layer):
    """Where the shards of an encoder's layer are, without suffix."""
    holder = CONFIG.holder(encoder, layer)
    layers = PASSES[holder][layer]
    return [f"{RESULTS}/embeddings/{holder}/{layers}/{shard}" for shard in SHARDS]


def embedding_manifests(encoder, layer):
    """Manifests of all shards of an encoder's layer."""
    return [f"{folder}.json" for folder in embedding_folders(encoder, layer)]


def embedding_stores(encoder, layer):
    """Stores of all shards of an encoder's layer."""
    return ancient(embedding_folders(encoder, layer))


def encoder_files(encoder):
    """Weights and description of an encoder."""
    folder = f"{RESULTS}/encoders/{encoder}"
    return [f"{folder}/encoder.safetensors", f"{folder}/encoder.json"]


def head_files(encoder):
    """Weights and description of an encoder's head."""
    folder = f"{RESULTS}/heads/{encoder}"
    return [f"{folder}/head.safetensors", f"{folder}/head.json"]


onstart:
    # The configuration as it was used, defaults filled in, for the commands that rebuild a part.
    # With what Snakemake keeps for itself, not with the results: it names folders of the source.
    CONFIG.write(kept_configuration(CONFIG.name))
