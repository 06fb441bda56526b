"""The command ``backcast``.

Command bodies import what they need: ``--help`` must not bring torch or h5py.
"""

from __future__ import annotations

import enum
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imaging import __version__
from pipelines.atomic import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines import batch

app = typer.Typer(
    name="backcast",
    help="Measurement files in, images with units, provenance and honest error figures out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would cost more to import than the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
config_app = typer.Typer(
    help="A commented TOML for a method, the resolved values of a run, the check of a file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")
denoisers_app = typer.Typer(
    pretty_exceptions_enable=False, rich_markup_mode=None, help="Weights, their cards and hashes."
)
app.add_typer(denoisers_app, name="denoisers")


class Modality(enum.StrEnum):
    """What can be simulated."""

    mimo_radar = "mimo_radar"
    tomography = "tomography"
    mri = "mri"
    irs_mimo = "irs_mimo"


class Demo(enum.StrEnum):
    """What can be shown."""

    mimo_radar = "mimo_radar"
    tomography = "tomography"
    mri = "mri"
    irs_mimo = "irs_mimo"


class Precision(enum.StrEnum):
    """Arithmetic."""

    single = "single"
    double = "double"


class Score(enum.StrEnum):
    """What tuning looks at."""

    psnr = "psnr"
    nmse = "nmse"
    ssim = "ssim"
    heldout = "heldout"


class Scheduler(enum.StrEnum):
    """Who shares out the files."""

    local = "local"
    dask = "dask"


class ProgressKind(enum.StrEnum):
    """How a batch tells what it does."""

    auto = "auto"
    plain = "plain"
    none = "none"


ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("-c", "--config", metavar="FILE.toml", help="TOML file; repeatable, later ones win."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="One value, after all files; repeatable."),
]
MethodName = Annotated[
    str | None, typer.Option("-m", "--method", help="A name of 'backcast methods'; default by modality.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backcast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# -- files --------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    modality: Annotated[Modality, typer.Argument(help="What to simulate.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many files.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random; the series follows from it.")] = None,
    config: ConfigFiles = None,
    assign: Assignments = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write synthetic measurement files with ground truth.

    'backcast config init mimo_radar' (or tomography, mri, irs_mimo) prints the settings with their defaults.
    """
    from pipelines.simulate import simulate_files

    for path in simulate_files(
        modality.value,
        output,
        count=count,
        seed=seed,
        config_files=config or [],
        assignments=assign or [],
        overwrite=overwrite,
    ):
        typer.echo(path)


@app.command()
def info(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files of either kind.")],
    as_json: AsJson = False,
) -> None:
    """Show modality, shapes, units, geometry and provenance."""
    from pipelines.files import info_text

    text, failures = info_text(files, as_json=as_json)
    if text:
        typer.echo(text)
    for failure in failures:
        _say(f"backcast: {failure}")
    _end(len(failures), len(files))


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files or folders.")],
    deep: Annotated[bool, typer.Option("--deep", help="Read every sample too: checksums, NaN.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check files; each finding has a code, a path and a fix. Exit status 1 on any error."""
    from pipelines.files import validate_text

    text, n_errors = validate_text(files, deep=deep, as_json=as_json)
    typer.echo(text)
    if n_errors:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="fastMRI, ISMRMRD, NXtomo, Data Exchange (HDF5), BART .cfl, MATLAB .mat, NumPy .npy, .npz.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Measurement file to write.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="bart, data_exchange, fastmri, ismrmrd, matlab, numpy, nxtomo, radar_matlab; default by content.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="What is where (MATLAB, NumPy), or options; default SRC.toml if there."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Variable (MATLAB), group (ISMRMRD) or entry (NXtomo) with the samples.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Of the dimensions, MATLAB's first one first: kx,ky,coil.")
    ] = None,
    field_of_view: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Metres.")] = None,
    matrix: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels of the image.")] = None,
    trajectory: Annotated[str | None, typer.Option(help="File (BART) or variable (MATLAB) with k.")] = None,
    trajectory_unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="1/m, cycles/pixel, rad/pixel or cycles/fov.")
    ] = None,
    maps: Annotated[str | None, typer.Option(help="File (BART) or variable (MATLAB) with coil maps.")] = None,
    mask: Annotated[str | None, typer.Option(help="File (BART) or variable (MATLAB), 1 where measured.")] = None,
    fft_centered: Annotated[
        bool | None,
        typer.Option("--fft-centered/--fft-uncentered", help="Zero frequency in the middle, or first (MATLAB)."),
    ] = None,
    fft_sign: Annotated[int | None, typer.Option(help="Of the exponent from image to k-space, -1 or 1.")] = None,
    frame_interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between frames.")] = 1.0,
    pixel_size: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="Of the detector, metres (tomography).")
    ] = None,
    center: Annotated[
        float | None, typer.Option(metavar="PIXELS", help="Column of the rotation axis, 0 for the first one's centre.")
    ] = None,
    angle_unit: Annotated[str | None, typer.Option(metavar="deg|rad", help="Where the file has none.")] = None,
    sense: Annotated[str | None, typer.Option(metavar="ccw|cw", help="Of the rotation, about +z.")] = None,
    quantity: Annotated[
        str | None, typer.Option(help="Of projections without flats: transmission or line_integral.")
    ] = None,
    source_to_origin: Annotated[float | None, typer.Option(metavar="METRES", help="Of a fan or cone beam.")] = None,
    origin_to_detector: Annotated[float | None, typer.Option(metavar="METRES", help="Of a fan or cone beam.")] = None,
    allow_links: Annotated[
        bool, typer.Option("--allow-links", help="Follow links of HDF5 files to other files.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Turn a foreign file into a measurement file.

    What the source does not say (centring and sign of MATLAB files, units of trajectories, pixel sizes) must be given,
    here or in SRC.toml beside it: nothing is guessed. Sentences on what the result lacks go to stderr. 'backcast
    reconstruct' and 'backcast info' read the same files as they are.
    """
    from pipelines.convert import convert_file

    sentences = convert_file(
        source,
        output,
        kind=kind,
        overwrite=overwrite,
        mapping=mapping,
        key=key,
        axes=axes,
        field_of_view_m=field_of_view,
        matrix=matrix,
        trajectory=trajectory,
        trajectory_unit=trajectory_unit,
        maps=maps,
        mask=mask,
        fft_centered=fft_centered,
        fft_sign=fft_sign,
        frame_interval_s=frame_interval,
        pixel_size_m=pixel_size,
        center=center,
        angle_unit=angle_unit,
        sense=sense,
        quantity=quantity,
        source_to_origin_m=source_to_origin,
        origin_to_detector_m=origin_to_detector,
        allow_links=allow_links,
    )
    for sentence in sentences:
        _say(sentence)
    typer.echo(output)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RESULT", help="A reconstruction file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help=".nii, .nii.gz, .mrc, .tif, .mat or .vti.")
    ],
    part: Annotated[
        str | None,
        typer.Option(metavar="PART", help="Of complex volumes: magnitude, phase, real, imag; default all of it."),
    ] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="One of several, from 0; default all.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a result for other programs, with voxel sizes and units: NIfTI, MRC, TIFF stack, MATLAB, VTK image."""
    from pipelines.export import export_file

    for sentence in export_file(source, output, part=part, frame=frame, overwrite=overwrite):
        _say(sentence)
    typer.echo(output)


# -- images -------------------------------------------------------------------------------------------------


@app.command()
def reconstruct(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUTS", help="Files, folders, 'quoted globs', @list.txt.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for the results.")],
    method: MethodName = None,
    config: ConfigFiles = None,
    assign: Assignments = None,
    denoiser: Annotated[
        str, typer.Option("-d", "--denoiser", help="A name of 'backcast denoisers', .safetensors, .pt2, path.py:attr.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision | None, typer.Option(help="Arithmetic.")] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Processes.")] = 1,
    scheduler: Annotated[
        Scheduler, typer.Option(help="dask: a cluster of -j processes, or the one at --scheduler-address.")
    ] = Scheduler.local,
    scheduler_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a dask scheduler whose workers see the same files.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="The I-th of N parts of the files; 'slurm': this array task's.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Further tries after a dead worker, memory that ran out, an I/O error.")
    ] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other inputs or configurations.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on inside files whose long solve was interrupted.")
    ] = False,
    checkpoint: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Between checkpoints of a long solve, for --resume.")
    ] = 60.0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Say what would be done, do nothing.")] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="For all -j processes together: 500M, 12G; files that do not fit are refused."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random in the method.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write OUTPUT/report.html and .csv in the end.")] = False,
    progress: Annotated[ProgressKind, typer.Option(help="On stderr.")] = ProgressKind.auto,
) -> None:
    """Turn measurement files into images.

    scans/a/b.h5 gives OUTPUT/a/b_recon.h5. What is done and unchanged is skipped; a result of another
    configuration is left alone and named. One bad file never stops the rest. Paths of results go to stdout.

    Exit status: 0 all done, 1 none done or an error, 2 wrong usage, 3 some not done, 130 interrupted.
    """
    from pipelines.config import ConfigError, parse_bytes

    if not output:
        raise ConfigError("--output: expected a folder, found an empty text; write . for the current folder")
    memory = None if max_memory is None else parse_bytes(max_memory)
    assignments = list(assign or [])
    if precision is not None:
        assignments.append(f'precision="{precision.value}"')
    if seed is not None:
        assignments.append(f"seed={seed}")
    from pipelines import batch
    from pipelines.progress import make_progress

    options = batch.Options(
        inputs=tuple(inputs),
        output=Path(output),
        method=method,
        config_files=tuple(config or ()),
        assignments=tuple(assignments),
        denoiser=denoiser,
        device=device,
        jobs=jobs,
        max_memory=memory,
        overwrite=overwrite,
        fail_fast=fail_fast,
        dry_run=dry_run,
        retries=retries,
        scheduler="dask" if scheduler is Scheduler.dask or scheduler_address is not None else "local",
        scheduler_address=scheduler_address,
        resume=resume,
        checkpoint_s=checkpoint,
        shard=None if shard is None else batch.parse_shard(shard),
        arguments=tuple(sys.argv[1:]),
    )
    planned = batch.plan(options)
    for stranger in planned.strangers:
        _say(f"{stranger}: passed over, no measurement file")
    for entry in planned.entries:
        if entry.status == "differs":
            _say(f"left alone: {entry.reason}")
    if dry_run:
        _say_plan(planned, jobs)
        return
    _say_threads(jobs)
    began = time.time()
    status = batch.run(planned, options, make_progress(progress.value))
    for entry in planned.entries:
        if entry.status in ("done", "skipped"):
            typer.echo(entry.result)
    summary = batch.of_shard(options.output / batch.SUMMARY_CSV, options.shard)
    written = summary.exists() and summary.stat().st_mtime > began - 2  # a full disk keeps the last run's
    _say(batch.counted(planned.entries) + (f"; summary in {summary}" if written else ""))
    if report:
        from pipelines.report import write_report

        _say(f"report in {write_report(options.output)[0]}")
    if status:
        raise typer.Exit(status)


def _say_plan(planned: batch.Planned, jobs: int) -> None:
    """What a run would do, with estimates."""
    from pipelines import estimate

    verb = {
        "pending": "would reconstruct",
        "skipped": "already done",
        "differs": "would leave alone",
        "failed": "would refuse",
    }
    for i, (job, entry) in enumerate(zip(planned.jobs, planned.entries, strict=True)):
        found = planned.estimates.get(i)
        words = "" if found is None else f": {found if isinstance(found, str) else estimate.phrase(found)}"
        typer.echo(f"{verb[entry.status]}: {entry.source} -> {entry.result} ({job.method.name}){words}")
    known = [found for found in planned.estimates.values() if isinstance(found, estimate.Estimate)]
    if known:
        _say(estimate.total(known, jobs))


@app.command("estimate")
def estimate_command(
    inputs: Annotated[list[str], typer.Argument(metavar="FILE", help="Files, folders, 'quoted globs', @list.txt.")],
    method: MethodName = None,
    config: ConfigFiles = None,
    assign: Assignments = None,
    denoiser: Annotated[
        str, typer.Option("-d", "--denoiser", help="A name of 'backcast denoisers', .safetensors, .pt2, path.py:attr.")
    ] = "",
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Processes.")] = 1,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="As 'reconstruct' has it: blocks are chosen to fit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict peak memory and time of a reconstruction from the heads of the files; nothing is computed.

    Of the CPU; memory is that of a process with interpreter and libraries, time that of this machine as it is now.
    """
    from pipelines import batch, estimate
    from pipelines.config import parse_bytes

    options = batch.Options(
        inputs=tuple(inputs),
        output=Path(),
        method=method,
        config_files=tuple(config or ()),
        assignments=tuple(assign or ()),
        denoiser=denoiser,
        jobs=jobs,
        max_memory=None if max_memory is None else parse_bytes(max_memory),
    )
    rows = batch.estimates(options)
    if as_json:
        typer.echo(json.dumps([_estimate_json(path, m.name, found) for path, m, found in rows], indent=2))
    else:
        for path, m, found in rows:
            words = found if isinstance(found, str) else estimate.phrase(found)
            typer.echo(f"{path}: {m.name}: {words}")
    known = [found for _, _, found in rows if isinstance(found, estimate.Estimate)]
    if known:
        _say(estimate.total(known, jobs))
    _end(len(rows) - len(known), len(rows))


def _estimate_json(path: Path, method: str, found: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"file": str(path), "method": method}
    if isinstance(found, str):
        return {**values, "reason": found}
    return {**values, "peak_bytes": round(found.memory), "seconds": round(found.seconds, 3)}


@app.command()
def evaluate(
    recons: Annotated[list[str], typer.Argument(metavar="RECON", help="Reconstruction files or folders.")],
    against: Annotated[
        Path | None,
        typer.Option(help="The truth: a measurement or reconstruction file, or the measurements' folder."),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
) -> None:
    """Compare with the truth: PSNR, SSIM, NMSE of images; NMSE, support, symbol errors, bit/s/Hz of channels."""
    from pipelines import evaluate as ev
    from pipelines.config import ConfigError
    from pipelines.files import reconstructions

    if as_json and as_csv:
        raise ConfigError("--json and --csv: expected one of them, found both")
    if against is not None and not against.exists():
        raise ConfigError(f"--against {against}: expected a file or folder, found nothing there")
    found, failures = [], 0
    paths = reconstructions(recons)
    finder = ev.TruthFinder(against)
    for path in paths:
        try:
            found.append(ev.evaluate(path, finder))
        except (ValueError, OSError) as error:
            failures += 1
            _say(str(error) if str(path) in str(error) else f"{path}: {error}")
    if found or as_json:
        typer.echo((ev.as_json(found) if as_json else ev.as_csv(found) if as_csv else ev.table(found)).rstrip())
    _end(failures, len(paths))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of reconstruct.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Default: DIR/report.html.")
    ] = None,
) -> None:
    """Write one HTML page on a folder of results, and a CSV beside it.

    Pictures, convergence, metrics, times, failures with reasons, configurations and provenance; the page needs no other
    file and no network.
    """
    from pipelines.report import write_report

    for path in write_report(folder, output):
        typer.echo(path)


@app.command()
def view(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Measurement and reconstruction files.")],
    screenshot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Make a picture and end; needs no display where xvfb is.")
    ] = None,
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE.mp4|gif", help="Make a movie: frames, or a turn about a volume; end.")
    ] = None,
) -> int:
    """Open files in napari: volumes in millimetres with their truth and antennas, several results side by side.

    Needs pip install "backcast[viewer-qt]"; no other command does.
    """
    from pipelines.view import view_files

    return view_files(files, screenshot=screenshot, animate=animate, arguments=sys.argv[1:])


@app.command()
def tune(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files, folders, 'quoted globs', @list.txt.")],
    method: MethodName = None,
    config: ConfigFiles = None,
    assign: Assignments = None,
    denoiser: Annotated[
        str, typer.Option("-d", "--denoiser", help="A name of 'backcast denoisers', .safetensors, .pt2, path.py:attr.")
    ] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="KEY=RANGE",
            help="KEY=LOW:HIGH, KEY=LOW:HIGH:log, KEY=a,b,c, or KEY alone for its usual range; repeatable.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those in --study included.")] = 40,
    score: Annotated[
        Score | None, typer.Option(help="Default: psnr where all files have a truth, else heldout.")
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Processes.")] = 1,
    study: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the trials there; go on with those that are there.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search, and of what is held out.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.toml", help="Write the configuration there too.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    progress: Annotated[ProgressKind, typer.Option(help="On stderr.")] = ProgressKind.auto,
) -> None:
    """Choose a method's parameters by Bayesian optimisation, with a truth or without.

    Every trial images all files. Trial 0 is what -c and -s say, so the result is never worse on these files; keys
    set by -s stay as they are. The best configuration goes to stdout, as a TOML for 'reconstruct -c'.
    """
    from pipelines import tune_command
    from pipelines.tune import TuneInterrupted

    _say_threads(jobs)
    try:
        text = tune_command.run(
            files,
            say=_say,
            method=method,
            config_files=config or [],
            assignments=assign or [],
            denoiser=denoiser,
            parameters=parameter or [],
            trials=trials,
            score=None if score is None else score.value,
            jobs=jobs,
            study=study,
            seed=seed,
            output=output,
            device=device,
            progress=progress.value,
        )
    except TuneInterrupted as stopped:
        if stopped.result is not None:
            typer.echo(stopped.result.toml(), nl=False)
        raise typer.Abort from stopped
    typer.echo(text, nl=False)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods with their parameters and defaults."""
    from pipelines.describe import methods_json, methods_text

    typer.echo(methods_json() if as_json else methods_text())


@app.command()
def demo(
    modality: Annotated[Demo, typer.Argument(help="What to show.")] = Demo.mimo_radar,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for all it makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the scene and the noise.")] = 0,
) -> None:
    """Simulate, reconstruct, evaluate, draw: all in one go."""
    from pipelines.demo import run_demo

    text, picture = run_demo(modality.value, output, seed=seed, say=_say)
    typer.echo(text)
    typer.echo(picture)


# -- denoisers ----------------------------------------------------------------------------------------------


@app.command()
def train(
    config: Annotated[list[Path], typer.Argument(metavar="CONFIG.toml", help="One or more, later ones win.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Weights, log, checkpoint.")],
    assign: Assignments = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, whatever is there.")] = False,
    progress: Annotated[ProgressKind, typer.Option(help="On stderr.")] = ProgressKind.auto,
) -> None:
    """Train a denoiser; the same command goes on where an interrupted one stopped.

    'backcast config init train' prints the settings. Several processes: torchrun --nproc-per-node 2 -m pipelines.cli
    train CONFIG.toml -o FOLDER. The path of the weights goes to stdout; exit status 130 when interrupted.
    """
    from pipelines.reconstruct import command_line, resolve_device
    from pipelines.train import read_train_config, stop_on_signals, train_denoiser

    settings = read_train_config(config, assign or [])
    with stop_on_signals() as stop:
        trained = train_denoiser(
            settings,
            output,
            device=resolve_device(device),
            overwrite=overwrite,
            say=(lambda text: None) if progress is ProgressKind.none else _say,
            progress=progress is ProgressKind.auto,
            command=command_line(sys.argv[1:]),
            stop=stop,
        )
    if trained.weights is None:
        raise typer.Exit(130)  # `guarded` has the words
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        typer.echo(trained.weights)


@denoisers_app.callback(invoke_without_command=True)
def _denoisers(context: typer.Context) -> None:
    """Weights, their cards and hashes."""
    if context.invoked_subcommand is None:
        denoisers_list(as_json=False)


@denoisers_app.command("list")
def denoisers_list(as_json: AsJson = False) -> None:
    """A line per denoiser that -d takes by name."""
    from pipelines.weights import list_json, list_text

    typer.echo(list_json() if as_json else list_text())


@denoisers_app.command("info")
def denoisers_info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the list, or a .safetensors file.")],
) -> None:
    """What it was trained on, its errors, limits, licence and hash."""
    from pipelines.weights import info_text

    typer.echo(info_text(name))


@denoisers_app.command("verify")
def denoisers_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: all shipped ones.")] = None,
) -> None:
    """Compare weight files with the hashes on their cards; exit status 1 when one differs."""
    from pipelines.weights import verify

    lines, wrong = verify(names or [])
    typer.echo("\n".join(lines))
    if wrong:
        raise typer.Exit(1)


# -- configuration ------------------------------------------------------------------------------------------


@config_app.command("init")
def config_init(
    name: Annotated[str, typer.Argument(help="METHOD, MODALITY:METHOD, or a modality for its simulation.")],
) -> None:
    """Print a commented TOML with all keys and their defaults."""
    from pipelines.describe import config_template

    typer.echo(config_template(name), nl=False)


@config_app.command("show")
def config_show(
    result: Annotated[
        Path | None, typer.Argument(metavar="[RESULT]", help="A reconstruction: print what made it.")
    ] = None,
    method: MethodName = None,
    config: ConfigFiles = None,
    assign: Assignments = None,
) -> None:
    """Print the resolved values, as a TOML that -c takes."""
    from pipelines.config import ConfigError
    from pipelines.describe import config_of_result, resolved_config

    if result is not None and (method or config or assign):
        raise ConfigError(f"{result} with -m, -c or -s: expected a result or options, found both; leave one out")
    if result is not None:
        typer.echo(config_of_result(result), nl=False)
    else:
        typer.echo(resolved_config(method, config or [], assign or []), nl=False)


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml")],
    method: MethodName = None,
) -> None:
    """Check a file; exit status 2 and a sentence when something is wrong."""
    from pipelines.describe import what_fits

    typer.echo(f"{file}: fits {what_fits(method, file)}")


# -- machine ------------------------------------------------------------------------------------------------


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, name collisions and write permission; exit status 1 when something is wrong."""
    from pipelines.doctor import examine, report

    checks = examine()
    if as_json:
        typer.echo(json.dumps([c.plain() for c in checks], indent=2))
    else:
        typer.echo(report(checks))
    if any(c.status == "wrong" for c in checks):
        raise typer.Exit(1)


# -- inside -------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _say_threads(jobs: int) -> None:
    from pipelines.executors import cpu_count

    if jobs > cpu_count():
        _say(f"--jobs {jobs}: more processes than the {cpu_count()} CPUs there are; they will share them")


def _end(failures: int, total: int) -> None:
    """1 when all failed, 3 when some did."""
    if failures:
        raise typer.Exit(1 if failures >= total else 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``backcast``; every foreseen mistake ends in one sentence on stderr."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # a file name need not be text; print it as it is
    sys.exit(guarded(lambda: app(args=arguments, standalone_mode=False)))


def guarded(command: Callable[[], Any]) -> int:
    """Run a command's body; its exit status. Foreseen errors become one sentence on stderr, defects go through."""
    try:
        status = command()
        sys.stdout.flush()
        if status == 130:  # some versions of typer answer Ctrl-C themselves
            return _interrupted()
        return status if isinstance(status, int) else 0
    except (typer.Abort, KeyboardInterrupt) as stop:
        return _interrupted(str(stop.__cause__ or stop))
    except _USAGE as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except BrokenPipeError:
        # the reader of our output has gone; point stdout elsewhere so that the interpreter can end quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = _foreseen(error)
        if status is None:
            raise
        _say(f"backcast: {in_words(error, 'standard output') if isinstance(error, OSError) else error}")
        return status


def _interrupted(words: str = "") -> int:
    _say(f"backcast: interrupted; {words or 'the same command goes on with what is left'}")
    return 130


def _foreseen(error: Exception) -> int | None:
    """The exit status of an error that has its own sentence; None for a defect."""
    kinds = [(module, name, status) for module, name, status in _FORESEEN if module in sys.modules]
    for module, name, status in kinds:
        if isinstance(error, getattr(sys.modules[module], name)):
            return status
    return 1 if isinstance(error, OSError) else None


#: click's base of all usage errors; typer carries a click of its own or uses the installed one.
_USAGE: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

#: Looked up among the modules that are loaded: an error of a module that is not cannot have happened.
_FORESEEN = (
    ("pipelines.config", "ConfigError", 2),
    ("data.phantoms.errors", "SimulationError", 2),
    ("data.errors", "DataFormatError", 1),
    ("data.errors", "DataWriteError", 1),
    ("pipelines.tune", "TuneError", 1),
    ("denoisers.errors", "DenoiserError", 1),
    ("denoisers.checkpoint", "CheckpointError", 2),
    ("denoisers.training", "TrainingError", 1),
    ("imaging.errors", "ShapeError", 1),
    ("imaging.errors", "GeometryError", 1),
    ("imaging.errors", "DivergedError", 1),
    ("imaging.errors", "MemoryLimitError", 1),
)

if __name__ == "__main__":
    main()
