"""Denoisers from everywhere: callables, files, exported networks; each mistake is one sentence."""

from __future__ import annotations

import warnings

import pytest
import torch
from batch_cases import cli, scans

from data import read_reconstruction
from denoisers import DenoiserError, load_denoiser
from pipelines.methods import Setting
from pipelines.reconstruct import reconstruct

CODE = """
import torch

__version__ = "3"

def soft(v, sigma):
    return (v - sigma).clamp_min(0)

class Net(torch.nn.Module):
    def forward(self, v: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (v - sigma).clamp_min(0)

class Needy:
    def __init__(self, weights):
        pass

def one_argument(v):
    return v

def flat(v, sigma):
    return v.flatten()

def wrong_type(v, sigma):
    return v.numpy()

def wrong_dtype(v, sigma):
    return v.double()

def not_finite(v, sigma):
    return v / 0

number = 3
"""


class Net(torch.nn.Module):
    """Subtract sigma."""

    def forward(self, v: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (v - sigma).clamp_min(0)


class NumberNet(torch.nn.Module):
    """The same with sigma as a number."""

    def forward(self, v: torch.Tensor, sigma: float) -> torch.Tensor:
        return (v - sigma).clamp_min(0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def export(path):
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    dims[3] = torch.export.Dim.DYNAMIC
    program = torch.export.export(Net(), (torch.rand(2, 5, 6, 7), torch.tensor(0.1)), dynamic_shapes=(dims, {}))
    torch.export.save(program, path)


def script(path, network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))


@pytest.fixture(params=["code.py:soft", "code.py:Net", "net.pt", "number.pt", "net.pt2"])
def spec(request, folder):
    if request.param == "net.pt":
        script(folder / "net.pt", Net())
    elif request.param == "number.pt":
        script(folder / "number.pt", NumberNet())
    elif request.param == "net.pt2":
        export(folder / "net.pt2")
    return str(folder / request.param)


def test_every_kind_denoises_alike(spec):
    denoiser = load_denoiser(spec)
    v = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(denoiser(v, 0.2), (v - 0.2).clamp_min(0))
    assert len(denoiser.sha256) == 64
    assert "/" not in denoiser.name


def test_a_modules_callable(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "my_denoisers.py").write_text(CODE)
    denoiser = load_denoiser("my_denoisers:soft")
    assert denoiser.name == "my_denoisers:soft"
    assert denoiser.version == "3"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere:f", "no module nowhere"),
        ("none.py:f", "expected a file none.py, found none"),
        ("code.py:sofd", "the module has no sofd; callables there: soft"),
        ("code.py:number", "expected a callable"),
        ("code.py:one_argument", "taking (v, sigma)"),
        ("code.py:Needy", "the class needs arguments"),
        ("broken.py:f", "running broken.py failed: ZeroDivisionError"),
        ("net.onnx", "expected module:attribute, path.py:attribute, a .safetensors, .pt or .pt2 file, or one of"),
        ("none.pt", "expected a file, found none"),
        ("text.pt", "expected a TorchScript file, found something else"),
        ("weights.pt", "found weights alone"),
        ("text.pt2", "expected a torch.export file"),
    ],
)
def test_mistakes_are_sentences(folder, monkeypatch, spec, words):
    monkeypatch.chdir(folder)
    (folder / "broken.py").write_text("1 / 0")
    (folder / "text.pt").write_text("hello")
    (folder / "text.pt2").write_text("hello")
    torch.save({"w": torch.zeros(2)}, folder / "weights.pt")
    with pytest.raises(DenoiserError) as caught:
        load_denoiser(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flat", "expected (1, 4, 4, 4) torch.float32 back, got (64,)"),
        ("wrong_type", "expected a tensor back, got ndarray"),
        ("wrong_dtype", "got (1, 4, 4, 4) torch.float64"),
        ("not_finite", "expected finite numbers back"),
    ],
)
def test_what_comes_back_is_checked(folder, name, words):
    denoiser = load_denoiser(f"{folder / 'code.py'}:{name}")
    with pytest.raises(DenoiserError) as caught:
        denoiser(torch.zeros(1, 4, 4, 4), 0.1)
    assert words in str(caught.value)


def test_pnp_by_the_command_names_its_denoiser(tmp_path, folder):
    (one,) = scans(tmp_path / "scans")
    spec = f"{folder / 'code.py'}:soft"
    args = ("-m", "pnp", "-d", spec, "-s", "max_iter=3", "-s", "tol=0")
    done = cli("reconstruct", one, "-o", tmp_path / "out", *args)
    assert done.status == 0, done.err
    result = read_reconstruction(tmp_path / "out/mimo_radar_0000_recon.h5")
    assert result.provenance["denoiser"] == "code.py:soft"
    assert len(str(result.provenance["denoiser_sha256"])) == 64
    assert str(tmp_path) not in str(result.provenance["config"])
    assert "already done" in cli("reconstruct", one, "-o", tmp_path / "out", *args).err
    (folder / "code.py").write_text(CODE + "\n# another one\n")
    assert "made from another configuration" in cli("reconstruct", one, "-o", tmp_path / "out", *args).err


def test_a_denoiser_that_fails_is_that_files_failure(tmp_path, folder):
    (one,) = scans(tmp_path / "scans")
    done = cli("reconstruct", one, "-o", tmp_path / "out", "-m", "pnp", "-d", f"{folder / 'code.py'}:flat")
    assert done.status == 1
    assert "denoiser code.py:flat: expected" in done.err
    assert "unexpected" not in done.err


def test_pnp_with_soft_thresholding_is_l1(tmp_path):
    """A denoiser v - sigma with sigma = sqrt(alpha) is the prox of l1 with step sqrt(alpha); both follow the peak."""
    from data import read_measurement

    (one,) = scans(tmp_path)
    m = read_measurement(one)
    from pipelines.config import resolve
    from pipelines.radar_config import L1Config, PnpConfig

    few = ["max_iter=4", "tol=0", "precision=double"]
    plain = ["alpha_final=none", "patience=none", "output=consistent", "denoiser.scale=peak"]
    pnp = resolve(PnpConfig, [], [*few, *plain, "alpha=1e-4"])
    l1 = resolve(L1Config, [], [*few, "alpha=1e-2"])
    setting = Setting(device=torch.device("cpu"), denoiser=lambda v, sigma: (v - sigma).clamp_min(0))
    a = reconstruct(m, "pnp", pnp, setting=setting).volume.data
    b = reconstruct(m, "l1", l1).volume.data
    assert abs(a - b).max() <= 1e-6 * abs(b).max()
