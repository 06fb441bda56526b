"""Figures of merit of estimated channels against the truth of their measurements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.measurement import Measurement, Volume
from data.reconstruction import Metric
from imaging import metrics

#: Share of the largest coefficient above which one counts as found (KS 2.3).
SUPPORT = 1e-3
#: Columns of the table, in this order.
SHOWN = ("nmse", "nmse_db", "support_recovery", "symbol_error_rate", "spectral_efficiency", "measurement_residual")
HEADS = ("NMSE", "NMSE dB", "SRR", "SER", "SE", "residual")


def channel_quality(volume: Volume, channel: Volume | None, m: Measurement, *, reference: str) -> dict[str, Metric]:
    """NMSE, support recovery rate, symbol error rate and spectral efficiency, as far as the file has a truth.

    Args:
        volume: estimated coefficients, (frame, subcarrier,) and the axes of the dictionary.
        channel: estimated channels (frame, subcarrier,) config, rx, tx; None where there are none.
        m: the measurement with its truth.
        reference: where the truth comes from, for the metrics' record.

    Returns:
        `nmse` and `nmse_db` of the channels, mean over the reflection patterns; of the coefficients where the file
        has no channel. `support_recovery` where coefficients are true. `symbol_error_rate`, `spectral_efficiency` and
        `spectral_efficiency_perfect` (of the true channel) where the noise is known. Numbers, or float64 (problem,)
        for several frames or subcarriers. Nothing for a truth of zeros.
    """
    truth = {name: torch.as_tensor(np.asarray(value.values)) for name, value in m.extra_truth.items()}
    n = m.n("frame") * m.n("subcarrier")
    found: dict[str, tuple[Any, str, str]] = {}
    true_channel = _rows(truth.get("channel"), n)
    true_x = _rows(truth.get("coefficients"), n)
    if true_channel is not None and channel is not None:
        estimate = torch.as_tensor(channel.data).reshape(true_channel.shape)
        nmse = metrics.complex_nmse(estimate, true_channel).mean(-1)
        found["nmse"] = nmse, "1", "mean over patterns of norm(H - estimate)^2 / norm(H)^2"
        found |= _links(estimate, true_channel, truth, m)
    elif true_x is not None and _size(volume, n) == true_x[0].numel():
        estimate = torch.as_tensor(volume.data).reshape(true_x.shape)
        found["nmse"] = metrics.complex_nmse(estimate, true_x, dims=3), "1", "norm(x - estimate)^2 / norm(x)^2"
    if "nmse" in found:
        decibels = 10 * torch.log10(found["nmse"][0])
        found["nmse_db"] = decibels, "dB", "10 log10(nmse)"
    if true_x is not None and _size(volume, n) == true_x[0].numel():
        estimate = torch.as_tensor(volume.data).reshape(true_x.shape)
        rate = metrics.support_overlap(estimate, true_x, threshold=SUPPORT)
        text = f"intersection over union of the coefficients above {SUPPORT:g} of the largest"
        found["support_recovery"] = rate, "1", text
    return {
        name: Metric(
            value=float(values[0]) if n == 1 else values.cpu().numpy().astype(np.float64),
            units=units,
            reference=reference,
            definition=definition,
        )
        for name, (values, units, definition) in found.items()
        if bool(torch.isfinite(values).all())
    }


def _links(
    estimate: Tensor, truth: Tensor, named: dict[str, Tensor], m: Measurement
) -> dict[str, tuple[Any, str, str]]:
    """What the channels are worth to a link, at the noise of the file."""
    variance = float(named["noise_variance"]) if "noise_variance" in named else m.acquisition.get("noise_variance")
    if variance is None:
        return {}
    power = float(m.acquisition.get("transmit_power", 1.0))
    whole = truth.to(torch.complex128)
    direct = _rows(named.get("direct_channel"), len(truth))
    if direct is not None:
        whole = whole + direct[:, None]
    pilots = torch.as_tensor(np.asarray(m.acquisition["pilots"])).to(torch.complex128)
    received = power * float((whole @ pilots).abs().square().mean())
    snr = received / variance if variance > 0 else math.inf
    found: dict[str, tuple[Any, str, str]] = {}
    if snr > 0:
        found["symbol_error_rate"] = (
            metrics.symbol_error_rate(estimate, truth, snr).mean(-1),
            "1",
            "QPSK over the strongest beam of the estimate at the received SNR of the pilots, mean over patterns",
        )
    if variance > 0:
        for name, beam in (("spectral_efficiency", estimate), ("spectral_efficiency_perfect", truth)):
            found[name] = (
                metrics.spectral_efficiency(beam, truth, power / variance).mean(-1),
                "1",
                "log2(1 + power/noise_variance |u^H H v|^2) in bit/s/Hz, u and v the strongest beam of the "
                + ("estimate" if beam is estimate else "true channel")
                + ", mean over patterns",
            )
    return found


def _rows(values: Tensor | None, n: int) -> Tensor | None:
    """Frames and subcarriers as one axis; None for zeros, of which no figures are made."""
    if values is None or not bool(values.abs().max() > 0):
        return None
    return values.reshape(n, *values.shape[2:])


def _size(volume: Volume, n: int) -> int:
    return int(volume.data.size) // n
