"""Jobs over dask.distributed: a local cluster, or one that is there already. Needs the extra dask.

Workers read and write the files themselves, so they must see the same paths. What a worker has written counts: a task
that dask starts anew, since it lost the worker after the work, finds its result in the folder and does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.config import ConfigError
from pipelines.executors import REPORT_EVERY_S, Failure, OnProgress, cpu_count, do

if TYPE_CHECKING:
    from distributed import Client, Future

    from pipelines.reconstruct import Done, Job

#: How long a client waits for a scheduler to answer.
CONNECT_S = 20.0
#: How often the scheduler is asked whether it is still there.
LOOK_EVERY_S = 2.0
#: Times that a cluster on this machine is started.
STARTS = 3


def distributed() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise ConfigError('--scheduler dask: needs dask.distributed; pip install "backcast[dask]"') from error
    return distributed


@contextlib.contextmanager
def connected(address: str | None, n_workers: int) -> Iterator[Client]:
    """A client of the scheduler at `address`, or of a cluster of `n_workers` processes on this machine.

    Raises:
        ConfigError: no dask, or no scheduler at that address.
    """
    module = distributed()
    if address is not None:
        try:
            client = module.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--scheduler-address {address}: expected a dask scheduler, found none "
                f"({_first(error)}); "
                "start one, or give tcp://HOST:8786"
            ) from error
        with client:
            yield client
        return
    with _cluster(module, n_workers) as cluster, module.Client(cluster, set_as_default=False) as client:
        yield client


def _cluster(module: Any, n_workers: int) -> Any:
    """Processes on this machine; once more where one of them died while it started.

    Raises:
        ConfigError: they die whenever they start.
    """
    threads = max(1, cpu_count() // n_workers)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for attempt in range(STARTS):
        try:
            return module.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                memory_limit=0,  # the system's own; dask would stop workers at a share of it
                env=dict.fromkeys(names, str(threads)),
                silence_logs=logging.CRITICAL,  # what became of a file is in its outcome
            )
        except (RuntimeError, OSError) as error:
            if attempt == STARTS - 1:
                raise ConfigError(
                    f"--scheduler dask: its workers died while they started ({_first(error)}); too little memory? try "
                    "fewer -j"
                ) from error
    raise AssertionError


def _first(error: BaseException) -> str:
    """Words of an error, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Dask:
    """Jobs as tasks of a dask client; the scheduler decides where, and moves those of workers that died.

    Args:
        client: any `distributed.Client`.
        n_workers: that its cluster is kept at, where some died for good; None leaves that to the cluster.
    """

    def __init__(self, client: Client, n_workers: int | None = None) -> None:
        self.client, self.n_workers = client, n_workers

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, Done | Failure]]:
        """See Executor."""
        said: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        topic = f"backcast-{uuid.uuid4()}"
        self.client.subscribe_topic(topic, lambda event: said.put(("progress", *event[1])))
        futures: dict[int, Future] = {}
        lost = _Watch(self.client)
        looked = time.monotonic()
        try:
            for index, job in enumerate(jobs):
                future = self.client.submit(
                    _task, index, _absolute(job), topic, key=f"{topic}-{index}", pure=False, retries=0
                )
                futures[index] = future
                future.add_done_callback(lambda future, index=index: said.put(("ended", index, future)))
            while futures:
                if time.monotonic() - looked > LOOK_EVERY_S:
                    looked = time.monotonic()
                    self._replace_the_dead()
                try:
                    kind, index, content = said.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    if lost.gone():
                        for index in sorted(futures):
                            yield index, _without_scheduler(jobs[index])
                        futures.clear()
                    continue
                if index not in futures:
                    continue
                if kind == "progress":
                    on_progress(index, content)
                else:
                    futures.pop(index)
                    yield index, _outcome(content, jobs[index])
        finally:
            with contextlib.suppress(Exception):  # a scheduler that has gone cannot be told
                self.client.unsubscribe_topic(topic)
                self.client.cancel(list(futures.values()), force=True)

    def _replace_the_dead(self) -> None:
        """A process that dies while it starts is given up by its nanny; the cluster starts others when asked."""
        if self.n_workers is not None and self.client.cluster is not None:
            with contextlib.suppress(Exception):  # asked again soon
                self.client.cluster.scale(self.n_workers)


def _task(index: int, job: Job, topic: str) -> Done | Failure:
    """On a worker."""
    from distributed import get_worker

    worker = get_worker()
    last = 0.0

    def tell(row: Mapping[str, Any]) -> None:
        nonlocal last
        if not row or time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            worker.log_event(topic, (index, dict(row)))

    tell({})
    return do(dataclasses.replace(job, device=_device(job.device, worker.name)), tell)


def _device(wanted: str, name: object) -> str:
    """ "auto" as this worker's machine has it; of several GPUs each worker of a local cluster takes its own."""
    import torch

    from pipelines.reconstruct import resolve_device

    device = str(resolve_device(wanted))
    n = torch.cuda.device_count()
    return f"cuda:{name % n}" if device == "cuda" and n > 1 and isinstance(name, int) else device


def _absolute(job: Job) -> Job:
    """A worker's current folder is another one."""
    return dataclasses.replace(job, source=job.source.absolute(), target=job.target.absolute())


def _outcome(future: Future, job: Job) -> Done | Failure:
    """What became of a task."""
    module = distributed()
    if future.status == "finished":
        with contextlib.suppress(Exception):  # its worker died before it could tell
            outcome: Done | Failure = future.result(timeout=CONNECT_S)
            return outcome
    elif future.status == "error":
        error = future.exception(timeout=CONNECT_S)
        if not isinstance(error, module.KilledWorker):
            words = f"{job.source}: unexpected {type(error).__name__}: {error}; please report it"
            return Failure(words.splitlines()[0], "unexpected", str(future.traceback(timeout=CONNECT_S)))
    else:
        return _without_scheduler(job)
    words = f"{job.source}: its dask workers died; too little memory? see their logs, or run the same command again"
    return Failure(words, "worker", passing=True)


def _without_scheduler(job: Job) -> Failure:
    words = f"{job.source}: the dask scheduler has gone; run the same command again when it is back"
    return Failure(words, "worker")


class _Watch:
    """Whether the scheduler still answers; asked on a thread, since the answer may never come."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: threading.Thread | None = None
        self.since = time.monotonic()

    def gone(self) -> bool:
        """True when it has not answered for some time, or says that it is closed."""
        if self.client.status in ("closed", "closing"):
            return True
        if self.asked is None or not self.asked.is_alive():
            self.asked = threading.Thread(target=self._ask, daemon=True)
            self.asked.start()
        return time.monotonic() - self.since > CONNECT_S

    def _ask(self) -> None:
        with contextlib.suppress(Exception):
            self.client.nthreads()
            self.since = time.monotonic()
