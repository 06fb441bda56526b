"""Read results and measure something in them: how well the insert of the foam scan stands out, depth by depth.

    python examples/foam_insert.py volumes/foam_recon.h5 [more results of the same scan ...]

Per voxel layer two figures, neither of which changes when the image is multiplied by a number:

contrast   depth of the insert's dark rim, mean of its four sides, over the standard deviation of the fine texture
           of the plain foam beside it and of the insert inside. How well edges stand out: it compares methods at
           one depth. It does not find the focus, for a blurred rim on a blurred background stands out as well.
sharpness  rms of second differences over rms of first differences in the window around the insert: the mean
           spatial frequency, in rad/voxel. It finds the focus of a linear method, where the rim is thinnest; it
           says nothing across methods, for noise is sharp too.

A reconstruction file needs h5py only. Array indices below are those of `puf_foam_scan.py`: rows y, columns x, 3 mm.
"""

import sys

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter

WINDOW = np.s_[53:96, 49:92]  # the insert, rows 61 to 87, columns 57 to 83, and what lies around it
FOAM, INSIDE = np.s_[45:100, 92:104], np.s_[66:83, 63:78]  # plain foam; the insert without its rim


def sides(layer):
    """Profiles across the four sides of the rim, averaged along them, from outside to inside."""
    return (
        layer[53:69, 62:79].mean(axis=1),
        layer[79:95, 62:79].mean(axis=1)[::-1],
        layer[66:83, 49:65].mean(axis=0),
        layer[66:83, 75:91].mean(axis=0)[::-1],
    )


def depth(profile):
    """How far the darkest point near the middle lies below the lower one of its two shoulders."""
    j = 4 + int(np.argmin(profile[4:12]))
    return min(profile[: j + 1].max(), profile[j:].max()) - profile[j]


def contrast(layer):
    """Depth of the rim over the texture's standard deviation; layer: magnitudes (ny, nx)."""
    texture = layer - gaussian_filter(layer, 3)
    spread = np.concatenate([texture[FOAM].ravel(), texture[INSIDE].ravel()]).std()
    return float(np.mean([depth(p) for p in sides(layer)]) / spread)


def sharpness(layer):
    """Rms second over rms first difference along both axes around the insert; layer: magnitudes (ny, nx)."""
    first, second = (sum((np.diff(layer[WINDOW], n, axis=a) ** 2).sum() for a in (0, 1)) for n in (1, 2))
    return float(np.sqrt(second / first))


def measure(path):
    """(z in metres, contrast, sharpness), arrays with one entry per voxel layer."""
    with h5py.File(path) as f:
        size = np.abs(f["volume/data"][()])
        z = f["volume/z"][()]
    layers = size.reshape(size.shape[-3:])  # one frame
    return z, np.array([contrast(a) for a in layers]), np.array([sharpness(a) for a in layers])


def main(*paths):
    for path in paths:
        z, edges, focus = measure(path)
        print(f"{path}\n  z (m)   contrast  sharpness")
        for row in zip(z, edges, focus, strict=True):
            print("  {:.3f}  {:8.2f}  {:8.3f}".format(*row))


if __name__ == "__main__":
    main(*sys.argv[1:])
