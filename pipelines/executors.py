"""Who does the jobs: this process, or a pool of spawned ones that survives the death of any of them.

`pipelines.dask_executor` is the third kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import multiprocessing as mp
import multiprocessing.connection as mp_connection
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipelines import ledger
from pipelines.atomic import in_words

if TYPE_CHECKING:
    from pipelines.reconstruct import Done, Job

REPORT_EVERY_S = 0.2  # how often a worker tells its parent about iterations
PATIENCE_S = 5.0  # how long a worker may take to end when asked
RETRY_WAIT_S = 1.0  # before the first try again, doubled for every further one
LONGEST_WAIT_S = 60.0

#: Errors of the system that may be gone when asked again; a full disk or a missing permission is none.
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EINTR", "ENOLCK", "ENFILE", "EMFILE", "EREMOTEIO"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENOMEM"),
    )
    if hasattr(errno, name)
)

OnProgress = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        reason: one sentence that names the file.
        kind: "data" (of the file: trying again gives the same), "io", "memory", "worker" (it died), or
            "unexpected" (a defect of Backcast or a denoiser).
        trace: the traceback of an unexpected one.
        passing: whether trying again may help: a worker that died, memory that ran out, an error of a disk or network.
    """

    reason: str
    kind: Literal["data", "io", "memory", "worker", "unexpected"]
    trace: str = ""
    passing: bool = False


class Executor(Protocol):
    """Does jobs and yields their outcomes as they come."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """Index in `jobs` and outcome, once per job, in the order of completion.

        Closing the iterator abandons what is running.
        """
        ...


def do(job: Job, on_iteration: Callable[[Mapping[str, Any]], None]) -> Done | Failure:
    """One job; whatever goes wrong with it becomes a Failure. Ctrl-C goes through.

    A job whose result is there already, since an earlier try or another process finished it, is not done again.
    """
    from data import DataFormatError
    from imaging.errors import MemoryLimitError
    from pipelines.reconstruct import reconstruct_file

    try:
        return _found(job) or reconstruct_file(job, on_iteration=[on_iteration])
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            passing = not isinstance(error, MemoryLimitError)  # that one is arithmetic
            return Failure(_named(job, _memory_words(error)), "memory", passing=passing)
        return _unexpected(job, error)
    except OSError as error:
        return Failure(_named(job, in_words(error, job.target)), "io", passing=_passes(error))
    except (DataFormatError, ValueError, ArithmeticError) as error:
        if _passes(error):  # a disk's error that a reader put into words
            return Failure(_named(job, str(error)), "io", passing=True)
        return _unexpected(job, error) if _is_a_defect(error) else Failure(_named(job, str(error)), "data")
    except Exception as error:  # one bad file never stops the rest
        return _unexpected(job, error)


def _found(job: Job) -> Done | None:
    """The result that is there already."""
    from pipelines.reconstruct import Done

    metrics = ledger.finished(job)
    if metrics is None:
        return None
    return Done(status="complete", stop_reason="", n_iterations=0, seconds=0.0, metrics=metrics)


def run_with_retries(
    executor: Executor,
    jobs: Sequence[Job],
    on_progress: OnProgress,
    *,
    retries: int,
    on_retry: Callable[[int, Failure], None] = lambda index, failure: None,
) -> Iterator[tuple[int, Done | Failure]]:
    """As `executor.run`, but what failed for a reason that may pass is done again when the others are through.

    Args:
        retries: how often a job is tried again; what its data make fail never is.
        on_retry: told of every failure that is not the last word.
    """
    waiting = list(range(len(jobs)))
    for attempt in range(retries + 1):
        again: list[int] = []
        places = tuple(waiting)

        def tell(index: int, row: Mapping[str, Any], places: Sequence[int] = places) -> None:
            on_progress(places[index], row)

        outcomes = executor.run(
            [jobs[i] if attempt == 0 else dataclasses.replace(jobs[i], resume=True) for i in places], tell
        )
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            for k, outcome in outcomes:
                index = places[k]
                if isinstance(outcome, Failure) and outcome.kind == "worker":
                    outcome = _found(jobs[index]) or outcome  # it died after its work was done
                if isinstance(outcome, Failure) and outcome.passing and attempt < retries:
                    again.append(index)
                    on_retry(index, outcome)
                else:
                    yield index, outcome
        if not again:
            return
        time.sleep(min(RETRY_WAIT_S * 2**attempt, LONGEST_WAIT_S))
        waiting = sorted(again)


class InProcess:
    """One job after the other, here."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """See Executor."""
        for index, job in enumerate(jobs):
            on_progress(index, {})
            yield index, do(job, lambda row, index=index: on_progress(index, row))  # type: ignore[misc]


class ProcessPool:
    """N spawned processes, the CPU's threads shared among them; with --device cuda one GPU each, in turn.

    A worker that dies (killed, out of memory, crashed in native code) costs the file it was at, nothing else:
    a new one takes its place. Workers end when their parent does, however it ends.

    Args:
        n_workers: processes at once.
        threads: of each; None divides the CPUs.
    """

    def __init__(self, n_workers: int, threads: int | None = None) -> None:
        self.n_workers = n_workers
        self.threads = max(1, cpu_count() // n_workers) if threads is None else threads

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """See Executor."""
        waiting = deque(enumerate(jobs))
        gpus = visible_gpus() if any(job.device == "cuda" for job in jobs) else []
        workers = [_Worker(self.threads, _turn(gpus, i)) for i in range(min(self.n_workers, len(jobs)))]
        try:
            for worker in workers:
                worker.give(*waiting.popleft())
            while any(worker.index is not None for worker in workers):
                ready = mp_connection.wait([w.pipe for w in workers] + [w.process.sentinel for w in workers])
                for i, worker in enumerate(workers):
                    if worker.pipe not in ready and worker.process.sentinel not in ready:
                        continue
                    yield from worker.take(jobs, on_progress)
                    if worker.ended:
                        if worker.index is not None:
                            yield worker.index, worker.death(jobs[worker.index])
                        worker.close()
                        if waiting:
                            workers[i] = worker = _Worker(self.threads, worker.gpu)
                        else:
                            worker.index = None
                    if worker.index is None and waiting and not worker.ended:
                        worker.give(*waiting.popleft())
                workers = [w for w in workers if not w.ended]
        finally:
            for worker in workers:
                worker.end()
            for worker in workers:
                worker.close()


class _Worker:
    """A spawned process and the pipe to it; `gpu` is the only one that it sees, None leaves it all."""

    asked = False

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        self.gpu = gpu
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.index: int | None = None
        self.ended = False
        self.process = context.Process(target=_work, args=(theirs, threads), daemon=True)
        with _environment(threads, gpu):
            self.process.start()
        theirs.close()  # so that the end of the process ends the pipe

    def give(self, index: int, job: Job) -> None:
        self.index = index
        with contextlib.suppress(OSError):  # it died already: the caller sees that next
            self.pipe.send((index, job))

    def take(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """What the worker has said so far."""
        try:
            while self.pipe.poll():
                kind, index, content = self.pipe.recv()
                if kind == "progress":
                    on_progress(index, content)
                else:
                    self.index = None
                    yield index, content
            self.ended = not self.process.is_alive() and not self.pipe.poll()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            self.ended = True

    def death(self, job: Job) -> Failure:
        code = self.process.exitcode
        if code is not None and code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
            hint = "; too little memory? try fewer -j or --max-memory" if -code == 9 else ""
        else:
            how, hint = f"ended with status {code}", ""
        return Failure(
            f"{job.source}: its worker process {how}{hint}; run the same command again", "worker", passing=True
        )

    def end(self) -> None:
        """Ask it to end, without waiting; it may keep the state of its solver first."""
        if self.process.is_alive() and not self.asked:
            self.process.terminate()
        self.asked = True

    def close(self) -> None:
        self.end()
        self.process.join(PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, threads: int) -> None:
    """A worker's life: jobs come, outcomes go; ends when the pipe or the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(threads)
        while True:
            index, job = pipe.recv()
            last = 0.0

            def tell(row: Mapping[str, Any], index: int = index) -> None:
                nonlocal last
                if time.monotonic() - last >= REPORT_EVERY_S:
                    last = time.monotonic()
                    pipe.send(("progress", index, dict(row)))

            pipe.send(("progress", index, {}))
            pipe.send(("outcome", index, do(job, tell)))
    except (EOFError, OSError, KeyboardInterrupt):
        os._exit(0)  # the parent has gone, or wants us to go


def _interrupt(number: int, frame: object) -> None:
    """What a parent asks with SIGTERM is Ctrl-C to the job."""
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A parent killed with -9 cannot end its workers; they must not go on writing into its folder."""
    parent = mp.parent_process()
    assert parent is not None  # a spawned process has one
    mp_connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _environment(threads: int, gpu: str | None = None) -> Iterator[None]:
    """Thread counts that libraries read when they are loaded, and the GPU that CUDA is to see."""
    values = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    if gpu is not None:
        values["CUDA_VISIBLE_DEVICES"] = gpu
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def visible_gpus() -> list[str]:
    """Names, as CUDA_VISIBLE_DEVICES has them, of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _turn(gpus: Sequence[str], i: int) -> str | None:
    return gpus[i % len(gpus)] if gpus else None


def cpu_count() -> int:
    """CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


# -- words --------------------------------------------------------------------------------------------------


def _is_a_defect(error: BaseException) -> bool:
    """A ValueError that numpy or torch raised deep inside is no sentence for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).resolve().parent.parent
    own = [root / name for name in ("imaging", "denoisers", "data", "pipelines")]
    return not (frames and any(folder in Path(frames[-1].filename).resolve().parents for folder in own))


def _passes(error: BaseException) -> bool:
    """Whether the system's error behind this one may be gone when asked again."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in PASSING:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _unexpected(job: Job, error: BaseException) -> Failure:
    words = f"{job.source}: unexpected {type(error).__name__}: {_first_line(str(error))}; please report it"
    return Failure(words, "unexpected", "".join(traceback.format_exception(error)))


def _memory_words(error: BaseException) -> str:
    from imaging.errors import MemoryLimitError

    found = _first_line(str(error)) or "no more memory"
    if isinstance(error, MemoryLimitError):
        return f"--max-memory: {found}; all -j processes share it"
    return f"expected enough memory for the image, found: {found}; choose fewer voxels under [grid], or fewer -j"


def _named(job: Job, sentence: str) -> str:
    return sentence if str(job.source) in sentence else f"{job.source}: {sentence}"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
