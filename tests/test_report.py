"""The page on a folder of results: valid, alone, small, and looked at by a browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import h5py
import html5lib
import numpy as np
import pytest
from batch_cases import cli, scans, truncate
from PIL import Image

from pipelines.report import _curve, collect, seconds
from pipelines.simulate import simulate_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three modalities, and a failure with a name that is HTML."""
    root = tmp_path_factory.mktemp("report")
    files = scans(root / "radar", 3)
    truncate(files[1].rename(files[1].with_name("<b>&cut.h5")))
    simulate = (("tomography", ("n=32", "n_instants=16")), ("irs_mimo", ()))
    for modality, small in simulate:
        list(simulate_files(modality, root / modality, assignments=small))
    out = root / "out"
    few = ("-s", "max_iter=4")
    assert cli("reconstruct", root / "radar", "-o", out / "l1", "-m", "l1", *few).status == 3
    assert cli("reconstruct", root / "tomography", "-o", out / "psm", "-m", "psm", *few).status == 0
    assert cli("reconstruct", root / "irs_mimo", "-o", out / "omp", "-m", "omp").status == 0
    done = cli("report", out / "l1")
    assert done.status == 0, done.err
    assert done.out.split() == [str(out / "l1/report.html"), str(out / "l1/report.csv")]
    return out


class Links(HTMLParser):
    """What a page asks for."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")


def valid(page: Path) -> str:
    text = page.read_text()
    html5lib.HTMLParser(strict=True).parse(text)  # raises on any error of syntax or nesting
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = Links()
    links.feed(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links.found)
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(ids)
    assert not re.search(r"url\(|@import|https?:|//", re.sub(r"data:image/png;base64,[^\"]+", "", text))
    return text


def test_the_page_is_valid_needs_nothing_and_says_what_became_of_each(folder):
    text = valid(folder / "l1/report.html")
    assert "<b>&cut" not in text
    assert "radar/&lt;b&gt;&amp;cut.h5" in text
    assert "found a truncated one" in text
    assert text.count("<article") == 2
    assert text.count("<img") == 6
    assert text.count("<polyline") == 6
    assert "<p><code>backcast reconstruct " in text
    assert "&#34;max_iter&#34;: 4" in text


def test_the_table_has_every_measurement_and_metric(folder):
    rows = list(csv.DictReader((folder / "l1/report.csv").read_text().splitlines()))
    assert {Path(r["result"]).name: r["status"] for r in rows if r["status"] != "failed"} == {
        "mimo_radar_0000_recon.h5": "done",
        "mimo_radar_0002_recon.h5": "done",
    }
    good = next(r for r in rows if r["status"] == "done")
    with h5py.File(folder / "l1" / good["result"]) as f:
        assert float(good["psnr"]) == f["metrics/psnr"][()]
        assert float(good["seconds"]) > 0
        assert float(good["peak_memory_bytes"]) == f["provenance/peak_memory"][()]


def test_all_modalities_and_folders_in_one_page(folder, tmp_path):
    page = tmp_path / "all.html"
    assert cli("report", folder, "-o", page).status == 0
    text = valid(page)
    assert {"mimo_radar", "tomography", "irs_mimo"} <= set(re.findall(r"<td>(\w+)</td>", text))
    assert "along grid 1" in text
    shown, _ = collect(folder)
    slices = next(one for one in shown if one.modality == "tomography")
    assert [words for *_, words in slices.pictures] == ["along z"]  # a slice has no other side
    assert (tmp_path / "all.csv").exists()
    assert not list(folder.glob("report*"))


def test_report_with_the_run(tmp_path):
    scans(tmp_path / "scans")
    done = cli("reconstruct", tmp_path / "scans", "-o", tmp_path / "out", "-m", "kirchhoff", "--report")
    assert done.status == 0
    assert f"report in {tmp_path / 'out/report.html'}" in done.err
    assert done.out.split() == [str(tmp_path / "out/mimo_radar_0000_recon.h5")]
    assert "<polyline" not in valid(tmp_path / "out/report.html")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda p: None, "expected a folder with results"),
        (lambda p: p.mkdir(), "expected reconstruction files or a summary.json"),
        (lambda p: [p.mkdir(), (p / "summary.json").write_text("{}")], "expected a summary of reconstruct"),
    ],
)
def test_nothing_to_report(tmp_path, prepare, words):
    prepare(tmp_path / "out")
    done = cli("report", tmp_path / "out")
    assert done.status == 2
    assert words in done.err


def test_damaged_results_are_named(folder, tmp_path):
    shutil.copytree(folder / "l1", tmp_path / "out")
    (tmp_path / "out/summary.json").unlink()
    with h5py.File(tmp_path / "out/mimo_radar_0000_recon.h5", "r+") as f:
        del f["convergence/iteration"]
        f.attrs["status"] = "stopped"
    assert cli("report", tmp_path / "out").status == 0
    text = valid(tmp_path / "out/report.html")
    assert "mimo_radar_0000_recon.h5: stopped" in text


def test_curves():
    flat = _curve(np.full(5, 0.03162), "r", log=True)
    assert flat is not None
    assert set(re.findall(r",(\S+)", flat.points)) == {"20.0"}
    fall = _curve(np.array([1.0, np.nan, 1e-4]), "r", log=True)
    assert fall is not None
    assert fall.points == "0.0,0.0 100.0,40.0"
    assert _curve(np.array([1.0, np.inf]), "r", log=False) is None
    assert [seconds(v) for v in (0.421, 42.4, 185.0, 7800.0)] == ["0.42 s", "42 s", "3 min 5 s", "2 h 10 min"]


@pytest.fixture
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def screenshot(chromium, page, picture, *more):
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1600")
    run = [chromium, *fixed, *more, f"--screenshot={picture}", page.as_uri()]
    clock = time.monotonic()
    subprocess.run(run, check=True, capture_output=True, timeout=60)
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int), time.monotonic() - clock


def test_a_browser_shows_it_light_and_dark(folder, tmp_path, chromium):
    light, _ = screenshot(chromium, folder / "l1/report.html", tmp_path / "light.png")
    dark, _ = screenshot(
        chromium, folder / "l1/report.html", tmp_path / "dark.png", "--blink-settings=preferredColorScheme=0"
    )
    assert np.median(light) > 240
    assert np.median(dark) < 40
    for picture in (light, dark):
        middle = int(np.median(picture))
        assert (abs(picture - middle).max(axis=-1) > 60).mean() > 0.02  # there is something on it
    colours = light.reshape(-1, 3)
    assert (colours.max(axis=1) - colours.min(axis=1) > 100).sum() > 500  # projections in colour


@pytest.mark.slow
def test_hundred_results_stay_small_and_open_quickly(tmp_path, chromium):
    (one,) = scans(tmp_path / "scans")
    out = tmp_path / "out"
    assert cli("reconstruct", one, "-o", out, "-m", "l1", "-s", "max_iter=100", "-s", "tol=0").status == 0
    (result,) = out.glob("*.h5")
    with h5py.File(result, "r+") as f:  # the worst that can be: pictures of noise, larger than they are shown
        for name in ("mip_z", "mip_y", "mip_x"):
            del f["preview"][name]
            f["preview"][name] = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    for i in range(99):
        shutil.copy(result, out / f"copy_{i:02d}_recon.h5")
    (out / "summary.json").unlink()
    assert cli("report", out).status == 0
    page = out / "report.html"
    assert valid(page).count("<article") == 100
    size = page.stat().st_size
    print(json.dumps({"MB": size / 1e6}))
    assert size < 10e6
    empty = tmp_path / "empty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    start = screenshot(chromium, empty, tmp_path / "empty.png")[1]
    opened = screenshot(chromium, page, tmp_path / "full.png")[1]
    print(json.dumps({"browser_s": start, "page_s": opened}))
    assert opened - start < 2
