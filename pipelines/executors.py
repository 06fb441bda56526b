"""Who does the jobs: this process, or a pool of spawned ones that survives the death of any of them."""

from __future__ import annotations

import contextlib
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

from pipelines.atomic import in_words

if TYPE_CHECKING:
    from pipelines.reconstruct import Done, Job

REPORT_EVERY_S = 0.2  # how often a worker tells its parent about iterations
PATIENCE_S = 5.0  # how long a worker may take to end when asked

OnProgress = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        reason: one sentence that names the file.
        kind: "data" (of the file: trying again gives the same), "io", "memory", "worker" (it died), or
            "unexpected" (a defect of Backcast or a denoiser).
        trace: the traceback of an unexpected one.
    """

    reason: str
    kind: Literal["data", "io", "memory", "worker", "unexpected"]
    trace: str = ""


class Executor(Protocol):
    """Does jobs and yields their outcomes as they come."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """Index in `jobs` and outcome, once per job, in the order of completion.

        Closing the iterator abandons what is running.
        """
        ...


def do(job: Job, on_iteration: Callable[[Mapping[str, Any]], None]) -> Done | Failure:
    """One job; whatever goes wrong with it becomes a Failure. Ctrl-C goes through."""
    from data import DataFormatError
    from pipelines.reconstruct import reconstruct_file

    try:
        return reconstruct_file(job, on_iteration=[on_iteration])
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            return Failure(_named(job, _memory_words(error)), "memory")
        return _unexpected(job, error)
    except OSError as error:
        return Failure(_named(job, in_words(error, job.target)), "io")
    except (DataFormatError, ValueError, ArithmeticError) as error:
        return _unexpected(job, error) if _is_a_defect(error) else Failure(_named(job, str(error)), "data")
    except Exception as error:  # one bad file never stops the rest
        return _unexpected(job, error)


class InProcess:
    """One job after the other, here."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """See Executor."""
        for index, job in enumerate(jobs):
            on_progress(index, {})
            yield index, do(job, lambda row, index=index: on_progress(index, row))  # type: ignore[misc]


class ProcessPool:
    """N spawned processes, the CPU's threads shared among them.

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
        workers = [_Worker(self.threads) for _ in range(min(self.n_workers, len(jobs)))]
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
                            workers[i] = worker = _Worker(self.threads)
                        else:
                            worker.index = None
                    if worker.index is None and waiting and not worker.ended:
                        worker.give(*waiting.popleft())
                workers = [w for w in workers if not w.ended]
        finally:
            for worker in workers:
                worker.close()


class _Worker:
    """A spawned process and the pipe to it."""

    def __init__(self, threads: int) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.index: int | None = None
        self.ended = False
        self.process = context.Process(target=_work, args=(theirs, threads), daemon=True)
        with _environment(threads):
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
        return Failure(f"{job.source}: its worker process {how}{hint}; run the same command again", "worker")

    def close(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(PATIENCE_S)
            if self.process.is_alive():
                self.process.kill()
        self.process.join()


def _work(pipe: Connection, threads: int) -> None:
    """A worker's life: jobs come, outcomes go; ends when the pipe or the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            index, job = pipe.recv()
        except (EOFError, OSError):
            return
        last = 0.0

        def tell(row: Mapping[str, Any], index: int = index) -> None:
            nonlocal last
            if time.monotonic() - last >= REPORT_EVERY_S:
                last = time.monotonic()
                pipe.send(("progress", index, dict(row)))

        try:
            pipe.send(("progress", index, {}))
            pipe.send(("outcome", index, do(job, tell)))
        except (BrokenPipeError, OSError):
            return


def _end_with_parent() -> None:
    """A parent killed with -9 cannot end its workers; they must not go on writing into its folder."""
    parent = mp.parent_process()
    assert parent is not None  # a spawned process has one
    mp_connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Thread counts that libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
