"""The verbs of the command line that are not steps of the workflow.

Each public function in this module is a verb. Its positional arguments are given by position, its
keyword arguments are options, and its docstring is the help (see `mammo_sae.arguments`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_sae.errors import InputError


def default_config() -> None:
    """Print the default configuration with the meaning of every key."""
    from mammo_sae.config import default_yaml

    print(default_yaml(), end="")


def init(
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    output: Path = Path("mine.yaml"),
    overwrite: bool = False,
) -> None:
    """Look at a folder of images and tables, and write tables and a configuration for it.

    It prints what it found, which column has which role, and what is left out or not certain. It
    writes images.csv and findings.csv into the folder, a configuration, and a key of the pseudonyms
    beside it. It writes all of these files or none.

    Parameters
    ----------
    folder
        The folder of your DICOM, PNG, JPEG, TIFF or NPY files and of your tables (.csv or .xlsx).
        Without a table, the images have no labels.
    columns
        Columns of your tables, if they are not found: file, patient, side, view, split, density,
        birads or finding, or the name of a label. A label may be one value of a column:
        malignant=pathology:MALIGNANT.
    output
        The configuration to write (.yaml). Default: mine.yaml.
    overwrite
        Write over existing tables and an existing configuration. A key is never written over.

    Raises
    ------
    InputError
        If something needed is missing or not certain, or if a file exists.
    """
    from mammo_sae.own_data.start import start

    start(folder, columns or {}, output, overwrite)


def layers(encoder: str, *, configfile: Sequence[Path] = ()) -> None:
    """List the layers of an encoder: channels, stride, grid, receptive field, stored size.

    Parameters
    ----------
    encoder
        Name of an encoder of the configuration.
    configfile
        Configurations (.yaml). Values of later files replace earlier ones, as in Snakemake.
        Default: config/config.yaml.

    Raises
    ------
    InputError
        If the configuration is wrong or has no such encoder.
    """
    from mammo_sae.config import read_config
    from mammo_sae.encoders.architectures import listing

    settings = read_config(configfile)
    if encoder not in settings.encoders:
        known = ", ".join(settings.encoders)
        raise InputError(f"there is no encoder {encoder!r}; choose one of {known}")
    images = settings.images
    print(listing(settings.architecture(encoder), images.height, images.width))


def slice(step: str, wildcards: Sequence[str] = (), *, configfile: Sequence[Path] = ()) -> None:
    """Print the settings of a step for a configuration, as `--settings` takes them.

    Parameters
    ----------
    step
        Name of the step.
    wildcards
        Wildcards of the step, as name=value.
    configfile
        Configurations (.yaml). Values of later files replace earlier ones, as in Snakemake.
        Default: config/config.yaml.

    Raises
    ------
    InputError
        If the configuration is wrong, or the step or a wildcard is unknown.
    """
    from mammo_sae.config import read_config
    from mammo_sae.steps import STEPS

    step = step.replace("-", "_")  # the verb of a step has hyphens
    if step not in STEPS or STEPS[step].settings is None:
        known = ", ".join(name for name, entry in STEPS.items() if entry.settings is not None)
        raise InputError(f"{step!r} is not a step with settings; choose one of {known}")
    odd = [pair for pair in wildcards if "=" not in pair]
    if odd:
        raise InputError(
            f"{odd[0]!r} is no wildcard; give each as name=value, and files after --configfile"
        )
    pairs = dict(pair.split("=", 1) for pair in wildcards)
    if len(pairs) < len(wildcards):
        raise InputError(f"{' '.join(wildcards)}: a wildcard is given twice; leave one out")
    settings = read_config(configfile)
    settings.check_wildcards(step, pairs)
    print(settings.slice(step, pairs))


def find(pseudonyms: Sequence[str], *, configfile: Sequence[Path] = ()) -> None:
    """Print the original files of images or patients, given their pseudonyms.

    This needs the source and the key of the pseudonyms, and writes nothing.

    Parameters
    ----------
    pseudonyms
        Pseudonyms of images or patients.
    configfile
        Configurations (.yaml). Values of later files replace earlier ones, as in Snakemake.
        Default: config/config.yaml.

    Raises
    ------
    InputError
        If the configuration or its source is wrong, or if no image or patient has one of the
        pseudonyms.
    """
    from mammo_sae.cohorts.find import find_files
    from mammo_sae.config import read_config

    config = read_config(configfile)
    sources = [Path(source) for source in config.sources()]
    for pseudonym in pseudonyms:
        for image_id, path in find_files(config.cohort, sources, pseudonym):
            print(f"{image_id}\t{path}")


def stale(
    *, configfile: Sequence[Path] = (), folder: Path = Path(), directory: Path | None = None
) -> None:
    """Print what `snakemake` would run again, and which key, module or file is the cause.

    Parameters
    ----------
    configfile
        Configurations (.yaml). Values of later files replace earlier ones, as in Snakemake.
        Default: config/config.yaml.
    folder
        The project's folder.
    directory
        The working folder, like Snakemake's --directory. Default: the project's folder.

    Raises
    ------
    InputError
        If there is no workflow or its configuration is wrong.
    """
    from mammo_sae.stale import explain_staleness

    for line in explain_staleness(folder, configfile, directory or folder):
        print(line)


def plan(*, configfile: Sequence[Path] = ()) -> None:
    """Print what a run will need: jobs, time, memory and disk per stage, and what the disk lacks.

    The hours are those of all jobs one after the other, on one GPU where a step uses one. The
    memory is the most that a job of the stage asks SLURM for. Tables and figures are left out.

    Parameters
    ----------
    configfile
        Configurations (.yaml). Values of later files replace earlier ones, as in Snakemake.
        Default: config/config.yaml.

    Raises
    ------
    InputError
        If the configuration or its source is wrong.
    """
    from mammo_sae.config import read_config
    from mammo_sae.plan import count_images, lines

    config = read_config(configfile)
    print("\n".join(lines(config, count_images(config))))


def doctor(config: Sequence[Path] = (), *, pixels: bool = False) -> None:
    """Check a configuration and its archive without computing, and say what a run will take.

    It prints each row and file that a run would leave out, and each reason for which it would end.
    The exit status is 1 if there is one. Nothing is written.

    Parameters
    ----------
    config
        Configurations (.yaml). Values of later files replace earlier ones. Default:
        config/config.yaml.
    pixels
        Decode the pixels of every file too, as the conversion does. Without it only headers are
        read, and damaged pixels are not found.

    Raises
    ------
    InputError
        If the configuration is wrong.
    """
    from mammo_sae.config import read_config
    from mammo_sae.doctor import examine

    if examine(read_config(config), pixels=pixels):
        sys.exit(1)


def run(
    config: Sequence[Path] = (),
    *,
    cores: int | None = None,
    slurm: bool = False,
    report: bool = False,
) -> None:
    """Run the workflow, and show its stages, its jobs and the time left.

    It starts Snakemake, which does the work and can also be started by itself. If a job fails, the
    step's own message is printed, with the rule and the path of the job's log. After Ctrl-C the
    running jobs are ended; a further call goes on.

    Parameters
    ----------
    config
        Configurations (.yaml). Values of later files replace earlier ones. Default:
        config/config.yaml.
    cores
        Most cores to use. Default: all of this machine, or those of the cluster's profile.
    slurm
        Submit jobs to SLURM, with the profile in profiles/slurm (docs/slurm.md).
    report
        Make the report after the run.

    Raises
    ------
    InputError
        If the configuration is wrong.
    """
    from mammo_sae.runner import start_run

    status = start_run(config, cores=cores, on_slurm=slurm, with_report=report)
    if status:
        sys.exit(status)


def verify(folder: Path) -> None:
    """Check every store, table, model and figure below a folder, reading every byte.

    Parameters
    ----------
    folder
        A run's folder, or any folder below it.

    Raises
    ------
    InputError
        If there are no results.
    """
    from mammo_sae.config import kept_configuration
    from mammo_sae.progress import progress
    from mammo_sae.records import find_records, verify_record
    from mammo_sae.stores.publish import find_manifests, verify_store

    manifests, records = find_manifests(folder), find_records(folder)
    if not manifests and not records:
        raise InputError(f"{folder} holds no results; give the folder of a run")
    problems = [
        (manifest, problem)
        for manifest in progress(manifests, label="stores")
        for problem in verify_store(manifest)
    ]
    problems += [
        problem for record in progress(records, label="files") for problem in verify_record(record)
    ]
    for path, problem in problems:
        configs = (kept_configuration(parent.name) for parent in path.parents)
        config = next((config for config in configs if config.is_file()), None)
        option = f" --configfile {config}" if config is not None else ""
        word = shlex.quote(str(path))
        print(f"{problem}; to rebuild: rm -f {word} && snakemake --cores all {word}{option}")
    print(f"{len(manifests)} stores and {len(records)} steps checked, {len(problems)} problems")
    if problems:
        sys.exit(1)


def serve(folder: Path, *, port: int = 8000) -> None:
    """Serve the atlas of a run to browsers on this machine, until it is interrupted.

    The atlas also opens from its folder, without a server. A served one shows all images and
    latents, which are read from the stores of the run. It needs these stores in the folder of the
    run.

    Parameters
    ----------
    folder
        The folder of a run, or of its atlas.
    port
        The port. Default: 8000.

    Raises
    ------
    InputError
        If there is no atlas, or the port can't be used.
    """
    from mammo_sae.atlas.live import Live
    from mammo_sae.atlas.serve import HOST, atlas_in, server

    atlas = atlas_in(folder)
    live = None
    try:
        live = Live(atlas)
    except InputError as error:
        print(f"{error}, so pages show only what the folder of the atlas holds")
    with server(atlas, port, live) as opened:
        print(f"http://{HOST}:{opened.server_port}/index.html (end with Ctrl-C)", flush=True)
        try:
            opened.serve_forever()
        except KeyboardInterrupt:
            print()


def figures(
    folder: Path, *, format: str = "svg", only: Sequence[str] = (), output: Path | None = None
) -> None:
    """Draw the figures of a run again as SVG or PDF for a paper, and change nothing in the run.

    The text of such a figure is text, its images have 300 dots per inch, and its colours are those
    of the report.

    Parameters
    ----------
    folder
        The folder of the run, results/NAME.
    format
        svg or pdf. Default: svg.
    only
        Names of figures or folders below results/NAME/figures, for instance encoders or
        confounds/finetuned. Default: all figures.
    output
        The folder to write. Default: results/NAME/paper.

    Raises
    ------
    InputError
        If there is no such figure or format, or the figure's step did not record its options.
    """
    from mammo_sae.library.figures import redraw

    for path in redraw(folder, output or folder / "paper", format, only):
        print(path, flush=True)


def compare(first: Path, second: Path, *, output: Path) -> None:
    """Write a page that compares the SAEs of two runs: matched latents, what is new, what moved.

    Latents are matched by their activations on the images that both runs have. To compare SAEs of
    one run, open the page Compare of its atlas.

    Parameters
    ----------
    first, second
        Folders of the runs, or of their atlases.
    output
        Folder to write. It must not have files.

    Raises
    ------
    InputError
        If a run has no atlas or lacks a store, the runs have too few images or no concept in
        common, or the folder has files.
    """
    from mammo_sae.atlas.runs import compare_runs
    from mammo_sae.atlas.serve import atlas_in
    from mammo_sae.atlas.stored import Stored

    runs = [Stored(atlas_in(folder)) for folder in (first, second)]
    names = [one.run.name for one in runs]
    if names[0] == names[1]:
        names = [str(first), str(second)]
    print(compare_runs(names, runs, output))


def fetch_checkpoint(*, hub: str, output: Path) -> None:
    """Download a checkpoint from the Hugging Face hub, unless the file exists already.

    Parameters
    ----------
    hub
        Hugging Face id: owner/repository/path/in/it.
    output
        Where to put the file.

    Raises
    ------
    InputError
        If the file can't be downloaded.
    """
    from mammo_sae.encoders.hub import fetch

    fetch(hub, output)


def export_sae(
    folder: Path,
    *,
    output: Path,
    encoder: str | None = None,
    layer: str | None = None,
    sae: str | None = None,
    seed: int | None = None,
) -> None:
    """Write an SAE of a run in SAELens's layout with a model card, as a folder for a model hub.

    If the run has several SAEs, these are taken: those of the fine-tuned encoder, of the layer
    `head`, that are no control, with the lowest seed.

    Parameters
    ----------
    folder
        The folder of the run, results/NAME.
    output
        The folder to write, new or empty.
    encoder
        Name of the SAE's encoder.
    layer
        Layer of the SAE.
    sae
        Name of the SAE.
    seed
        Seed of the SAE.

    Raises
    ------
    InputError
        If there is no such SAE or several are left, if SAELens has no architecture for it, or if
        the folder is not empty.
    """
    from mammo_sae.library.export import export
    from mammo_sae.library.files import RunFiles

    files = RunFiles(folder)
    for path in export(files, files.choose(encoder, layer, sae, seed), output):
        print(path)
