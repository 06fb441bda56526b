"""Objects that move, for benchmarks of time-sequential tomography: real slices under the published walnut's motion.

    head    axial slice 40 of cranium_ct.npz, head rest removed
    mouse   gate 0 of mouse_4gate_highdose.mat, the animal alone, clipped at 40 % of the maximum (3 % of it, bones)
    tooth   filtered backprojection of tooth.h5, first detector row

at 128 x 128 pixels, maximum 0.068, warped by RP 7.1, seen from one bit-reversed view per instant with noise of 0.5 % of
the largest value over all views and frames (RP 1.1). The files are looked for in $BACKCAST_SHARED (../shared).

With the published strength C = 6 these objects, which have less fine detail than a walnut, are easier: their best
rank-7 approximation has 41.5, 42.7 and 39.4 dB (P = 128) against the walnut's 34.9 (RP 2.1). `C_MAX` scales the motion
so that they are within 1 dB of it, as RP 7.4 (4) has it; everything stays within 55 pixels of the axis. The network
`tomo-2d` has seen none of them in training.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from rotate_and_sum import RotateAndSum, field_of_view, matching_parallel_beam
from scipy.io import loadmat
from scipy.ndimage import affine_transform, binary_fill_holes, gaussian_filter, label
from skimage.transform import iradon
from torch import Tensor

from data.simulate.motions import piecewise_affine
from imaging.operators import TimeSequential

Name = Literal["head", "mouse", "tooth"]
Model = Literal["rotate", "joseph"]

SHARED = Path(os.environ.get("BACKCAST_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
SIZE = 128
PEAK = 0.068  # of the published object, RP 7.2
C_WALNUT = 6.0  # RP 7.1
C_MAX = {"head": 11.0, "mouse": 12.0, "tooth": 9.0}
NOISE = 0.005  # of the largest clean value, RP 1.1
RADIUS = 36.0  # pixels of 128, half the larger side of the object; the published one spans 73 columns (RP 7.2)


def static_object(name: Name, *, size: int = SIZE, radius: float | None = None) -> np.ndarray:
    """The object at rest, before the squeeze.

    Args:
        name: "head", "mouse" or "tooth".
        size: side in pixels.
        radius: half the larger side of the object's bounding box, pixels; None takes `RADIUS` in proportion to size.

    Returns:
        float64 (size, size), >= 0, maximum 0.068 per pixel, zero outside the object, whose box is centred on
            pixel size // 2.

    Source: RP 7.4 (1).
    """
    image, threshold = {"head": _head, "mouse": _mouse, "tooth": _tooth}[name]()
    body = _largest(image > threshold)
    image = np.where(body, image, 0.0)
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    centre = np.array([(rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2])
    half = max(rows[-1] - rows[0], columns[-1] - columns[0]) / 2
    step = half / (RADIUS * size / SIZE if radius is None else radius)  # old pixels per new one
    smooth = gaussian_filter(image, max(0.0, (step - 1) / 2))  # as antialiasing in skimage's resize
    small = affine_transform(smooth, [step, step], centre - step * (size // 2), (size, size), order=1)
    small = small.clip(min=0)
    return PEAK * small / small.max()


def warped_movie(image: np.ndarray, n_frames: int, *, c_max: float = C_WALNUT) -> np.ndarray:
    """The published motion: a vertical squeeze by 1.5, and a wave along the columns whose amplitude grows in time.

    Args:
        image: (N, N), at rest.
        n_frames: P; frame t has C_t = c_max t / P, t = 0 to P - 1.
        c_max: strength; 6 moves rows by almost 12 of 128 pixels.

    Returns:
        float64 (P, N, N), zero where the motion reads outside the image and outside the field of view.

    Source: RP 7.1, as `data.simulate.motions.piecewise_affine`.
    """
    inside = field_of_view(len(image))
    frames = [piecewise_affine(image[None], t / n_frames, amplitude=c_max)[0] for t in range(n_frames)]
    return np.stack(frames) * inside


def bit_reversed(n: int) -> np.ndarray:
    """0 to n - 1 in the order of their reversed bits, int64 (n,); n a power of 2 (RP 1.1)."""
    bits = n.bit_length() - 1
    if n != 1 << bits:
        raise ValueError(f"bit_reversed: expected a power of 2, got {n}")
    order = np.zeros(n, dtype=np.int64)
    for b in range(bits):
        order |= ((np.arange(n) >> b) & 1) << (bits - 1 - b)
    return order


def view_angles(n: int) -> Tensor:
    """(π / n) bitrev(p), float64 (n,), radians: instant p's view (RP 1.1)."""
    return torch.as_tensor(bit_reversed(n)) * (torch.pi / n)


def rank_psnr(movie: np.ndarray, rank: int) -> float:
    """PSNR in dB of the best approximation of a movie (P, ny, nx) by `rank` images times functions of time (RP 2.1)."""
    flat = movie.reshape(len(movie), -1)
    energy = np.linalg.eigvalsh(flat @ flat.T)[::-1].clip(min=0)
    error = np.sqrt(energy[rank:].sum() / flat.size)
    return float(20 * np.log10((movie.max() - movie.min()) / error))


@dataclass(frozen=True)
class DynamicScan:
    """A moving object and its data.

    Args:
        truth: (P, N, N), per pixel.
        y: (P, 1, N), one view per instant, noise included.
        clean: the same without noise.
        angles_rad: (P,), in the published sense of rotation.
        noise_std: of y.
        A: of the movie, (P, 1, N, N) -> (P, 1, N); `A.static` projects one image to all views.
        mask: bool (N, N), the field of view.
    """

    truth: Tensor
    y: Tensor
    clean: Tensor
    angles_rad: Tensor
    noise_std: float
    A: TimeSequential
    mask: Tensor


def dynamic_scan(
    name: Name,
    n_views: int,
    *,
    model: Model = "rotate",
    data: Model = "rotate",
    noise: float = NOISE,
    seed: int = 0,
    c_max: float | None = None,
    size: int = SIZE,
    dtype: torch.dtype = torch.float32,
) -> DynamicScan:
    """One view per instant of a moving object.

    Args:
        name: of the object.
        n_views: P instants, a power of 2.
        model: projector that reconstructs, "rotate" (`RotateAndSum`) or "joseph" (`ParallelBeam`).
        data: projector that simulates; the published data come from "rotate".
        noise: standard deviation over the largest clean value over all views and frames.
        seed: of the noise, drawn in float64.
        c_max: strength of the motion; None takes that of `C_MAX`.
        size: N.
        dtype: of the operator and the data.

    Source: RP 1.1. Only one view per instant is measured: the published files hold its mirror image with shifted
    noise, too, which lowers the noise by 3 dB; that doubling is left out here.
    """
    strength = C_MAX[name] if c_max is None else c_max
    movie = torch.as_tensor(warped_movie(static_object(name, size=size), n_views, c_max=strength))
    angles = view_angles(n_views)
    frames = torch.arange(n_views)
    simulator = projector(data, size, angles, torch.float64)
    clean = TimeSequential(simulator, frames)(movie[:, None])
    sigma = noise * max(float(simulator(part[:, None]).max()) for part in movie.split(16))
    rng = np.random.default_rng(seed)
    y = clean + sigma * torch.as_tensor(rng.standard_normal(clean.shape))
    A = TimeSequential(projector(model, size, angles, dtype), frames)
    mask = torch.as_tensor(field_of_view(size))
    return DynamicScan(movie.to(dtype), y.to(dtype), clean.to(dtype), angles, sigma, A, mask)


def projector(model: Model, size: int, angles_rad: Tensor, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    """Static projector of all views, lengths in pixels: `RotateAndSum` or the `ParallelBeam` of the same scan."""
    if model == "rotate":
        return RotateAndSum(size, angles_rad, dtype=dtype)
    return matching_parallel_beam(size, angles_rad, dtype=dtype)


def _head() -> tuple[np.ndarray, float]:
    with np.load(_file("volumes/cranium_ct.npz")) as f:
        hu = f["hu"][40].astype(np.float64)
    return (hu / 1000 + 1).clip(min=0), 0.7  # attenuation over that of water


def _mouse() -> tuple[np.ndarray, float]:
    image = loadmat(_file("ct/mouse_4gate_highdose.mat"))["uTarget"][..., 0].astype(np.float64)
    return image.clip(max=0.4 * image.max()), 0.15 * image.max()


def _tooth() -> tuple[np.ndarray, float]:
    with h5py.File(_file("ct/tooth.h5")) as f:
        data, white, dark = (
            np.asarray(f[f"exchange/{k}"])[:, 0].astype(float) for k in ("data", "data_white", "data_dark")
        )
        theta = np.asarray(f["exchange/theta"])
    dark = dark.mean(0)
    sinogram = -np.log((data - dark) / (white.mean(0) - dark))
    image = iradon(sinogram[:, 1:591].T, theta=theta, circle=True, filter_name="hann")  # axis at 296 is column 295
    return image, 0.2 * float(np.quantile(image, 0.99))


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, n = label(mask)
    sizes = np.bincount(labels.ravel())[1:] if n else np.zeros(1)
    return binary_fill_holes(labels == 1 + int(sizes.argmax()))


def _file(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; set BACKCAST_SHARED to the folder above data/")
    return path
