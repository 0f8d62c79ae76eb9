# The configuration, the names that all rules share, and the two parameters that decide staleness.
import gc
import json
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Jobs run the package in this folder, even if another one is installed, so that the code that runs
# is the code whose digests are taken. The workflow of an installed package lies inside the package.
SOURCE = BASE / "src"
if not SOURCE.is_dir():
    SOURCE = Path(find_spec("mammo_sae").origin).parents[1]
sys.path.insert(0, str(SOURCE))

from mammo_sae.config import DEFAULT, kept_configuration, load_config
from mammo_sae.digests import read_pins
from mammo_sae.encoders.plans.plan import HEAD
from mammo_sae.errors import InputError
from mammo_sae.interpreter import share_interpreter
from mammo_sae.passes import assign_passes, layers_of
from mammo_sae.provenance import public_settings, record_path
from mammo_sae.resources import cohort_images, has_gpu, need
from mammo_sae.settings import canonical_json, check_path
from mammo_sae.slurm import settle_states
from mammo_sae.steps import STEPS
from mammo_sae.stores.publish import read_json
from mammo_sae.yaml_files import read_yaml

# The plan of a large cohort consists of millions of small objects that stay. With its usual
# thresholds, Python's garbage collector would look at all of them again and again.
gc.set_threshold(200_000, 50, 50)

try:
    share_interpreter(SOURCE)
    # Snakemake has read these files already, but it silently drops the first of two equal keys.
    # The files of a workflow that uses this one as a module are its own.
    if Path(workflow.basedir) == BASE:
        for file in workflow.overwrite_configfiles or [DEFAULT]:
            read_yaml(Path(file))
    CONFIG = load_config(config, "configuration")
    for folder in (BASE, Path.cwd()):
        check_path(str(folder))
except (InputError, ValueError) as error:
    raise WorkflowError(str(error)) from None

# For the first page of the report, which can read only this dictionary.
config["seen"] = CONFIG.seen()

settle_states()

RESULTS = CONFIG.folder.as_posix()
SHARDS = range(CONFIG.shards)
ENCODERS = list(CONFIG.encoders)
RUNS = CONFIG.runs()
# Controls are compared with trained SAEs. What predictions rest on, and whether verdicts are right,
# is computed for the other SAEs.
CONTROLS = CONFIG.controls()
EXPLAINED = [run for run in RUNS if f"{run['layer']}/{run['sae']}" not in CONTROLS]
# Runs whose predictions are linear in the cells, and runs whose edits run the network.
LINEAR = [run for run in RUNS if CONFIG.is_linear(run["encoder"], run["layer"])]
RERUN = [run for run in RUNS if CONFIG.is_rerun(run["encoder"], run["layer"])]
PASSES = {
    encoder: assign_passes(CONFIG.extracted_layers(encoder), CONFIG.folder / "embeddings" / encoder)
    for encoder in ENCODERS
}

# The software of the whole workflow. It is used with --software-deployment-method conda.
ENVIRONMENT = f"{BASE}/envs/cpu.yaml"

# The versions that the project requires. A step is stale when the version of a package that it
# imports changes.
PINS = read_pins(BASE / "envs" / "constraints.txt")

# Most threads of a job that uses torch.
TORCH_THREADS = 8

COHORT = {
    "images": f"{RESULTS}/cohort/images.parquet",
    "findings": f"{RESULTS}/cohort/findings.parquet",
}
SPLITS = f"{RESULTS}/cohort/splits.parquet"
MEASUREMENTS = [f"{RESULTS}/measurements/{shard}.parquet" for shard in SHARDS]
CONCEPTS = list(CONFIG.cohort.concepts)
RUN = "{encoder}/{layer}/{sae}/seed{seed}"
# The store of the phantom's paired images is named like a shard, but it is no shard of the cohort.
PAIRS = "pairs"


wildcard_constraints:
    encoder="[A-Za-z0-9_-]+",
    layer=r"blocks\.[0-9]+|head|pooled",
    sae="[A-Za-z0-9_-]+",
    seed="[0-9]+",
    shard="[0-9]+",
    layers=r"[A-Za-z0-9.+]+",
    part="training|test|external",


def cfg(step):
    """The `cfg` parameter of a step: the part of the configuration that it uses, as JSON."""
    return lambda wildcards: CONFIG.slice(step, dict(wildcards))


def code(step):
    """The `code` parameter of a step: digests of its modules, pins of its packages."""
    if STEPS[step].choice is None:
        return STEPS[step].code(PINS, "{}")
    return lambda wildcards: STEPS[step].code(PINS, CONFIG.slice(step, dict(wildcards)))


def log_of(*parts):
    """The path of a job's log: the rule, then a name that is unique among the rule's jobs."""
    return f"{RESULTS}/logs/{'/'.join(parts)}.log"


def benchmark_of(*parts):
    """The path of a job's record of time and memory, with a name as in `log_of`."""
    return f"{RESULTS}/benchmarks/{'/'.join(parts)}.tsv"


def options(flag, values):
    """The part `flag value flag value ...` of a command line."""
    return [word for value in values for word in (flag, value)]


def named_inputs(wildcards, input):
    """A job's inputs as options with their names in the rule. Inputs without a name are left out."""
    words = []
    for name, files in input.items():
        files = [files] if isinstance(files, str) else files
        words += [f"--{name.replace('_', '-')}", *files] if files else []
    return words


@cache
def needed(rule, encoder, layer, sae):
    """What a job of a rule needs at its first attempt. Wildcards that it lacks are None."""
    return need(CONFIG, cohort_size(), rule, encoder, layer, sae)


def needed_for(rule, wildcards):
    """What a job needs at its first attempt."""
    return needed(rule, *(wildcards.get(name) for name in ("encoder", "layer", "sae")))


def memory(wildcards, attempt, rulename):
    """Memory of a job in MB, which grows with each attempt."""
    return needed_for(rulename, wildcards).mem_mb * attempt


def minutes(wildcards, attempt, rulename):
    """Time of a job in minutes, which grows with each attempt."""
    return needed_for(rulename, wildcards).minutes * attempt


def without_gpu():
    """Whether this process runs the jobs of a workstation that has no GPU."""
    on_cluster = workflow.remote_exec or not workflow.local_exec
    return not on_cluster and not has_gpu()


def gpu(wildcards):
    """GPUs of a job that uses torch. Without a GPU, such jobs need not take turns."""
    return 0 if without_gpu() else 1


def torch_threads(wildcards):
    """Threads of a job that uses torch.

    Without a GPU, two such jobs with half of the cores each are faster than one after the other on
    all cores, because parts of each job use one core only.
    """
    return max(1, min(TORCH_THREADS, workflow.cores // 2)) if without_gpu() else TORCH_THREADS


def of_runs(pattern, runs=RUNS, **wanted):
    """Files of all of `runs` whose wildcards have the values `wanted`.

    `pattern` is a path with the wildcards of RUN.
    """
    return [pattern.format(**run) for run in runs if wanted.items() <= run.items()]


def only(names):
    """A pattern that matches exactly one of `names`; nothing if there are none."""
    return "|".join(sorted(names)) or "(?!)"


# Rules that read stores depend on their manifests, which are compared by content. The stores
# themselves are inputs too, as ancient files, so that a deleted store is made again. Snakemake
# ignores every other change of a store.


def image_manifests(wildcards=None, shards=SHARDS):
    """Manifests of image shards, by default all of the cohort."""
    return [f"{RESULTS}/images/{shard}.json" for shard in shards]


def image_stores(wildcards=None, shards=SHARDS):
    """Stores of image shards, by default all of the cohort."""
    return ancient([f"{RESULTS}/images/{shard}.zarr" for shard in shards])


def embedding_folders(encoder, layer, shards):
    """The paths of shards of an encoder's layer, without suffix."""
    holder = CONFIG.holder(encoder, layer)
    layers = PASSES[holder][layer]
    return [f"{RESULTS}/embeddings/{holder}/{layers}/{shard}" for shard in shards]


def embedding_manifests(encoder, layer, shards=SHARDS):
    """Manifests of shards of an encoder's layer, by default all of the cohort."""
    return [f"{folder}.json" for folder in embedding_folders(encoder, layer, shards)]


def embedding_stores(encoder, layer, shards=SHARDS):
    """Stores of shards of an encoder's layer, by default all of the cohort."""
    return ancient(embedding_folders(encoder, layer, shards))


def encoder_files(encoder):
    """Weights and description of an encoder."""
    folder = f"{RESULTS}/encoders/{encoder}"
    return [f"{folder}/encoder.safetensors", f"{folder}/encoder.json"]


def head_files(encoder):
    """Weights and description of an encoder's head."""
    folder = f"{RESULTS}/heads/{encoder}"
    return [f"{folder}/head.safetensors", f"{folder}/head.json"]


onstart:
    # Snakemake makes the folders of a job's outputs. If it can't, it prints a traceback.
    try:
        CONFIG.check_writable()
    except InputError as error:
        raise WorkflowError(str(error)) from None
    # The used configuration with all defaults, for the commands that rebuild a part. It names
    # folders of the source, so it is in Snakemake's own folder and not among the results.
    CONFIG.write(kept_configuration(CONFIG.name))
