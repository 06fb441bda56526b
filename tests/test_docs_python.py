"""The code of docs/python.md runs, block after block, as on the page."""

import re
from pathlib import Path

from imaging.solvers import Outcome

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def test_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["outcome"] is Outcome.TOLERANCE
    assert names["r"].volume.data.shape[-3:] == (49, 25, 25)
    assert float(re.search(r"([0-9.]+) dB", capsys.readouterr().out)[1]) > 30
    assert names["half"].iteration == 10
