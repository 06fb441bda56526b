"""Tomography: speed of the projectors beside others.

**projector**: milliseconds of a forward product, of an adjoint, and of both for a movie with one view per instant, the
fastest of several rounds on one thread unless `--threads` says otherwise. The adjoint's error is
|⟨Ax, y⟩ - ⟨x, Aᴴy⟩| / (‖Ax‖ ‖y‖) for random x and y inside the field of view; scikit-image's `iradon` without filter is
a backprojection and not quite the transpose of its `radon`, and the two are scaled to each other here by π / (2 P).
astra takes part where it can be imported.

    python benchmarks/tomography.py [--part projector] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from denoising import run_parts
from near_field import best
from rotate_and_sum import RotateAndSum, field_of_view, matching_parallel_beam
from skimage.transform import iradon, radon
from torch import Tensor

from imaging.operators import LinearOperator, TimeSequential

Product = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Projector:
    """One way to project.

    Args:
        name: of the row.
        forward: image (N, N) -> sinogram (P, N), or movie (P, N, N) -> (P, N); float32.
        adjoint: back.
        mib: that its matrix takes, and its transpose; None where there is none.
    """

    name: str
    forward: Product
    adjoint: Product
    mib: float | None = None


def ours(name: str, A: LinearOperator) -> Projector:
    """An operator of ours; the stored matrix's size if there is one."""

    def forward(x: np.ndarray) -> np.ndarray:
        return A(torch.as_tensor(x).reshape(A.in_shape)).numpy()[:, 0]

    def adjoint(y: np.ndarray) -> np.ndarray:
        return A.adjoint(torch.as_tensor(y).reshape(A.out_shape)).numpy().squeeze()

    matrix = getattr(A, "matrix", None)
    if matrix is None:
        return Projector(name, forward, adjoint)
    tensors = [matrix.starts, matrix.columns, matrix.values, *(matrix.transpose or ())]
    return Projector(name, forward, adjoint, sum(t.numel() * t.element_size() for t in tensors) / 2**20)


def dense(A: LinearOperator) -> Projector:
    """The same matrix, dense."""
    n = int(np.prod(A.in_shape))
    columns = [A(part.reshape(-1, *A.in_shape)).flatten(1) for part in torch.eye(n).split(512)]
    transposed = torch.cat(columns)
    matrix = transposed.T.contiguous()

    def forward(x: np.ndarray) -> np.ndarray:
        return (matrix @ torch.as_tensor(x).flatten()).numpy().reshape(A.out_shape[0], -1)

    def adjoint(y: np.ndarray) -> np.ndarray:
        return (torch.as_tensor(y).flatten() @ matrix).numpy().reshape(A.in_shape[1:])

    return Projector("dense torch matrix", forward, adjoint, matrix.numel() * matrix.element_size() / 2**20)


def scikit_image(size: int, angles: Tensor, *, moving: bool) -> Projector:
    """`radon` and `iradon` with circle=True, image by image."""
    degrees = np.degrees(angles.numpy())
    scale = np.float32(2 * len(degrees) / np.pi)  # iradon multiplies by π / (2 P)

    def still(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        return radon(x, theta=theta, circle=True).T

    def back(y: np.ndarray, theta: np.ndarray) -> np.ndarray:
        return iradon(y.T, theta=theta, circle=True, filter_name=None, output_size=size)

    if not moving:
        return Projector("scikit-image", lambda x: still(x, degrees), lambda y: scale * back(y, degrees))
    return Projector(
        "scikit-image",
        lambda x: np.concatenate([still(frame, degrees[p : p + 1]) for p, frame in enumerate(x)]),
        lambda y: np.float32(2 / np.pi) * np.stack([back(v[None], degrees[p : p + 1]) for p, v in enumerate(y)]),
    )


def astra(size: int, angles: Tensor, *, moving: bool) -> Projector | None:
    """astra's linear (Joseph) projector on the CPU; None where it cannot be imported."""
    if importlib.util.find_spec("astra") is None:
        return None
    try:
        library = importlib.import_module("astra")
    except (ImportError, OSError):
        return None
    volume = library.create_vol_geom(size, size)

    def projector(theta: np.ndarray):  # type: ignore[no-untyped-def]
        geometry = library.create_proj_geom("parallel", 1.0, size, theta)
        return library.OpTomo(library.create_projector("linear", geometry, volume))

    if not moving:
        W = projector(angles.numpy())
        return Projector("astra, linear, CPU", W.FP, W.BP)
    each = [projector(a[None]) for a in angles.numpy()]
    return Projector(
        "astra, linear, CPU",
        lambda x: np.concatenate([W.FP(frame) for W, frame in zip(each, x, strict=True)]),
        lambda y: np.stack([W.BP(view[None]) for W, view in zip(each, y, strict=True)]),
    )


def projector_part(given: argparse.Namespace) -> Iterator[str]:
    if not given.threads:
        torch.set_num_threads(1)
    still = torch.arange(given.views, dtype=torch.float64) * (torch.pi / given.views)
    instants = torch.arange(given.instants, dtype=torch.float64) * (torch.pi / given.instants)
    yield from table(
        f"### {given.size} x {given.size} pixels, {given.views} views",
        static_projectors(given.size, still, with_dense=False),
        given,
        (given.size, given.size),
        (given.views, given.size),
    )
    yield from table(
        f"### {given.small} x {given.small} pixels, {given.views // 2} views",
        static_projectors(given.small, still[::2], with_dense=True),
        given,
        (given.small, given.small),
        (len(still[::2]), given.small),
    )
    yield from table(
        f"### {given.size} x {given.size} pixels, one view at each of {given.instants} instants",
        moving_projectors(given.size, instants),
        given,
        (given.instants, given.size, given.size),
        (given.instants, given.size),
    )
    if astra(given.small, still, moving=False) is None:
        yield "astra left out: it cannot be imported here."


def static_projectors(size: int, angles: Tensor, *, with_dense: bool) -> Iterator[Projector]:
    stored = matching_parallel_beam(size, angles)
    yield ours("`ParallelBeam`, stored", stored)
    yield ours("`ParallelBeam`, not stored", matching_parallel_beam(size, angles, memory_limit=0))
    yield ours("rotate and sum, stored", RotateAndSum(size, angles))
    if with_dense:
        yield dense(stored)
    yield scikit_image(size, angles, moving=False)
    other = astra(size, angles, moving=False)
    if other is not None:
        yield other


def moving_projectors(size: int, angles: Tensor) -> Iterator[Projector]:
    frames = torch.arange(len(angles))
    yield ours("`TimeSequential`, stored", TimeSequential(matching_parallel_beam(size, angles), frames))
    bare = matching_parallel_beam(size, angles, memory_limit=0)
    yield ours("`TimeSequential`, not stored", TimeSequential(bare, frames))
    yield scikit_image(size, angles, moving=True)
    other = astra(size, angles, moving=True)
    if other is not None:
        yield other


def table(
    title: str, ways: Iterator[Projector], given: argparse.Namespace, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> Iterator[str]:
    yield title
    yield ""
    yield "| projector | forward, ms | adjoint, ms | matrix, MiB | adjoint's error |"
    yield "|---|---|---|---|---|"
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(x_shape) * field_of_view(x_shape[-1])).astype(np.float32)
    y = rng.standard_normal(y_shape).astype(np.float32)
    for way in ways:
        forward, adjoint = best(
            functools.partial(way.forward, x), functools.partial(way.adjoint, y), repeats=given.repeats
        )
        Ax, Aty = (np.asarray(v, dtype=np.float64) for v in (way.forward(x), way.adjoint(y)))
        gap = abs(np.vdot(Ax, y) - np.vdot(x, Aty)) / (np.linalg.norm(Ax) * np.linalg.norm(y))
        mib = "" if way.mib is None else f"{way.mib:.0f}"
        yield f"| {way.name} | {forward:.1f} | {adjoint:.1f} | {mib} | {gap:.0e} |"
    yield ""


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {"projector": projector_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of them; all without")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--size", type=int, default=128, help="projector: pixels along a side")
    parser.add_argument("--small", type=int, default=64, help="projector: the same beside a dense matrix")
    parser.add_argument("--views", type=int, default=180, help="projector")
    parser.add_argument("--instants", type=int, default=256, help="projector")
    parser.add_argument("--repeats", type=int, default=7, help="of timed calls")
    parser.add_argument("--threads", type=int)
    parser.set_defaults(radar_weights=None)
    run_parts(parser, PARTS)


if __name__ == "__main__":
    main()
