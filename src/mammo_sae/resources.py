"""The memory and time that every step needs, computed from the configuration.

`NEEDS` has one formula per step. A formula takes a `Size`: the numbers of images, cells, channels,
latents and so on for a job. It returns the peak memory of the job's process and the seconds that
the job takes. The numbers in the formulas were measured with `benchmarks/rehearsal.py`. A test
compares the formulas with these measurements (`benchmarks/rehearsal.json`).

Rules ask for more than the formulas give, see `Need.mem_mb` and `Need.minutes`. The formulas of
steps on a GPU count arithmetic and assume the rates `CONVOLUTIONS` and `PRODUCTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mammo_sae.cohorts.settings import PhantomCohort
from mammo_sae.config import PARTS, Config
from mammo_sae.encoders import architectures
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.encoders.settings import FinetunedSettings
from mammo_sae.sae.settings import SaeTraining

# Operations per second on a GPU, of convolutions and of an SAE's products. This is a tenth to a
# third of the nominal rate of GPUs in data centres.
CONVOLUTIONS, PRODUCTS = 30e12, 100e12
# One of these files exists on a machine with a GPU: NVIDIA's driver, on a Jetson, AMD's, under WSL.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")
# Dimensions of the space of images and phrases, and phrases of a large vocabulary.
SPACE, PHRASES = 1024, 1000
# Operations per second of a network on one core.
CORE = 30e9
# Active latents per cell of an SAE whose number of active latents is not fixed.
FREE_CODES = 128
FIXED = ("topk", "batch_topk", "matryoshka", "archetypal", "random")
MIB = 1 << 20


@dataclass(frozen=True)
class Need:
    """The peak memory of a job in MiB, and the seconds that it takes on one core or one GPU."""

    mib: float
    seconds: float

    @property
    def mem_mb(self) -> int:
        """The memory to ask for, in MB: half as much again, in hundreds, at least 1,000."""
        return max(1000, 100 * math.ceil(1.5 * self.mib / 100))

    @property
    def minutes(self) -> int:
        """The minutes to ask for: four times the time on an idle machine, at least 30."""
        return max(30, 10 * math.ceil(4 * self.seconds / 600))


@dataclass(frozen=True)
class Size:
    """The numbers on which the time and memory of a job depend.

    Attributes
    ----------
    config
        The configuration.
    images
        Images of the cohort.
    encoder, layer, sae
        Wildcards of the rule; None if it lacks them. Without an encoder it is the first one.
    """

    config: Config
    images: int
    encoder: str
    layer: str | None
    sae: str | None

    @property
    def shard(self) -> int:
        """Images of a shard, on average."""
        return -(-self.images // self.config.shards)

    @property
    def pixels(self) -> int:
        """Pixels of a canonical image."""
        return self.config.images.height * self.config.images.width

    @property
    def architecture(self) -> str:
        """Architecture of the encoder."""
        return self.config.architecture(self.encoder)

    @property
    def cells(self) -> int:
        """Cells of the layer's grid; 0 without a layer."""
        if self.layer is None:
            return 0
        images = self.config.images
        return math.prod(
            architectures.grid_shape(self.architecture, self.layer, images.height, images.width)
        )

    @property
    def channels(self) -> int:
        """Channels of the layer's embeddings; 0 without a layer."""
        if self.layer is None:
            return 0
        return architectures.find_layer(self.architecture, self.layer).channels

    @property
    def training(self) -> SaeTraining:
        """Settings of the SAE's training."""
        assert self.sae is not None and self.layer is not None  # only for rules with an SAE
        settings = self.config.saes[self.sae]
        return settings.training(self.layer, settings.seeds[0])

    @property
    def latents(self) -> int:
        """Latents of the SAE."""
        return self.training.latents

    @property
    def codes(self) -> int:
        """Stored codes per cell. `FREE_CODES` if their number is not fixed."""
        variant = self.training.variant
        fixed = getattr(variant, "k", None) if variant.name in FIXED else FREE_CODES
        return min(self.latents, fixed or FREE_CODES)

    @property
    def concepts(self) -> int:
        """Number of concepts."""
        return len(self.config.cohort.concepts)

    @property
    def rows(self) -> int:
        """Rows of the table of latents of all SAEs."""
        runs = self.config.runs()
        return self.concepts * sum(
            replace(self, encoder=run["encoder"], layer=run["layer"], sae=run["sae"]).latents
            for run in runs
        )

    @property
    def pooled(self) -> float:
        """MiB of one kind of pooled codes of all images."""
        return self.images * self.latents * 4 / MIB

    @property
    def weights(self) -> float:
        """MiB of the SAE's two matrices."""
        return 2 * self.latents * self.channels * 4 / MIB

    @property
    def map(self) -> float:
        """MiB of one image's largest map in float32."""
        images = self.config.images
        plan = architectures.architecture(self.architecture)
        largest = plan.largest_map(images.height, images.width)
        return largest * 4 / MIB

    @property
    def split(self) -> float:
        """MiB of the embeddings of the training images, at most all images."""
        return self.images * self.cells * self.channels * 2 / MIB

    @property
    def operations(self) -> float:
        """Operations of one forward pass of one image."""
        images = self.config.images
        plan = architectures.architecture(self.architecture)
        return plan.operations(images.height, images.width)


# MiB of a process: with the packages of an analysis; with torch; with torch on a GPU.
PLAIN, TORCH, ON_GPU = 250, 450, 2500
# MiB of the largest blocks of maps or masks, and of pooled codes, that are in memory at a time.
BLOCK, POOLED_BLOCK = 128, 64
# MiB of the tables of a million images.
TABLES = 1500
# Share of the images in a split that scores latents, rather more than most cohorts have.
SCORED = 0.25
# Concepts and bootstrap draws of the rehearsal, with which the times were measured.
CONCEPTS, DRAWS = 2, 200
# Cells for which alignment keeps all values, and levels of values after that, per map
# (`mammo_sae.analysis.streamed`).
CURVE_CELLS, LEVELS = 4e6, 512
# Bytes of a code while the cells of an image are read.
OF_CODE = 24
# Seconds of a step without formula for its time.
SHORT = 120


def _tables(size: Size) -> float:
    return TABLES * size.images / 1e6


def _network(size: Size) -> float:
    """MiB of an encoder's weights."""
    return max(130, architectures.architecture(size.architecture).weights * 4 / MIB)


def _of_features(size: Size) -> Need:
    """The need of steps that read pooled features in blocks."""
    return Need(TORCH + _tables(size), 30 + size.images / 1e3)


def _of_codes(copies: float, seconds: float, start: float = PLAIN) -> Callable[[Size], Need]:
    """The need of steps that read pooled codes in blocks.

    They hold `copies` of a block. `seconds` is the time for a million pooled codes.
    """

    def formula(size: Size) -> Need:
        memory = start + copies * min(POOLED_BLOCK, size.pooled) + _tables(size)
        return Need(memory, 60 + seconds * size.images * size.latents / 1e6)

    return formula


def _work(size: Size, draws: int) -> float:
    """How many times longer a step takes than in the rehearsal, for its concepts and draws."""
    return max(1.0, size.concepts / CONCEPTS) * max(1.0, draws / DRAWS)


def _resampled(
    section: str, formula: Callable[[Size], Need], of_all: bool = False
) -> Callable[[Size], Need]:
    """The need of steps that draw patients, with the number of draws in the settings `section`.

    A draw takes one byte for each scored patient, at most as many as scored images. `of_all`: the
    draws of all concepts are in memory. The time grows with the concepts and the draws.
    """

    def grown(size: Size) -> Need:
        draws = getattr(size.config, section).bootstrap_draws
        drawn = SCORED * size.images * draws / MIB * (size.concepts if of_all else 1)
        needed = formula(size)
        return Need(
            needed.mib + drawn,
            needed.seconds * _work(size, draws),
        )

    return grown


def _confounds(size: Size) -> Need:
    settings = size.config.confounds
    tested = min(size.latents, settings.top_latents * len(settings.rankings) * size.concepts)
    # The scores of the tested latents on all images, and a concept's part of them. Those of the
    # scored images are there as shares inside regions, too.
    scores = 2 * size.images * tested * 4 / MIB
    needed = _of_codes(1, 0.25, 2.2 * PLAIN)(size)
    return replace(needed, mib=needed.mib + scores + BLOCK)


def _alignment(size: Size) -> Need:
    settings = size.config.alignment
    ranked = settings.top_latents * len(settings.rankings)
    maps = ranked * (1 + settings.matched_latents)
    codes = SCORED * size.images * size.cells * size.codes
    # Maps with many cells keep two tables of levels and draws, once for all lesions and once for
    # the lesions of each of three sizes. About every tenth image has a lesion. Ranked latents fire
    # about four times as often as others.
    tables = (maps + 3 * ranked) * LEVELS * (settings.bootstrap_draws + 1) * 16 / MIB
    full = min(1.0, 4 * codes / 10 * maps / size.latents / CURVE_CELLS)
    blocks = min(BLOCK, codes * OF_CODE / MIB)
    # The values for the thresholds of each concept. Those of two concepts need fewer than 5 blocks.
    values = 100 * max(0, size.concepts - CONCEPTS)
    return Need(
        1.2 * PLAIN + 5 * blocks + full * tables + values + _tables(size),
        (60 + 0.1 * size.images * size.cells * size.codes / 1e6)
        * _work(size, settings.bootstrap_draws),
    )


def _absorption(size: Size) -> Need:
    needed = _of_codes(1, 0.25, 1.4 * PLAIN)(size)
    return replace(needed, mib=needed.mib + size.weights / 2)


def _pictures(size: Size, number: int) -> Need:
    """The need of a figure of so many images. A picture takes 24 bytes per pixel."""
    pixels = number * size.pixels
    return Need(1.1 * PLAIN + pixels * 24 / MIB + _tables(size), 60 + pixels / 1e6)


def _figure_cohort(size: Size) -> Need:
    of_a_split = (1 + size.concepts) * size.config.report.cohort.examples
    return _pictures(size, 3 * of_a_split)


def _figure_latents(size: Size) -> Need:
    settings = size.config.report.latents
    drawn = _pictures(size, settings.latents * (settings.examples + 2))
    return replace(drawn, mib=drawn.mib + min(BLOCK, size.pooled))


def _atlas(size: Size) -> Need:
    settings = size.config.atlas
    # SAE by SAE: the tables of all, the pooled codes of the latents with images, and a block of
    # maps. A latent has about 2.5 times `examples` images.
    shown = min(size.images, settings.latents * settings.examples * 5 // 2)
    scores = size.images * settings.latents * 4 / MIB
    runs = [
        replace(size, encoder=run["encoder"], layer=run["layer"], sae=run["sae"])
        for run in size.config.runs()
    ]
    saes, atoms = len(runs), max(one.weights for one in runs)  # the atoms of two SAEs
    return Need(
        2 * PLAIN + size.rows * 3000 / MIB + scores + atoms + 2 * BLOCK + _tables(size),
        60 + 20 * saes + size.rows / 1000 + shown / 10,
    )


def _of_tables(bytes_per_row: float) -> Callable[[Size], Need]:
    """The need of tables, pages and figures of tables. A row is a latent and a concept."""

    def formula(size: Size) -> Need:
        memory = PLAIN + size.rows * bytes_per_row / MIB
        return Need(memory + _tables(size), 30 + size.rows / 2000)

    return formula


def _extract(size: Size) -> Need:
    # On a CPU each core runs its own images. A network holds some maps at a time.
    on_cores = TORCH + 8 * 4 * min(size.map, 24) + 4 * size.map
    stored = sum(
        replace(size, layer=layer).cells * replace(size, layer=layer).channels * 2
        for layer in size.config.extracted_layers(size.encoder)
    )
    memory = max(ON_GPU, on_cores) + _network(size) + 64 * stored / MIB
    return Need(memory, 120 + size.shard * size.operations / CONVOLUTIONS)


def _finetune(size: Size) -> Need:
    settings = size.config.encoders[size.encoder]
    assert isinstance(settings, FinetunedSettings)  # only for the rule finetune
    recipe = settings.recipe
    memory = ON_GPU + 4 * _network(size) + 8 * recipe.batch_size * size.pixels * 12 / MIB
    passes = recipe.epochs * recipe.most_cycles
    # A backward pass takes twice the operations of a forward pass.
    return Need(
        memory + _tables(size), 300 + 3 * passes * size.images * size.operations / CONVOLUTIONS
    )


def _train_sae(size: Size) -> Need:
    training = size.training
    buffer = min(training.buffer, size.split)
    seconds = training.steps * training.batch * 6.0 * size.latents * size.channels / PRODUCTS
    # Weights, gradients and the two moments of Adam, and their copies in a checkpoint. On a CPU the
    # pre-activations of a batch, their gradients and two copies are in memory as well.
    batch = training.batch * size.latents * 4 / MIB
    memory = max(ON_GPU, TORCH + 4 * batch) + 1.2 * buffer + 8 * size.weights
    memory += size.images * size.cells / MIB  # a byte says whether a cell is used
    readings = 1
    if training.high_norm is not None:  # the norms of all cells, and a pass that computes them
        memory += 9 * size.images * size.cells / MIB
        readings = 2
    return Need(memory, 300 + seconds + readings * _reading(size))


def _codes(size: Size) -> Need:
    # 8,192 cells are encoded at a time, and the codes of 64 images wait to be written.
    preactivations = 8192 * size.latents * 4 / MIB
    waiting = 64 * (size.cells * size.codes * 8 + size.latents * 24) / MIB
    products = 2.0 * size.images * size.cells * size.latents * size.channels
    return Need(
        ON_GPU + 2 * size.weights + 2 * preactivations + 3 * waiting + BLOCK,
        120 + products / PRODUCTS + _reading(size),
    )


def _sae_quality(size: Size) -> Need:
    memory = ON_GPU + size.weights + 3 * BLOCK + _tables(size)
    return Need(memory, 300 + 3 * _reading(size))


def _reading(size: Size) -> float:
    """Seconds for reading the embeddings of all images from a disk."""
    return size.split / 300


def _pairs_of_atoms(size: Size) -> Need:
    """The need of steps that compare the atoms of two SAEs. Cosines are computed in blocks."""
    memory = PLAIN + 1.3 * size.weights + BLOCK
    return Need(memory, 60 + 2e-10 * size.latents**2 * size.channels)


def _reruns(size: Size, batch: int, passes: float) -> Need:
    """The need of steps that run the network `passes` times per concept, for `batch` images."""
    maps = batch * size.map / 8
    return Need(
        TORCH + _network(size) + size.weights + 4 * maps + BLOCK + _tables(size),
        600 + passes * size.concepts * size.operations / CORE,
    )


def _inner(size: Size) -> Need:
    settings = size.config.inner
    return _reruns(size, settings.batch_size, 60.0 * settings.images)


def _inner_ablation(size: Size) -> Need:
    settings = size.config.inner_ablation
    # Few columns explain latents. Five sets, each with its random ones, are more than most runs
    # have.
    sets = 5 * (1 + settings.random_sets)
    return _reruns(size, settings.batch_size, sets * settings.images * len(settings.splits))


def _naming(size: Size) -> Need:
    # Of each latent its direction and its scores of all phrases are in memory, and copies of them.
    # Images come in blocks.
    vectors = 3 * size.latents * (SPACE + PHRASES) * 4 / MIB
    codes = _of_codes(0, 0.6)(size)
    return replace(codes, mib=codes.mib + vectors + 4 * BLOCK)


def _saliency(size: Size) -> Need:
    settings = size.config.saliency
    assert size.encoder is not None and size.layer is not None  # only for the rule saliency
    if size.layer == POOLED or size.config.is_linear(size.encoder, size.layer):
        return Need(TORCH + _network(size) + 3 * BLOCK + _tables(size), 120 + size.images / 50)
    passes = 3 * settings.steps * settings.images * len(settings.splits) * size.concepts
    return Need(
        TORCH + 3 * _network(size) + settings.batch_size * size.map + _tables(size),
        120 + passes * size.operations / CORE,
    )


NEEDS: dict[str, Callable[[Size], Need]] = {
    "fetch_checkpoint": lambda size: Need(PLAIN, 1800),
    "phantom": lambda size: Need(2 * PLAIN, 60 + size.images * size.pixels * 1e-6),
    "cohort": lambda size: Need(PLAIN + 2 * _tables(size), 60 + size.images / 20),
    "splits": lambda size: Need(PLAIN + 2 * _tables(size), 60 + size.images / 20),
    "images": lambda size: Need(PLAIN + 200 + 150 * size.pixels / MIB, 60 + size.shard),
    "pairs": lambda size: Need(PLAIN + 200 + 150 * size.pixels / MIB, 300),
    "measurements": lambda size: Need(PLAIN + 150 * size.pixels / MIB, 60 + size.shard / 2),
    "import_encoder": lambda size: Need(TORCH + 6 * _network(size), SHORT),
    "finetune": _finetune,
    "extract": _extract,
    "linear_probe": _of_features,
    "evaluate_encoder": _of_features,
    "train_sae": _train_sae,
    "codes": _codes,
    "sae_quality": _sae_quality,
    "sae_stability": _pairs_of_atoms,
    "latents": _resampled("latents", _of_codes(6, 0.25), of_all=True),
    "probes": _resampled("probes", _of_codes(3, 1.5)),
    "alignment": _alignment,
    "saliency": _saliency,
    "confounds": _resampled("confounds", _confounds),
    "embed_phrases": lambda size: Need(TORCH + 2000, 600),
    "naming": _resampled("naming", _naming),
    "replication": _resampled("confounds", _of_codes(0.5, 0.1)),
    "verdict_stability": _pairs_of_atoms,
    "interventions": _resampled("interventions", _of_codes(4, 0.5, 1.4 * PLAIN)),
    "classes": _resampled("interventions", _of_codes(2, 0.8, TORCH)),
    "effects": _resampled("effects", _of_codes(4, 0.1, 1.4 * PLAIN)),
    "inner": _inner,
    "inner_ablation": _inner_ablation,
    "matched_latents": _pairs_of_atoms,
    "activation_matches": lambda size: Need(
        PLAIN + 8 * min(POOLED_BLOCK, size.pooled) + _tables(size),
        60 + 4e-11 * size.images * size.latents**2,
    ),
    "absorption": _resampled("absorption", _absorption),
    "ablation": _resampled("ablation", _of_codes(2, 0.25, 2 * PLAIN)),
    "reliance": _resampled("effects", _of_codes(4, 0.1, 1.4 * PLAIN)),
    "responses": _resampled("responses", _of_codes(4, 0.6)),
    "logit_responses": _of_features,
    "truth": _of_tables(100),
    "table": _of_tables(1500),
    "verdicts": _of_tables(1500),
    "names": _of_tables(1500),
    "controls": _of_tables(1500),
    "published": _of_tables(1500),
    "table_page": _of_tables(1500),
    "summary": _of_tables(1500),
    "configuration": lambda size: Need(PLAIN, SHORT),
    "quarantine": lambda size: Need(PLAIN + 2 * _tables(size), SHORT),
    "registry": lambda size: Need(PLAIN, SHORT),
    "crate": lambda size: Need(PLAIN, SHORT),
    "atlas": _atlas,
    "figure_cohort": _figure_cohort,
    "figure_encoders": _of_tables(0),
    "figure_training": _of_tables(0),
    "figure_layers": _of_tables(1500),
    "figure_alignment": _of_tables(0),
    "figure_probes": _of_tables(0),
    "figure_sweep": _of_tables(1500),
    "figure_effects": _of_tables(1500),
    "figure_truth": _of_tables(0),
    "figure_latents": _figure_latents,
    "figure_interventions": _of_tables(0),
    "figure_confounds": _of_tables(1500),
    "figure_ablation": _of_tables(0),
}


def need(
    config: Config,
    images: int,
    step: str,
    encoder: str | None = None,
    layer: str | None = None,
    sae: str | None = None,
) -> Need:
    """Return what a job of `step` needs, given the cohort's number of images and the wildcards.

    Raises
    ------
    KeyError
        If the step has no formula.
    """
    first = next(iter(config.encoders))
    return NEEDS[step](Size(config, images, encoder or first, layer, sae))


def cohort_images(config: Config) -> int | None:
    """Return the number of images of the cohort, None if it is not known without the archive.

    It is the number of rows of the cohort's table if that exists, and for the phantom the number
    of images that it draws.
    """
    table = config.folder / "cohort" / "images.parquet"
    if table.is_file():
        from pyarrow import ArrowInvalid, parquet

        try:
            return int(parquet.read_metadata(table).num_rows)
        except (ArrowInvalid, OSError):
            pass  # the step that reads the table explains what is wrong with it
    if isinstance(config.cohort, PhantomCohort):
        breasts = 1 if config.phantom.breasts == "one" else 2
        patients = sum(getattr(config.phantom.patients, part) for part in PARTS)
        return 2 * breasts * patients
    return None


def has_gpu() -> bool:
    """Return whether this machine has the driver of a GPU. torch is not imported to find out."""
    return any(Path(file).exists() for file in GPU_FILES)
