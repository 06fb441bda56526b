"""Speed and memory of the near-field radar operator, its exact solve and total variation: `make bench`.

Every case runs in a process of its own; both sides of a comparison run in the same process, in turn, and the best of
several runs counts. Peak memory is that of a process that did nothing but that side, above what the imports took.

    python benchmarks/near_field.py            all cases, on all cores
    python benchmarks/near_field.py --threads 1
    python benchmarks/near_field.py product exact
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from imaging.operators import Grid, NearFieldMimo
from imaging.operators.exact import CholeskySolver, MeasurementSpace
from imaging.priors import L1, Magnitude, TotalVariation
from imaging.solvers import csalsa_projected
from imaging.solvers.linear import CgSolver

CUBE = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (49, 25, 25))
LIMIT = 2**30  # bytes for factors in the scaling table


def antennas(n: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """n transmitters and n receivers on crossed diagonals of 0.3 m; shifted at random when not symmetric."""
    t = torch.linspace(-0.15, 0.15, n, dtype=torch.float64)
    zero = torch.zeros_like(t)
    tx, rx = torch.stack((t, -t, zero), dim=1), torch.stack((t, t, zero), dim=1)
    if not symmetric:
        generator = torch.Generator().manual_seed(0)
        for array in (tx, rx):
            array[:, :2] += 1e-3 * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    return tx, rx


def frequencies(n: int) -> Tensor:
    return torch.linspace(4e9, 16e9, n, dtype=torch.float64)


def radar(n: int, n_freq: int, grid: Grid = CUBE, *, symmetric: bool = False, **options: object) -> NearFieldMimo:
    return NearFieldMimo(*antennas(n, symmetric=symmetric), frequencies(n_freq), grid, **options)  # type: ignore[arg-type]


def dense_matrix(A: NearFieldMimo) -> Tensor:
    """The matrix that the factored operator never forms, complex64 (M, N), rows in the order (k, t, r)."""
    rows = torch.empty(A.n_measurements, A.grid.n_voxels, dtype=A.dtype)
    points = A.grid.points_m()
    for first in range(0, len(points), 1024):
        g_t, g_r = A.factors(points[first : first + 1024])
        rows[:, first : first + 1024] = (g_t[:, :, None] * g_r[:, None]).flatten(0, 2)
    return rows


def crandn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def best(*functions: Callable[[], object], repeats: int = 7) -> list[float]:
    """Milliseconds of each function, in turn, the fastest of several rounds."""
    for function in functions:
        function()
    fastest = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            fastest[i] = min(fastest[i], 1e3 * (time.perf_counter() - start))
    return fastest


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- cases: each prints one JSON object ---------------------------------------------------------------------


def product(symmetric: bool) -> dict[str, object]:
    """Factored against dense complex64, 25 x 25 antennas, 15 frequencies, 25 x 25 x 49 voxels."""
    A = radar(25, 15, symmetric=symmetric)
    D = dense_matrix(A)
    x, y = crandn(*A.in_shape), crandn(*A.out_shape)
    flat_x, flat_y = x.flatten(), y.movedim(-1, 0).flatten()
    exact = radar(25, 15, symmetric=symmetric, dtype=torch.complex128)(x.to(torch.complex128)).movedim(-1, 0).flatten()
    errors = [float((v - exact).norm() / exact.norm()) for v in (A(x).movedim(-1, 0).flatten(), D @ flat_x)]
    matvec = D.numpy()
    forward, dense_mv, adjoint, dense_adjoint = best(
        lambda: A(x),
        lambda: D @ flat_x,
        lambda: A.adjoint(y),
        lambda: (flat_y.conj() @ D).conj(),  # the fast way to write it: D.mH @ y is many times slower
    )
    (dense_numpy,) = best(lambda: matvec @ flat_x.numpy())  # apart: what torch does right after it takes twice the time
    dense_forward = min(dense_mv, dense_numpy)
    return {
        "forward_ms": forward,
        "dense_forward_ms": dense_forward,
        "forward_ratio": dense_forward / forward,
        "adjoint_ms": adjoint,
        "dense_adjoint_ms": dense_adjoint,
        "adjoint_ratio": dense_adjoint / adjoint,
        "factors_mib": A.factor_bytes / 2**20,
        "dense_mib": D.numel() * D.itemsize / 2**20,
        "errors": errors,
    }


def product_memory(symmetric: bool, dense: bool) -> dict[str, object]:
    A = radar(25, 15, symmetric=symmetric)
    x, y = crandn(*A.in_shape), crandn(*A.out_shape)
    start = peak_mib() if not dense else 0.0
    if dense:
        D = dense_matrix(radar(25, 15, symmetric=symmetric, memory_limit=2**26))
        D @ x.flatten()
    else:
        A(x), A.adjoint(y)
    return {"peak_mib": peak_mib(), "before_products_mib": start}


def baseline_memory() -> dict[str, object]:
    return {"peak_mib": peak_mib()}


def exact(symmetric: bool) -> dict[str, object]:
    """The regularised solve of C-SALSA, 12 x 13-like array with M = 2340: exact against CG to 1e-5."""
    t, r = torch.linspace(-0.15, 0.15, 12, dtype=torch.float64), torch.linspace(-0.15, 0.15, 13, dtype=torch.float64)
    tx, rx = torch.stack((t, -t, 0 * t), dim=1), torch.stack((r, r, 0 * r), dim=1)
    if not symmetric:
        generator = torch.Generator().manual_seed(0)
        tx[:, :2] += 1e-3 * torch.randn(12, 2, dtype=torch.float64, generator=generator)
    A = NearFieldMimo(tx, rx, frequencies(15), CUBE)
    rho = 0.158 * A.mean_eigenvalue()
    start = time.perf_counter()
    space = MeasurementSpace(A)
    space.gram()
    gram = time.perf_counter() - start
    start = time.perf_counter()
    solver = CholeskySolver(A, space, rho)
    cholesky = time.perf_counter() - start
    start = time.perf_counter()
    space.eigen()
    eigen = time.perf_counter() - start
    u, w = crandn(*A.in_shape), A(crandn(*A.in_shape, seed=1))
    cg = CgSolver(A, rho, tol=1e-5, max_iter=1000)
    b = rho * u + A.adjoint(w)
    exact_ms, cg_ms = best(lambda: solver.prox(u, w), lambda: cg.prox(u, w), repeats=3)

    def error(s: Tensor) -> float:
        return float((rho * s + A.gram(s) - b).norm() / b.norm())

    return {
        "measurements": A.n_measurements,
        "gram_s": gram,
        "cholesky_s": cholesky,
        "eigendecomposition_s": eigen,
        "exact_ms": exact_ms,
        "cg_ms": cg_ms,
        "ratio": cg_ms / exact_ms,
        "exact_residual": error(solver.prox(u, w)[0]),
        "cg_residual": error(cg.prox(u, w)[0]),
        "peak_mib": peak_mib(),
    }


def total_variation() -> dict[str, object]:
    """The TV prox of a noisy ball at weight 0.02: ms per iteration, and until within 1e-3 of the converged prox."""
    rows: dict[str, object] = {}
    for shape in ((49, 25, 25), (64, 64, 64), (96, 96, 96)):
        z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
        noise = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
        v = (z**2 + y**2 + x**2 < 0.3) + 0.2 * noise
        converged = TotalVariation(1.0, n_iter=2000, method="fgp").prox(v.double(), 0.02)

        def ours(n: int, method: str, v: Tensor = v) -> Tensor:
            return TotalVariation(1.0, n_iter=n, method=method).prox(v, 0.02)  # type: ignore[arg-type]

        def theirs(n: int, image: np.ndarray = v.numpy()) -> Tensor:
            return torch.as_tensor(denoise_tv_chambolle(image, weight=0.02, eps=0.0, max_num_iter=n))

        ways: dict[str, Callable[[int], Tensor]] = {
            "split": lambda n, f=ours: f(n, "split"),
            "fgp": lambda n, f=ours: f(n, "fgp"),
            "scikit-image": theirs,
        }
        row: dict[str, object] = {}
        for name, way in ways.items():
            steps = (5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160)
            enough = next(
                (n for n in steps if float((way(n) - converged).norm() / converged.norm()) <= 1e-3), steps[-1]
            )
            row[name] = (enough, best(lambda way=way, n=enough: way(n), repeats=5)[0])
        rows["x".join(map(str, shape))] = row
    A = radar(12, 20, symmetric=True)
    y = A(crandn(*A.in_shape))
    epsilon = 0.1 * float(y.norm())
    for name, prior in (("l1", L1(1.0)), ("tv", TotalVariation(1.0))):
        states = csalsa_projected(A, y, Magnitude(prior), epsilon=epsilon, alpha=0.02)
        next(states)
        rows[f"outer iteration, {name}"] = best(lambda states=states: next(states), repeats=10)[0]
    return rows | {"peak_mib": peak_mib()}


def scaling(n: int, n_freq: int, side: int) -> dict[str, object]:
    """One product each way as antennas, frequencies and voxels grow; factors limited to 1 GiB."""
    grid = Grid.spanning((0.35, -0.15, -0.15), (0.65, 0.15, 0.15), (side, side, side))
    before = peak_mib()
    A = radar(n, n_freq, grid, memory_limit=LIMIT)
    x, y = crandn(*A.in_shape), crandn(*A.out_shape)
    forward, adjoint = best(lambda: A(x), lambda: A.adjoint(y), repeats=2)
    return {
        "forward_ms": forward,
        "adjoint_ms": adjoint,
        "stored": A.stored,
        "peak_mib": peak_mib() - before,
        "dense_mib": A.n_measurements * grid.n_voxels * 8 / 2**20,
    }


SIZES = [(8, 8, 32), (16, 8, 32), (32, 8, 32), (64, 8, 32), (16, 16, 32), (16, 32, 32), (16, 8, 48), (16, 8, 64)]
SIZES += [(32, 8, 64), (64, 8, 64)]
CASES: dict[str, Callable[[], dict[str, object]]] = {
    "baseline": baseline_memory,
    "product-any": lambda: product(False),
    "product-symmetric": lambda: product(True),
    "memory-any": lambda: product_memory(False, False),
    "memory-symmetric": lambda: product_memory(True, False),
    "memory-dense": lambda: product_memory(False, True),
    "exact-any": lambda: exact(False),
    "exact-symmetric": lambda: exact(True),
    "tv": total_variation,
} | {f"scaling-{n}-{f}-{v}": (lambda n=n, f=f, v=v: scaling(n, f, v)) for n, f, v in SIZES}


def run_case(name: str, threads: int | None) -> dict[str, object]:
    command = [sys.executable, __file__, "--case", name, *(["--threads", str(threads)] if threads else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{name} failed:\n{result.stderr}")
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def report(chosen: list[str], threads: int | None) -> None:
    def wanted(*words: str) -> bool:
        return not chosen or any(word in chosen for word in words)

    print(f"{threads or torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}\n")
    if wanted("product"):
        base = float(run_case("baseline", threads)["peak_mib"])  # type: ignore[arg-type]
        dense = float(run_case("memory-dense", threads)["peak_mib"]) - base  # type: ignore[arg-type]
        print("Products, 25 x 25 antennas, 15 frequencies, 25 x 25 x 49 voxels, complex64")
        print(f"{'array':<12}{'':<10}{'factored':>10}{'dense':>10}{'ratio':>8}")
        for kind in ("any", "symmetric"):
            row = run_case(f"product-{kind}", threads)
            memory = float(run_case(f"memory-{kind}", threads)["peak_mib"]) - base  # type: ignore[arg-type]
            for way in ("forward", "adjoint"):
                ours, theirs = row[f"{way}_ms"], row[f"dense_{way}_ms"]
                print(f"{kind:<12}{way:<10}{ours:>7.1f} ms{theirs:>7.1f} ms{row[f'{way}_ratio']:>8.1f}")
            print(f"{kind:<12}{'peak':<10}{memory:>6.0f} MiB{dense:>6.0f} MiB{dense / memory:>8.1f}")
            factored_error, dense_error = row["errors"]  # type: ignore[misc]
            print(f"{kind:<12}{'error':<10}{factored_error:>10.0e}{dense_error:>10.0e}   (forward, against complex128)")
        print()
    if wanted("exact"):
        print("Regularised solve, 12 x 13 antennas, 15 frequencies (M = 2340), exact against CG to 1e-5")
        for kind in ("any", "symmetric"):
            r = run_case(f"exact-{kind}", threads)
            print(
                f"{kind:<12}set-up: Gram {r['gram_s']:.2f} s, Cholesky {r['cholesky_s']:.2f} s "
                f"(or eigendecomposition {r['eigendecomposition_s']:.2f} s); peak {r['peak_mib']:.0f} MiB in all"
            )
            print(
                f"{'':<12}per solve: exact {r['exact_ms']:.1f} ms (residual {r['exact_residual']:.0e}), "
                f"CG {r['cg_ms']:.0f} ms ({r['cg_residual']:.0e}), ratio {r['ratio']:.1f}"
            )
        print()
    if wanted("tv"):
        print("Total variation prox to 1e-3 of the converged one: iterations, ms each, ms in all")
        rows = run_case("tv", threads)
        peak = rows.pop("peak_mib")
        for name, values in rows.items():
            if isinstance(values, dict):
                shown = (f"{way} {n} x {ms / n:.2f} = {ms:.1f} ms" for way, (n, ms) in values.items())
                print(f"{name:<12}{', '.join(shown)}")
            else:
                print(f"{name:<22}{values:.1f} ms")
        print(f"peak {peak:.0f} MiB in all\n")
    if wanted("scaling"):
        print(f"Growth, factors limited to {LIMIT // 2**20} MiB (no symmetry)")
        print(
            f"{'antennas':<12}{'freq':<6}{'voxels':<10}{'forward':>10}{'adjoint':>10}{'factors':>11}{'peak':>10}{'dense':>12}"
        )
        for n, f, v in SIZES:
            r = run_case(f"scaling-{n}-{f}-{v}", threads)
            kept = "stored" if r["stored"] else "generated"
            print(
                f"{f'{n} x {n}':<12}{f:<6}{f'{v}^3':<10}{r['forward_ms']:>7.0f} ms{r['adjoint_ms']:>7.0f} ms"
                f"{kept:>11}{r['peak_mib']:>6.0f} MiB{r['dense_mib']:>8.0f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("chosen", nargs="*", help="product, exact, tv, scaling; all when none is given")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.case:
        print(json.dumps(CASES[given.case]()))
    else:
        report(given.chosen, given.threads)


if __name__ == "__main__":
    main()
