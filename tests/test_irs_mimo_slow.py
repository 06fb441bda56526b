"""The default estimator on the experiments of the literature: the figures that the documentation promises."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = str(Path(__file__).resolve().parent.parent / "benchmarks")
sys.path.insert(0, FOLDER)
from kronecker_sbl import BLOCK_SNRS, SURFACE, SYNTHETIC, surface, synthetic  # noqa: E402

sys.path.remove(FOLDER)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("snr_db", "nmse", "ser"),
    list(zip(BLOCK_SNRS, (0.15, 0.07, 0.025, 0.0065, 0.003), (0.13, 0.03, 0.005, 0.0, 0.0), strict=True)),
)
def test_block_sparse_channels(snr_db, nmse, ser):
    """Mean over 50 trials, below every published method at each ratio; a rate of 0 means none in ten million."""
    trials = surface(range(50), snr_db=snr_db)
    found = trials.score(SURFACE["krosbl-mm"](trials)[0])
    assert float(found["nmse"].mean()) < nmse
    assert float(found["ser"].mean()) <= max(ser, 1e-7)
    unknown = trials.score(SURFACE["krosbl-mm, noise unknown"](trials)[0])
    assert float(unknown["nmse"].mean()) < nmse


@pytest.mark.parametrize("snr_db", [5.0, 10.0, 15.0, 20.0, 25.0, 30.0])
def test_the_synthetic_problem(snr_db):
    """Never a worse median than rank-one projections alone, and from 15 dB on no more failures."""
    trials = synthetic(range(100), snr_db=snr_db)
    ours, published = (trials.score(SYNTHETIC[name](trials)[0])["nmse"] for name in ("krosbl-mm", "krosbl-svd"))
    assert float(ours.median()) < 0.5 * float(published.median())
    if snr_db >= 15:
        assert int((ours > 0.1).sum()) <= int((published > 0.1).sum())
    # KS 7 check 14: the published estimator is the published one
    expected = np.interp(snr_db, [5, 10, 15, 20, 25, 30], [0.0137, 0.0042, 0.00133, 0.00041, 0.00014, 4.97e-5])
    assert float(published.median()) == pytest.approx(float(expected), rel=0.3)


def test_what_is_not_of_rank_one():
    """KS 7 check 21, and channels of two clusters."""
    trials = synthetic(range(60), snr_db=15.0, generic=True)
    found = {name: trials.score(SYNTHETIC[name](trials)[0])["nmse"] for name in ("krosbl-mm", "dsbl", "oracle")}
    assert float(found["krosbl-mm"].median()) <= 1.5 * float(found["oracle"].median())
    assert float(found["dsbl"].median()) > 0.5
    clusters = surface(range(20), snr_db=15.0, clusters=2, n_pilots=4, n_configs=10)
    found = {
        name: clusters.score(SURFACE[name](clusters)[0])["nmse"] for name in ("krosbl-mm", "krosbl-svd, wide start")
    }
    assert float(found["krosbl-mm"].mean()) < 0.02
    assert float(found["krosbl-mm"].mean()) < 0.3 * float(found["krosbl-svd, wide start"].mean())
    assert torch.isfinite(found["krosbl-mm"]).all()
