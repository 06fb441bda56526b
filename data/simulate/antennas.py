"""Where antennas are, and which pairs of them measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.phantoms.errors import SimulationError

Positions = NDArray[np.float64]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class AntennaArray:
    """Antennas, and which pairs measure.

    Args:
        tx_m, rx_m: float64 (n_tx, 3) and (n_rx, 3), columns x, y, z, metres.
        channel_tx, channel_rx: int32 (n_channel,), the antennas of each channel of an incomplete array;
            None for both when every transmitter is heard by every receiver.

    Raises:
        SimulationError: positions that are not finite (n, 3), or channels of antennas that are not there.
    """

    tx_m: Positions
    rx_m: Positions
    channel_tx: Indices | None = None
    channel_rx: Indices | None = None

    def __post_init__(self) -> None:
        for name in ("tx_m", "rx_m"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape[1:] != (3,) or len(values) == 0:
                raise SimulationError(f"array {name}: expected (n, 3) x, y, z with n >= 1, got {values.shape}")
            if not np.isfinite(values).all():
                raise SimulationError(f"array {name}: expected finite positions, found NaN or Inf")
            object.__setattr__(self, name, values)
        if (self.channel_tx is None) != (self.channel_rx is None):
            raise SimulationError("array channel_tx, channel_rx: expected both or neither, got one")
        if self.channel_tx is None or self.channel_rx is None:
            return
        for name, n in (("channel_tx", len(self.tx_m)), ("channel_rx", len(self.rx_m))):
            index = np.asarray(getattr(self, name))
            if index.ndim != 1 or len(index) == 0 or index.min() < 0 or index.max() >= n:
                raise SimulationError(f"array {name}: expected antenna numbers 0 to {n - 1}, got {index}")
            object.__setattr__(self, name, index.astype(np.int32))
        if len(self.channel_tx) != len(self.channel_rx):
            raise SimulationError(
                f"array channel_tx, channel_rx: expected equal lengths, got {len(self.channel_tx)} "
                f"and {len(self.channel_rx)}"
            )

    @property
    def n_channels(self) -> int:
        """Measured pairs."""
        return len(self.tx_m) * len(self.rx_m) if self.channel_tx is None else len(self.channel_tx)
