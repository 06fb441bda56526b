"""The estimators on the experiments of the literature: KS 7 checks 14 to 23, and the figures that the pages promise.

Means are ruled by a few failed trials. Where a published mean is missed, the test says by how much: it fails when the
figure changes.
"""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = str(Path(__file__).resolve().parent.parent / "benchmarks")
sys.path.insert(0, FOLDER)
import kronecker_speed  # noqa: E402
from kronecker_sbl import BLOCK_SNRS, SNRS, SURFACE, SYNTHETIC, surface, synthetic  # noqa: E402

sys.path.remove(FOLDER)

from imaging.operators import Kronecker  # noqa: E402
from imaging.sbl import am_krosbl, estimate, gamma_change_below, polish, settled, svd_mm_krosbl  # noqa: E402

pytestmark = pytest.mark.slow

BATCH = 50
#: Symbols that the published error rates were counted over: 50 trials, 6 patterns, 1e5 each (KS 2.3).
SYMBOLS = 50 * 6 * 100_000


def scores(problem, method, n):
    """Figures of n trials of a method, and σ̂²/σ² where it was estimated."""
    found = {}
    for first in range(0, n, BATCH):
        trials = problem(range(first, min(first + BATCH, n)))
        x, _, noise = (SURFACE if trials.lift else SYNTHETIC)[method](trials)
        figures = trials.score(x) | ({} if noise is None else {"noise": noise})
        for key, values in figures.items():
            found.setdefault(key, []).append(values.numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


@functools.cache
def against_noise(method, snr_db, n=200):
    return scores(functools.partial(synthetic, snr_db=snr_db), method, n)


@functools.cache
def blocks(method, snr_db, n=50):
    return scores(functools.partial(surface, snr_db=snr_db), method, n)


def unsquared(method, snr_db):
    return float(np.sqrt(against_noise(method, snr_db)["nmse"]).mean())


MISSED_AT_20_DB = "half as much again: 4 % of the trials that fail are the mean"


@pytest.mark.parametrize(("snr_db", "median"), [(5, 1.37e-2), (10, 4.2e-3), (15, 1.33e-3), (20, 4.1e-4), (25, 1.4e-4)])
def test_check_14_medians(snr_db, median):
    assert float(np.median(against_noise("krosbl-svd", float(snr_db))["nmse"])) == pytest.approx(median, rel=0.3)


@pytest.mark.parametrize(
    ("method", "snr_db", "mean", "slack"),
    [
        ("krosbl-svd", 5, 0.14, 0.35),
        ("krosbl-svd", 10, 0.083, 0.35),
        ("krosbl-svd", 15, 0.051, 0.35),
        pytest.param("krosbl-svd", 20, 0.033, 0.35, marks=pytest.mark.xfail(strict=True, reason=MISSED_AT_20_DB)),
        ("krosbl-am", 5, 0.35, 0.25),
        ("krosbl-am", 10, 0.23, 0.25),
        pytest.param("krosbl-am", 15, 0.10, 0.25, marks=pytest.mark.xfail(strict=True, reason="31 % above")),
        pytest.param("krosbl-am", 20, 0.063, 0.25, marks=pytest.mark.xfail(strict=True, reason=MISSED_AT_20_DB)),
    ],
)
def test_check_14_means(method, snr_db, mean, slack):
    assert unsquared(method, float(snr_db)) == pytest.approx(mean, rel=slack)


@pytest.mark.parametrize(
    ("method", "rate", "slack"),
    [
        pytest.param("krosbl-svd", 0.89, 0.03, marks=pytest.mark.xfail(strict=True, reason="0.859, 0.001 too low")),
        ("krosbl-am", 0.73, 0.05),
    ],
)
def test_check_15_support_recovery(method, rate, slack):
    assert float(against_noise(method, 20.0)["srr"].mean()) == pytest.approx(rate, abs=slack)


@pytest.mark.parametrize(
    "snr_db",
    [*SNRS[:-1], pytest.param(30.0, marks=pytest.mark.xfail(strict=True, reason="0.88: fewer failed trials of ksbl"))],
)
def test_check_16_one_sweep_is_as_good_as_many(snr_db):
    assert 0.9 <= unsquared("ksbl", snr_db) / unsquared("krosbl-am", snr_db) <= 1.1


@pytest.mark.parametrize("snr_db", [5.0, 15.0, 25.0])
def test_check_17_unknown_noise(snr_db):
    found = against_noise("krosbl-svd, noise unknown", snr_db)
    low, middle, high = np.quantile(found["noise"], (0.1, 0.5, 0.9))
    assert 0.97 <= middle <= 1.03
    assert low >= 0.90
    assert high <= 1.10
    if snr_db == 25.0:
        assert 1.3e-4 <= float(np.median(found["nmse"])) <= 2.2e-4


@pytest.mark.parametrize(
    ("method", "snr_db", "median"),
    [
        ("krosbl-svd", 12, 0.0124),
        ("krosbl-svd", 16, 0.0036),
        ("krosbl-svd", 20, 0.0014),
        pytest.param(
            "krosbl-am",
            12,
            0.0164,
            marks=pytest.mark.xfail(strict=True, reason="0.030: errors have two humps, and the median is between them"),
        ),
        ("krosbl-am", 16, 0.0045),
        ("krosbl-am", 20, 0.0013),
        ("pckrosbl 0.8", 12, 0.0206),
        ("pckrosbl 0.8", 16, 0.0066),
        ("pckrosbl 0.8", 20, 0.0022),
    ],
)
def test_check_18_medians_of_channels(method, snr_db, median):
    n = 100 if method.startswith("pc") else 200
    assert float(np.median(blocks(method, float(snr_db), n)["nmse"])) == pytest.approx(median, rel=0.4)


@pytest.mark.parametrize("snr_db", [12.0, 16.0, 20.0])
def test_check_18_coupling_halves_the_mean(snr_db):
    svd, coupled = blocks("krosbl-svd", snr_db, 200), blocks("pckrosbl 0.8", snr_db, 100)
    assert float(coupled["nmse"].mean()) < 0.5 * float(svd["nmse"].mean())


@pytest.mark.parametrize(
    ("snr_db", "nmse", "ser"),
    list(zip(BLOCK_SNRS, (0.15, 0.07, 0.025, 0.0065, 0.003), (0.13, 0.03, 0.005, 0.0, 0.0), strict=True)),
)
def test_check_19_the_default_on_block_sparse_channels(snr_db, nmse, ser):
    """Below every published method at each ratio; a rate of 0 means none of the symbols that were counted."""
    found, unknown = blocks("krosbl-mm", snr_db), blocks("krosbl-mm, noise unknown", snr_db)
    for figures in (found, unknown):
        assert float(figures["nmse"].mean()) < nmse
        assert float(figures["ser"].mean()) <= max(ser, 0.5 / SYMBOLS)
    plain, coupled = blocks("krosbl-mm, plain", snr_db), blocks("pckrosbl 0.8", snr_db)
    assert float(found["nmse"].mean()) < float(plain["nmse"].mean()) < float(coupled["nmse"].mean())


@pytest.mark.parametrize("snr_db", BLOCK_SNRS)
def test_unknown_noise_costs_a_tenth_at_most(snr_db):
    """Of 400 trials: medians of 50 move by more."""
    known, unknown = (blocks(m, snr_db, 400)["nmse"] for m in ("krosbl-mm", "krosbl-mm, noise unknown"))
    assert float(np.median(unknown)) <= 1.1 * float(np.median(known))


PUBLISHED_DSBL = (0.018, 0.0032, 7.3e-4, 2.0e-4, 6.0e-5, 1.6e-5)


@pytest.mark.parametrize(("snr_db", "nmse"), list(zip(SNRS, PUBLISHED_DSBL, strict=True)))
def test_check_20_decomposed(snr_db, nmse):
    """Published means are of one draw of pilots and patterns; ours of a new one in each trial, some of them bad.

    The median is within a factor of 2; the mean is 1.9 to 2.9 times the published one, and within 3 times that of least
    squares with the true support and rank, which no estimator can be sure to beat.
    """
    problem = functools.partial(surface, snr_db=snr_db, order=8, n_pilots=4, n_configs=10)
    found, best = (scores(problem, m, 50)["nmse"] for m in ("dsbl", "oracle, rank one"))
    assert float(np.median(found)) < 2 * nmse
    assert float(found.mean()) < 3 * min(nmse, float(best.mean()))


def test_check_21_what_is_not_of_rank_one():
    """And channels of two clusters."""
    trials = synthetic(range(60), snr_db=15.0, generic=True)
    names = ("krosbl-mm", "krosbl-mm, plain", "dsbl", "oracle")
    found = {name: trials.score(SYNTHETIC[name](trials)[0])["nmse"] for name in names}
    assert float(found["krosbl-mm, plain"].mean()) <= 1.5 * float(found["oracle"].mean())
    assert float(found["krosbl-mm"].median()) <= 1.5 * float(found["oracle"].median())
    assert float(found["dsbl"].median()) > 0.5
    clusters = surface(range(20), snr_db=15.0, clusters=2, n_pilots=4, n_configs=10)
    names = ("krosbl-mm", "krosbl-svd, wide start")
    found = {name: clusters.score(SURFACE[name](clusters)[0])["nmse"] for name in names}
    assert float(found["krosbl-mm"].mean()) < 0.02
    assert float(found["krosbl-mm"].mean()) < 0.3 * float(found["krosbl-svd, wide start"].mean())


def test_check_22_speed():
    """Processor time of one thread."""
    torch.set_num_threads(1)
    name, fast, whole, diagonal = kronecker_speed.e_steps()[0]
    assert name.startswith("15 x 15 x 15")
    assert fast < 1
    assert diagonal > 500 * fast
    assert whole > 500 * fast
    trials = surface(range(1), snr_db=12.0)
    A = Kronecker([a[0] if a.ndim == 3 else a for a in trials.A.factors])
    options = {"noise_var": float(trials.noise_var[0]), "prune": (1e-2, 1e-1, 1e-3)}
    run = functools.partial(
        estimate, A, trials.y, am_krosbl, stop=gamma_change_below(1e-4), max_iter=150, start_var=1.0, **options
    )
    assert kronecker_speed.least(run, 3) < 500
    assert kronecker_speed.peak(run) < 5


@pytest.mark.parametrize("snr_db", [5.0, 15.0, 25.0])
def test_check_23_single_precision(snr_db):
    """Data and factors in single precision; the small matrices are double all the same."""
    trials = synthetic(range(100), snr_db=snr_db)
    single = Kronecker([a.float() for a in trials.A.factors])
    medians = []
    for A, y in ((trials.A, trials.y), (single, trials.y.float())):
        state, _, _ = estimate(A, y, svd_mm_krosbl, stop=settled(), noise_var=trials.noise_var)
        medians.append(float(trials.score(polish(A, y, state)[0].x.double())["nmse"].median()))
    assert medians[1] == pytest.approx(medians[0], rel=0.05)


@pytest.mark.parametrize("snr_db", SNRS)
def test_the_default_on_the_synthetic_problem(snr_db):
    """Never a worse median than rank-one projections alone, and from 15 dB on no more failures."""
    ours, projected = (against_noise(m, snr_db)["nmse"] for m in ("krosbl-mm", "krosbl-svd"))
    assert float(np.median(ours)) < 0.5 * float(np.median(projected))
    if snr_db >= 15:
        assert int((ours > 0.1).sum()) <= int((projected > 0.1).sum())
