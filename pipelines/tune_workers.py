"""Who scores the trials: this process, or spawned ones that survive the death of any of them."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import multiprocessing.connection as mp_connection
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from pipelines.executors import _end_with_parent, _environment, _Worker, cpu_count
from pipelines.tune_score import Outcome, Scorer, Task

#: The next trial's number and values; None when there is none left.
Ask = Callable[[], tuple[int, dict[str, Any]] | None]


def scored_here(task: Task, ask: Ask) -> Iterator[tuple[int, Outcome]]:
    """One trial after the other in this process; number and outcome of each."""
    score = Scorer(task)
    while (trial := ask()) is not None:
        yield trial[0], score(trial[1])


def scored_in_processes(task: Task, ask: Ask, n_workers: int) -> Iterator[tuple[int, Outcome]]:
    """Several trials at once, the CPU's threads shared among them; in the order of completion.

    A process that dies costs the trial it was at. Closing the iterator abandons what is running.

    Raises:
        RuntimeError: a defect, with the traceback of the process.
    """
    threads = max(1, cpu_count() // n_workers)
    workers: list[_TrialWorker] = []
    try:
        while True:
            while sum(w.index is not None for w in workers) < n_workers and (trial := ask()) is not None:
                worker = next((w for w in workers if w.index is None), None)
                if worker is None:
                    worker = _TrialWorker(task, threads)
                    workers.append(worker)
                worker.give(*trial)  # type: ignore[arg-type]
            busy = [w for w in workers if w.index is not None]
            if not busy:
                return
            ready = mp_connection.wait([w.pipe for w in busy] + [w.process.sentinel for w in busy])
            for worker in busy:
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                for number, outcome in worker.take([], lambda index, row: None):
                    if isinstance(outcome, str):
                        raise RuntimeError(f"a worker process failed:\n{outcome}")
                    yield number, outcome  # type: ignore[misc]
                if worker.ended:
                    workers.remove(worker)
                    worker.close()
                    if worker.index is not None:
                        yield worker.index, Outcome(None, worker.words(), hopeless=True)
    finally:
        for worker in workers:
            worker.close()


class _TrialWorker(_Worker):
    """A spawned process that scores trials."""

    def __init__(self, task: Task, threads: int) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.index: int | None = None
        self.ended = False
        self.process = context.Process(target=_work, args=(theirs, task, threads), daemon=True)
        with _environment(threads):
            self.process.start()
        theirs.close()  # so that the end of the process ends the pipe

    def words(self) -> str:
        """How it died."""
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"its worker process {how}; too little memory? try fewer -j"


def _work(pipe: Connection, task: Task, threads: int) -> None:
    """A worker's life: trials come, outcomes go; ends when the pipe or the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    score: Scorer | None = None
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        while True:
            number, values = pipe.recv()
            content: Outcome | str
            try:
                score = Scorer(task) if score is None else score
                content = score(values)
            except Exception:
                content = traceback.format_exc()
            pipe.send(("outcome", number, content))
