"""Your own denoiser: any function of a real volume and a noise level.

    backcast reconstruct scans/ -m pnp -d examples/your_own_denoiser.py:denoise -o volumes/

The method calls it with magnitudes of peak 1 and sigma, the standard deviation of the noise to remove; the phase
is kept and put back. A network, a wavelet shrinkage or a call into another library goes in the same place.
"""

import torch.nn.functional as F


def denoise(v, sigma):
    """Local Wiener filter, then sigma off: smooth where 3 x 3 x 3 voxels look like noise, leave edges and peaks.

    v: real (batch, nz, ny, nx); sigma: noise standard deviation in v's units. Source: Lee, IEEE PAMI 2:165 (1980).
    """

    def local_mean(u):
        return F.avg_pool3d(u[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]

    mean = local_mean(v)
    variance = local_mean((v - mean) ** 2)
    trust = (variance - sigma**2).clamp_min(0) / variance.clamp_min(1e-12)
    return (mean + trust * (v - mean) - sigma).clamp_min(0)
