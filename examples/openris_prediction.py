"""Predict a reflecting surface's transmission under configurations that were not measured (OpenRIS, one-bit, 16 x 16).

    python examples/openris_prediction.py openris_tx_120_VV.npz [openris_tx_105_VV.npz ...] [--picture FILE.png]

A receiver at angle r sees y[configuration, frequency] = sum of A[c, n] D[f, d] x_r[n, d] over directions n, delays d:
A holds what the elements' states make of a wave that leaves towards direction n, D delays. Few paths are strong, so
x_r is sparse, and (A ⊗ D) is a Kronecker operator. Each configuration in turn is left out, with every second frequency
of the others; x_r is estimated from the rest by krosbl-mm and by truncated least squares, with all directions, or with
what geometry says alone: the receiver's own direction, and a part that no configuration changes. What is reported is
the error of the samples that were left out, beside that of the mean over the other configurations, which knows nothing
of the surface, and the noise, where the reverse transmission was measured as well.

The states of the elements were not measured; they follow from the rule by which they were chosen. The last column has
the states of other configurations: a method that predicts as well with wrong states has not used them.
Data: J. Rains et al., OpenRIS, doi 10.5281/zenodo.7415741.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from imaging.operators import Kronecker
from imaging.operators.kronecker import mode_products
from imaging.sbl import estimate
from imaging.sbl.combined import settled, svd_mm_krosbl

SPEED_OF_LIGHT = 299_792_458.0
DESIGN_HZ = 3.58e9
BAND_HZ = (3.505e9, 3.655e9)  # where the states are about opposite, and directions hardly turn with frequency
PITCH_M, N_CELLS = 0.03, 16
HORN_EXPONENT = 24.0  # cos^24: 17 dBi
CUT = 3e-2  # least squares leaves out singular values of a factor below this share of the largest
COARSE_DEG, DELAYS_S = 3.0, np.arange(40e-9, 90e-9, 2.5e-9)
METHODS = (
    "krosbl-mm, all directions",
    "least squares, all directions",
    "krosbl-mm, own direction",
    "least squares, own direction",
    "mean of the others",
)


def antenna(angle_deg, distance_m):
    """On the semicircle in front of the surface; 90 degrees is broadside."""
    a = np.deg2rad(angle_deg)
    return np.stack([distance_m * np.cos(a), 0 * a, distance_m * np.sin(a)], axis=-1)


def cells():
    """Centres, (256, 3), columns one after the other."""
    line = PITCH_M * (np.arange(N_CELLS) + 0.5 - N_CELLS / 2)
    x, y = np.meshgrid(line, line, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=-1)


def leg(point):
    """Field factor between the elements and a point, without the phase: (256,), and the distance."""
    away = np.linalg.norm(cells() - point, axis=1)
    cosine = point[2] / away
    boresight = np.clip(((point - cells()) @ point) / (away * np.linalg.norm(point)), 0, 1)
    return np.sqrt(cosine * boresight**HORN_EXPONENT) / away, away


def steered(transmitter, receivers, frequency):
    """What each element adds to the transmission towards each point: complex (256, n)."""
    k = 2 * np.pi * frequency / SPEED_OF_LIGHT
    size, there = leg(transmitter)
    columns = []
    for point in receivers:
        back, away = leg(point)
        columns.append(size * back * np.exp(-1j * k * (there + away)))
    return np.stack(columns, axis=1)


def states(transmitter, target):
    """±1 per element (of ±j): each makes the running sum larger, columns first."""
    terms = 1j * steered(transmitter, [target], DESIGN_HZ)[:, 0]
    chosen, total = np.empty(len(terms)), 0
    for i, term in enumerate(terms):
        chosen[i] = 1 if abs(total + term) >= abs(total - term) else -1
        total += chosen[i] * term
    return chosen


def dictionary(scan, shift=0):
    """A (configuration, direction), the last column the same for all configurations; directions in degrees.

    `shift` gives every configuration the states of another one.
    """
    distance = float(scan["distance_m"])
    transmitter = antenna(float(scan["tx_angle_deg"]), distance)
    patterns = np.stack([states(transmitter, antenna(t, distance)) for t in scan["target_angle_deg"]])
    directions = np.arange(0.0, 180.1, COARSE_DEG)
    atoms = steered(transmitter, [antenna(d, distance) for d in directions], DESIGN_HZ)
    A = np.roll(patterns, shift, axis=0) @ atoms
    A = A / np.linalg.norm(A, axis=0).mean()
    common = np.full((len(A), 1), 1 / np.sqrt(len(A)))
    return np.concatenate([A, common], axis=1), directions


def samples(scan):
    """Transmission (receiver, configuration, frequency) of the band, receivers, frequencies; where something is."""
    frequency = scan["freq_hz"]
    band = (frequency >= BAND_HZ[0]) & (frequency <= BAND_HZ[1])
    measured = np.isfinite(scan["s34"]).all(axis=(0, 2))
    beside = np.abs(scan["rx_angle_deg"] - float(scan["tx_angle_deg"])) < 5  # the antennas see each other
    kept = measured & ~beside
    pick = np.ix_(np.ones(len(scan["s34"]), bool), kept, band)
    y = scan["s34"][pick].transpose(1, 0, 2)
    noise = None
    if "s43" in scan.files:
        noise = 0.5 * np.mean(np.abs(y - scan["s43"][pick].transpose(1, 0, 2)) ** 2) / np.mean(np.abs(y) ** 2)
    return y.astype(complex), scan["rx_angle_deg"][kept], frequency[band], noise


def predictions(y, A, D, own, configurations, frequencies):
    """Samples (receiver, configuration, frequency) by method, from the given ones only."""
    seen = torch.from_numpy(y[np.ix_(np.arange(len(y)), configurations, frequencies)].copy())
    D, found = torch.from_numpy(D), {}
    # (receiver, configuration, 2): its own direction, and what all configurations share
    near = np.stack([A[:, own].T, np.broadcast_to(A[:, -1], (len(own), len(A)))], axis=2)
    for words, factor in (("all directions", np.tile(A, (len(y), 1, 1))), ("own direction", near)):
        factor = torch.from_numpy(factor)
        whole, part = Kronecker([factor, D]), Kronecker([factor[:, configurations], D[frequencies]])
        state, _, _ = estimate(part, seen, svd_mm_krosbl, stop=settled(1e-6), max_iter=300)
        found[f"krosbl-mm, {words}"] = whole(state.x).numpy()
        inverses = [torch.linalg.pinv(a, rtol=CUT) for a in part.factors]
        found[f"least squares, {words}"] = whole(mode_products(seen, inverses)).numpy()
    mean = seen.mean(dim=1) @ torch.linalg.pinv(D[frequencies], rtol=CUT).mT @ D.mT
    found["mean of the others"] = np.broadcast_to(mean.numpy()[:, None], y.shape)
    return found


def errors(scan, shift=0):
    """‖prediction - measurement‖² / ‖measurement‖² of left-out configurations, and frequencies, by method.

    Returns:
        two tables {method: (configuration,)}, and predictions (receiver, configuration, frequency) of each
        configuration from the others.
    """
    y, angles, frequency, _ = samples(scan)
    y = y / np.sqrt(np.mean(np.abs(y) ** 2))
    A, directions = dictionary(scan, shift)
    D = np.exp(-2j * np.pi * np.outer(frequency - frequency.mean(), DELAYS_S)) / np.sqrt(len(frequency))
    own = np.abs(directions[:, None] - angles).argmin(axis=0)
    new_configuration = {m: np.empty(y.shape[1]) for m in METHODS}
    new_frequency = {m: np.empty(y.shape[1]) for m in METHODS}
    predicted = {m: np.empty(y.shape, complex) for m in METHODS}
    every_second = np.arange(0, len(frequency), 2)
    between = np.setdiff1d(np.arange(len(frequency)), every_second)
    for c in range(y.shape[1]):
        others = np.setdiff1d(np.arange(y.shape[1]), [c])
        found = predictions(y, A, D, own, others, every_second)
        for m in METHODS:
            predicted[m][:, c] = found[m][:, c]
            new_configuration[m][c] = _nmse(found[m][:, c], y[:, c])
            new_frequency[m][c] = _nmse(found[m][:, others][..., between], y[:, others][..., between])
    return new_configuration, new_frequency, predicted


def _nmse(estimate_, truth):
    return float(np.sum(np.abs(estimate_ - truth) ** 2) / np.sum(np.abs(truth) ** 2))


def picture(path, scan, predicted):
    """|s| over the receiver's angle at the design frequency, every configuration predicted from the others."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    y, angles, frequency, _ = samples(scan)
    y = y / np.sqrt(np.mean(np.abs(y) ** 2))
    i = int(np.abs(frequency - DESIGN_HZ).argmin())
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 4, sharex=True, sharey=True).ravel()
    for c, axes in enumerate(panels[: y.shape[1]]):
        axes.plot(angles, np.abs(y[:, c, i]), "k", lw=1.6, label="measured")
        for m, style in zip(METHODS, ("C3-", "C1:", "C0-", "C2--", "0.6"), strict=True):
            axes.plot(angles, np.abs(predicted[m][:, c, i]), style, lw=1, label=m)
        axes.set_title(f"aimed at {float(scan['target_angle_deg'][c]):g} degrees", fontsize=9)
        axes.set_ylim(0, 5)
    for axes in panels[y.shape[1] :]:
        axes.axis("off")
    panels[0].legend(fontsize=7)
    figure.supxlabel("receiver angle (degrees)")
    figure.supylabel("|transmission| over its root mean square")
    figure.suptitle(f"Transmitter at {float(scan['tx_angle_deg']):g} degrees: each configuration from the ten others")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path, help="of the first scan")
    given = parser.parse_args()
    for path in given.scans:
        with np.load(path) as scan:
            noise = samples(scan)[3]
            new_configuration, new_frequency, predicted = errors(scan)
            wrong, _, _ = errors(scan, shift=5)
            print(f"{path.name}: transmitter at {float(scan['tx_angle_deg']):g} degrees; NMSE of what was left out")
            print(f"  {'':30s} {'configuration':>24s} {'frequency':>10s} {'wrong states':>13s}")
            print(f"  {'':30s} {'mean (best to worst)':>24s} {'mean':>10s} {'mean':>13s}")
            for m in METHODS:
                v = new_configuration[m]
                spread = f"{v.mean():.2f} ({v.min():.2f} to {v.max():.2f})"
                print(f"  {m:30s} {spread:>24s} {new_frequency[m].mean():>10.3f} {wrong[m].mean():>13.2f}")
            if noise is not None:
                print(f"  {'noise and drift':30s} {noise:>24.3f}")
            if given.picture and path == given.scans[0]:
                picture(given.picture, scan, predicted)


if __name__ == "__main__":
    main()
