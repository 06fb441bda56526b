"""Pictures: projections the right way round, on axes in metres."""

from __future__ import annotations

import matplotlib.image
import numpy as np

from data.measurement import Scale, Volume
from pipelines import figures


def volume(place: tuple[int, int, int], shape: tuple[int, int, int] = (6, 8, 10)) -> Volume:
    data = np.zeros(shape, np.complex64)
    data[place] = 1j
    scales = {
        name: Scale(values=start + 0.01 * np.arange(n), units="m")
        for name, start, n in zip(("z", "y", "x"), (0.4, -0.04, -0.05), shape, strict=True)
    }
    return Volume(data=data, axes=("z", "y", "x"), scales=scales)


def test_a_point_appears_where_it_is(tmp_path, monkeypatch):
    drawn = []
    from matplotlib.axes import Axes

    original = Axes.imshow

    def spy(self, picture, **keywords):
        drawn.append((np.asarray(picture), keywords))
        return original(self, picture, **keywords)

    monkeypatch.setattr(Axes, "imshow", spy)
    figures.projections_png(tmp_path / "p.png", {"one": volume((1, 6, 2))}, title="t", captions={"one": "c"})
    front, top, side = drawn
    # rows are the vertical axis, upwards; columns the horizontal one
    assert np.unravel_index(front[0].argmax(), front[0].shape) == (6, 2)  # y, x
    assert np.unravel_index(top[0].argmax(), top[0].shape) == (1, 2)  # z, x
    assert np.unravel_index(side[0].argmax(), side[0].shape) == (6, 1)  # y, z
    assert all(k["origin"] == "lower" for _, k in drawn)
    assert np.allclose(front[1]["extent"], (-0.055, 0.045, -0.045, 0.035))
    assert np.allclose(side[1]["extent"], (0.395, 0.455, -0.045, 0.035))
    assert len({(k["vmin"], k["vmax"]) for _, k in drawn}) == 1
    assert matplotlib.image.imread(tmp_path / "p.png").ndim == 3


def test_an_empty_volume_can_be_drawn(tmp_path):
    nothing = volume((0, 0, 0))
    nothing.data[...] = 0
    figures.projections_png(tmp_path / "p.png", {"a": nothing, "b": volume((0, 0, 0))})
    assert (tmp_path / "p.png").stat().st_size > 1000
