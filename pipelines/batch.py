"""Many files: skip what is done, isolate what fails, say in the end what became of each."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.atomic import remove_part
from imaging import __version__
from imaging.errors import MemoryLimitError
from pipelines import checkpoint, ledger
from pipelines.atomic import in_words, write_text
from pipelines.checkpoint import EVERY_S
from pipelines.config import ConfigError, read_toml, resolve, to_toml
from pipelines.executors import Executor, Failure, InProcess, ProcessPool, cpu_count, run_with_retries
from pipelines.inputs import Found, Input, find_inputs, targets
from pipelines.methods import METHODS, Method, find_method
from pipelines.progress import Progress, line, make_progress
from pipelines.reconstruct import Done, Job, checkpoint_key, command_line, identity, resolve_device

if TYPE_CHECKING:
    from distributed import Client

    from pipelines.estimate import Estimate

#: Method, configuration, its JSON and its hash.
Chosen = tuple[Method, Any, str, str]
Status = Literal["done", "skipped", "differs", "failed", "pending"]
SUMMARY_CSV, SUMMARY_JSON, CONFIG_TOML = "summary.csv", "summary.json", "config.toml"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says.

    Attributes:
        inputs: files, folders, quoted globs, @lists.
        output: folder for the results.
        method: None takes each modality's default.
        config_files, assignments: later ones win, assignments last.
        denoiser: as typed; "" for none.
        device: auto, cpu, cuda, cuda:N.
        jobs: processes.
        max_memory: bytes for all processes together (with `scheduler_address` for `jobs` of its workers); None sets no
            limit.
        overwrite: replace results of other inputs or configurations.
        fail_fast: stop at the first failure.
        dry_run: say what would be done, write nothing.
        retries: tries more for files whose worker died, or that memory, disk or network failed.
        scheduler: "local", or "dask": a cluster of `jobs` processes, or the one at `scheduler_address`.
        scheduler_address: of a dask scheduler.
        resume: go on inside files whose solve was interrupted, from their checkpoints.
        checkpoint_s: seconds between checkpoints of a solve.
        shard: (i, n): the i-th of n parts of the files, i from 1; None takes all.
        arguments: of the command, for the provenance.
    """

    inputs: tuple[str, ...]
    output: Path
    method: str | None = None
    config_files: tuple[Path, ...] = ()
    assignments: tuple[str, ...] = ()
    denoiser: str = ""
    device: str = "auto"
    jobs: int = 1
    max_memory: int | None = None
    overwrite: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    retries: int = 2
    scheduler: Literal["local", "dask"] = "local"
    scheduler_address: str | None = None
    resume: bool = False
    checkpoint_s: float = EVERY_S
    shard: tuple[int, int] | None = None
    arguments: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Entry:
    """One file's line in the summary."""

    source: Path
    result: Path
    status: Status = "pending"
    reason: str = ""
    kind: str = ""
    trace: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A batch before any work: what each file needs, and what is settled already.

    Attributes:
        jobs, entries: one each per file.
        strangers: files that were passed over.
        estimates: memory and time by index in `jobs`, or why there is none, of dry runs and those with a memory limit.
    """

    jobs: tuple[Job, ...]
    entries: tuple[Entry, ...]
    strangers: tuple[Path, ...]
    estimates: dict[int, Estimate | str] = field(default_factory=dict)

    @property
    def to_do(self) -> list[int]:
        """Indices of what is still to be imaged."""
        return [i for i, entry in enumerate(self.entries) if entry.status == "pending"]


def plan(options: Options) -> Planned:
    """Everything that can be found wrong before any work is found here.

    Raises:
        ConfigError: inputs, output, method, configuration, device or denoiser that cannot be used.
    """
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: expected 1 or more")
    if options.retries < 0:
        raise ConfigError(f"--retries {options.retries}: expected 0 or more")
    if options.scheduler_address is not None and options.scheduler != "dask":
        raise ConfigError(f"--scheduler-address {options.scheduler_address}: expected with --scheduler dask")
    if options.scheduler == "dask":
        from pipelines.dask_executor import distributed

        distributed()
    found: Found = find_inputs(options.inputs)
    results = targets(found.inputs, options.output)
    _check_output(options)
    elsewhere = options.scheduler_address is not None and options.device == "auto"  # each worker finds its own
    device = "cpu" if elsewhere else str(resolve_device(options.device))
    chosen = _chosen(options, found.inputs, device)
    fallback = next(iter(chosen.values()))
    typed = command_line(options.arguments)
    memory = None if options.max_memory is None else options.max_memory // options.jobs
    mine = range(len(results)) if options.shard is None else range(options.shard[0] - 1, len(results), options.shard[1])
    jobs, entries = [], []
    for one, target in ((found.inputs[i], results[i]) for i in mine):
        method, config, text, digest = chosen.get((one.modality or "", one.moving), fallback)
        jobs.append(
            Job(
                source=one.source,
                target=target,
                method=method,
                config=config,
                config_json=text,
                config_sha256=digest,
                denoiser=_denoiser_spec(options, config),
                device="auto" if elsewhere else device,
                memory_limit=memory,
                command_line=typed,
                resume=options.resume,
                checkpoint_s=options.checkpoint_s,
            )
        )
        entries.append(_settled(one, jobs[-1], options.overwrite))
    planned = Planned(jobs=tuple(jobs), entries=tuple(entries), strangers=found.strangers)
    return _sized(planned, options) if options.dry_run or options.max_memory is not None else planned


def estimates(options: Options) -> list[tuple[Path, Method, Estimate | str]]:
    """Memory and time of every input by the method that would image it, or why there is no estimate.

    Raises:
        ConfigError: inputs, method, configuration or denoiser that cannot be used.
    """
    found = find_inputs(options.inputs)
    chosen = _chosen(options, found.inputs, "cpu")
    fallback = next(iter(chosen.values()))
    rows = []
    for one in found.inputs:
        method, config, _, _ = chosen.get((one.modality or "", one.moving), fallback)
        rows.append((one.source, method, _estimate(one.source, method, config, options, _budget(options))))
    return rows


def run(planned: Planned, options: Options, progress: Progress, executor: Executor | None = None) -> int:
    """Do what is to be done; the exit status.

    Beside the results go the resolved configuration (`config.toml`) and a summary (`summary.csv`,
    `summary.json`), also when the run is interrupted; those of a shard have its number in their names.

    Args:
        executor: who does the jobs, e.g. `pipelines.dask_executor.Dask(client)`; None is what the options say.

    Returns:
        0 all done, 1 none done, 3 some not done.

    Raises:
        KeyboardInterrupt: after the summary was written and half-written files were removed.
    """
    make_folder(options.output)
    for job in planned.jobs:
        remove_part(job.target)
        remove_part(checkpoint.place_of(job.target))
    _write_config(planned, options)
    todo = planned.to_do
    jobs = [planned.jobs[i] for i in todo]
    for entry in planned.entries:
        if entry.status == "failed":
            progress.say(line(entry))
    try:
        with (
            _executor(options, len(jobs), executor) as workers,
            _interruptible() as interrupted,
            progress.over([str(j.source) for j in jobs], total=len(planned.entries)),
        ):

            def tell(index: int, row: Mapping[str, Any]) -> None:
                interrupted()
                progress.iteration(index, row)

            outcomes = run_with_retries(
                workers,
                jobs,
                tell,
                retries=options.retries,
                on_retry=lambda index, failure: progress.again(index, failure.reason),
            )
            with contextlib.closing(outcomes):  # type: ignore[type-var]
                for index, outcome in outcomes:
                    entry = planned.entries[todo[index]]
                    _record(entry, outcome)
                    if entry.status == "failed":
                        remove_part(jobs[index].target)  # of a worker that died
                        if entry.kind in ("data", "unexpected"):  # going on would end there again
                            checkpoint.remove(jobs[index].target)
                    progress.finished(index, entry)
                    interrupted()
                    if options.fail_fast and entry.status == "failed":
                        break
    except KeyboardInterrupt:
        for i, job in zip(todo, jobs, strict=True):
            remove_part(job.target)
            _settle_late(planned.entries[i], job)
        with contextlib.suppress(OSError):
            _write_summary(planned, options, interrupted=True)
        raise
    try:
        _write_summary(planned, options, interrupted=False)
    except OSError as error:  # a full disk: the results that fitted are there
        progress.say(f"summary: {in_words(error, options.output)}")
        return exit_status(planned.entries) or 3
    return exit_status(planned.entries)


def reconstruct_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    method: str | None = None,
    *,
    client: Client | None = None,
    progress: str = "none",
    **options: Any,
) -> list[Entry]:
    """What ``backcast reconstruct`` does, as a function.

    Args:
        inputs, output, method: as on the command line.
        client: a `distributed.Client` of any cluster whose workers see the same files; None works here.
        progress: "auto", "plain" or "none", on stderr.
        options: further fields of `Options`, e.g. ``assignments=("max_iter=20",)``.

    Returns:
        What became of each file; nothing is raised for those that failed.

    Raises:
        ConfigError: what is wrong with the call, found before any work.
    """
    given = Options(inputs=tuple(map(str, inputs)), output=Path(output), method=method, **options)
    planned = plan(given)
    executor: Executor | None = None
    if client is not None:
        from pipelines.dask_executor import Dask

        executor = Dask(client)
    run(planned, given, make_progress(progress), executor)
    return list(planned.entries)


@contextlib.contextmanager
def _executor(options: Options, n_jobs: int, given: Executor | None) -> Iterator[Executor]:
    """Who does the jobs, as the options say it."""
    if given is not None or n_jobs == 0:
        yield given or InProcess()
    elif options.scheduler == "dask":
        from pipelines.dask_executor import Dask, connected

        n_workers = min(options.jobs, n_jobs)
        with connected(options.scheduler_address, n_workers) as client:
            yield Dask(client, None if options.scheduler_address else n_workers)
    else:
        yield InProcess() if options.jobs == 1 else ProcessPool(min(options.jobs, n_jobs))


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n", or of "slurm": the task of the job array that this process belongs to.

    Raises:
        ConfigError: neither, or no job array here.
    """
    if text == "slurm":
        return _slurm_shard(os.environ)
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ConfigError(f"--shard {text}: expected I/N with I from 1 to N, such as 3/8, or slurm")
    return int(i), int(n)


def _slurm_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    """Of an array with equal steps: sbatch --array=1-8, 0-7, 0-14:2."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    try:
        task, first, last, count = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "--shard slurm: expected a task of a SLURM job array, found no SLURM_ARRAY_TASK_ID; "
            "submit it with sbatch --array=1-8, or give I/N"
        ) from error
    step = (last - first) // max(1, count - 1)
    if count > 1 and (first + step * (count - 1) != last or (task - first) % step):
        raise ConfigError(
            f"--shard slurm: expected an array with equal steps such as 1-8, found {count} tasks from {first} to "
            f"{last}; submit the whole array again, since what is done is skipped, or give I/N"
        )
    return ((task - first) // max(1, step) + 1 if count > 1 else 1), count


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end a batch as Ctrl-C does: workers stopped, summary written. A second one ends it at once.

    Yields:
        A check to be called now and then: an exception raised while Python runs a destructor is reported as ignored,
        and the interruption must not be lost with it.
    """
    asked = False
    report = sys.unraisablehook

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    def interrupt(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def unraisable(ignored: sys.UnraisableHookArgs) -> None:
        if not isinstance(ignored.exc_value, KeyboardInterrupt):  # that one `check` raises again
            report(ignored)

    if threading.current_thread() is not threading.main_thread():
        yield check  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.unraisablehook = unraisable
    try:
        with _second_ends_at_once(set(before)):
            yield check
    finally:
        sys.unraisablehook = report
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _second_ends_at_once(numbers: set[int]) -> Iterator[None]:
    """Leave the process with the second signal, also while the main thread is in a long computation.

    Workers end with their parent, and the next run clears what was half written.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # as set_wakeup_fd wants it
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        seen = 0
        while content := ours.recv(16):
            seen += sum(number in numbers for number in content)
            if seen > 1:
                with contextlib.suppress(OSError):
                    os.write(2, b"backcast: stopped at once; the same command goes on with what is left\n")
                os._exit(130)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()  # ends the thread
        thread.join()
        ours.close()


def exit_status(entries: Sequence[Entry]) -> int:
    """0 when every file has its result, 1 when none has, 3 otherwise."""
    bad = sum(entry.status not in ("done", "skipped") for entry in entries)
    return 0 if bad == 0 else 1 if bad == len(entries) else 3


def counted(entries: Sequence[Entry]) -> str:
    """ "98 done, 2 skipped, 1 failed": what became of the files, in words."""
    words = {
        "done": "done",
        "skipped": "already done",
        "differs": "left alone",
        "failed": "failed",
        "pending": "not started",
    }
    counts = Counter(entry.status for entry in entries)
    return ", ".join(f"{counts[s]} {words[s]}" for s in words if counts[s]) or "no files here"  # type: ignore[index]


# -- before -------------------------------------------------------------------------------------------------


def _has_methods(modality: str | None) -> bool:
    return any(modality in m.modalities for m in METHODS)


def make_folder(folder: Path) -> None:
    """Make the output folder.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {folder}: expected a folder that can be made, found: {error.strerror}; choose another"
        ) from error


def _check_output(options: Options) -> None:
    """The folder can be made and written; nothing is left behind in a dry run."""
    folder = options.output
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise ConfigError(f"--output {folder}: expected a folder, found the file {existing}; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--output {folder}: expected a folder that can be written, {existing} cannot; choose another"
        )


def _chosen(options: Options, inputs: Sequence[Input], device: str) -> dict[tuple[str, bool], Chosen]:
    """Methods by modality and whether there are several frames; at least one.

    A file that cannot say its modality fails when it is read; any method serves to get there, also the one named.
    """
    kinds = {(i.modality, i.moving) for i in inputs if i.modality and _has_methods(i.modality)}
    if not kinds:
        anyone = METHODS[0] if options.method is None else find_method(options.method)
        kinds = {(anyone.modalities[0], False)}
    return {kind: _configure(options, *kind, device) for kind in sorted(kinds)}


def _sized(planned: Planned, options: Options) -> Planned:
    """With the estimates of what is to do; files that do not fit into the limit fail before any work."""
    from pipelines.estimate import Estimate

    jobs, found = list(planned.jobs), dict[int, "Estimate | str"]()
    budget = _budget(options)
    for i in planned.to_do:
        job, entry = jobs[i], planned.entries[i]
        if job.device not in ("cpu", "auto"):
            found[i] = "no estimate for GPUs"
            continue
        found[i] = one = _estimate(job.source, job.method, job.config, options, budget)
        if isinstance(one, Estimate):
            jobs[i] = dataclasses.replace(job, memory_limit=one.blocks)
        elif one.startswith("--max-memory"):
            entry.status, entry.kind, entry.reason = "failed", "memory", f"{entry.source}: {one}"
    return dataclasses.replace(planned, jobs=tuple(jobs), estimates=found)


def _estimate(source: Path, method: Method, config: Any, options: Options, budget: float | None) -> Estimate | str:
    """Or why there is none."""
    from pipelines.estimate import estimate_file, machine_speed

    speed = machine_speed(max(1, cpu_count() // options.jobs))
    try:
        return estimate_file(source, method, config, limit=budget, speed=speed)
    except MemoryLimitError as error:
        return f"--max-memory: {error}"
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        return f"no estimate: {error}"


def _budget(options: Options) -> float | None:
    """Bytes for one process of `jobs`; where they are not this one, it takes its share too."""
    if options.max_memory is None:
        return None
    mine = 0 if options.scheduler_address or (options.jobs == 1 and options.scheduler == "local") else own_memory()
    return max(1, options.max_memory - mine) / options.jobs


def own_memory() -> int:
    """Bytes that this process holds; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _configure(options: Options, modality: str, moving: bool, device: str) -> Chosen:
    """Method, configuration, its JSON and its hash, checked."""
    files = [(str(path), read_toml(path)) for path in options.config_files]
    named = [(source, tables["method"]) for source, tables in files if "method" in tables]
    for source, value in named:
        if not isinstance(value, str):
            raise ConfigError(f"{source}: method: expected a text, found {value!r}")
    name = options.method or (named[-1][1] if named else None)
    method = find_method(name, modality, moving=moving)
    tables = [(source, {k: v for k, v in t.items() if k != "method"}) for source, t in files]
    assignments = list(options.assignments)
    if options.denoiser:
        if not method.takes_denoiser:
            takers = ", ".join(sorted({m.name for m in METHODS if m.takes_denoiser}))
            raise ConfigError(f"--denoiser {options.denoiser}: method {method.name} takes none; use -m {takers}")
        assignments.append(f"denoiser.file={options.denoiser}")
    config: Any = resolve(method.config, tables, assignments, name=f"method {method.full_name}")
    spec = _denoiser_spec(options, config)
    digest = ""
    if method.takes_denoiser:
        from denoisers.load import DenoiserError, load_denoiser

        if not spec:
            raise ConfigError(
                f"method {method.name} needs a denoiser: give -d a name of 'backcast denoisers', a .safetensors, .pt "
                "or .pt2 file, or path.py:attribute"
            )
        try:
            loaded = load_denoiser(spec, device=device)
        except DenoiserError as error:
            raise ConfigError(str(error)) from error
        digest = loaded.sha256
        named_only = dataclasses.replace(config.denoiser, file=loaded.name)  # its folder changes nothing
        text, sha = identity(method, dataclasses.replace(config, denoiser=named_only), digest)
    else:
        text, sha = identity(method, config)
    return method, config, text, sha


def _denoiser_spec(options: Options, config: Any) -> str:
    return options.denoiser or str(getattr(getattr(config, "denoiser", None), "file", ""))


def _settled(one: Input, job: Job, overwrite: bool) -> Entry:
    """A file's entry: skipped when its result is current, left alone when it is of something else."""
    entry = Entry(source=one.source, result=job.target)
    if not job.target.exists():
        _look_at_checkpoint(entry, job, overwrite)
        return entry
    previous = ledger.previous(job.target)
    if previous is None:
        if not overwrite:
            entry.status = "differs"
            entry.reason = f"{job.target}: expected an earlier result, found something else; use --overwrite"
        return entry
    same_config = previous["config_sha256"] == job.config_sha256
    try:
        same_input = same_config and previous["input_sha256"] == _sha256(one.source)
    except OSError:
        return entry  # reading it will tell why
    if same_config and same_input:
        if previous["status"] == "complete":
            entry.status, entry.metrics = "skipped", previous["metrics"]
        return entry  # a stopped or diverged one is done again
    if not overwrite:
        what = "configuration" if not same_config else "input"
        entry.status = "differs"
        entry.reason = f"{job.target}: made from another {what}; left alone, use --overwrite or another -o"
    return entry


def _look_at_checkpoint(entry: Entry, job: Job, overwrite: bool) -> None:
    """Going on inside a file takes the input and the configuration that it was begun with."""
    key = checkpoint.key_of(job.target) if job.resume and not overwrite else None
    if key is None:
        return
    with contextlib.suppress(OSError):  # reading the input will tell why
        wanted = checkpoint_key(job, _sha256(job.source))
        other = [name.partition("_")[0] for name in wanted if key.get(name) != wanted[name]]
        if other:
            words = {"config": "configuration", "version": "version of Backcast"}
            entry.status = "differs"
            entry.reason = (
                f"{entry.source}: expected a checkpoint to go on from that is of this {words.get(other[0], other[0])}, "
                "found one of another; use --overwrite to begin the file anew, or leave --resume out"
            )


def _settle_late(entry: Entry, job: Job) -> None:
    """A worker's last result may be there although the interruption came before its word of it."""
    if entry.status == "pending" and (metrics := ledger.finished(job)) is not None:
        entry.status, entry.metrics = "done", metrics


def _sha256(path: Path) -> str:
    from data import sha256

    return sha256(path)


# -- after --------------------------------------------------------------------------------------------------


def _record(entry: Entry, outcome: Done | Failure) -> None:
    if isinstance(outcome, Failure):
        entry.status, entry.reason = "failed", outcome.reason
        entry.kind, entry.trace = outcome.kind, outcome.trace
        return
    entry.seconds, entry.metrics, entry.notes = outcome.seconds, outcome.metrics, outcome.notes
    entry.status = "done"
    if outcome.status == "diverged":
        entry.status, entry.kind = "failed", "data"
        entry.reason = (
            f"{entry.source}: diverged after {outcome.n_iterations} iterations; {entry.result} holds its best "
            "image; try a larger noise.std if it was set too small, --precision double, or a smaller solver.alpha"
        )


def _write_config(planned: Planned, options: Options) -> None:
    """One TOML per method, ready for -c."""
    configs = {job.method.full_name: job for job in planned.jobs}
    for name, job in configs.items():
        file = CONFIG_TOML if len(configs) == 1 else f"config.{name.replace(':', '.')}.toml"
        write_text(
            of_shard(options.output / file, options.shard), to_toml(job.config, head={"method": job.method.name})
        )


def _write_summary(planned: Planned, options: Options, *, interrupted: bool) -> None:
    names = sorted({name for entry in planned.entries for name in entry.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "result", "status", "reason", "seconds", *names])
    for e in planned.entries:
        values = (e.metrics.get(n, math.nan) for n in names)
        shown = ("" if math.isnan(v) else repr(v) for v in values)
        writer.writerow([e.source, e.result, e.status, e.reason, f"{e.seconds:.3f}", *shown])
    write_text(of_shard(options.output / SUMMARY_CSV, options.shard), out.getvalue())
    content = {
        "program": "backcast",
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": command_line(options.arguments),
        "folder": str(options.output),
        "interrupted": interrupted,
        "counts": dict(Counter(entry.status for entry in planned.entries)),
        "files": [_plain(entry) for entry in planned.entries],
    }
    write_text(of_shard(options.output / SUMMARY_JSON, options.shard), json.dumps(content, indent=2) + "\n")


def of_shard(path: Path, shard: tuple[int, int] | None) -> Path:
    """summary.csv as it is, or summary.3-of-8.csv: shards at work side by side must not write the same file."""
    return path if shard is None else path.with_name(f"{path.stem}.{shard[0]}-of-{shard[1]}{path.suffix}")


def _plain(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {
        "file": str(entry.source),
        "result": str(entry.result),
        "status": entry.status,
        "reason": entry.reason,
        "seconds": round(entry.seconds, 3),
        "metrics": {n: v if math.isfinite(v) else None for n, v in entry.metrics.items()},
        "notes": entry.notes,
    }
    if entry.trace:
        values["traceback"] = entry.trace
    return values
