"""What a terminal shows while a batch runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.batch import Entry
from pipelines.progress import Live, _clock


def shown(live):
    out = io.StringIO()
    Console(file=out, width=100).print(live.table())
    return out.getvalue().splitlines()


def entry(status="done"):
    return Entry(source=Path("a.h5"), result=Path("o/a_recon.h5"), status=status, seconds=4.0, reason="no samples")


def test_the_table_tells_of_every_file_at_work_the_throughput_and_the_time_left():
    now = 100.0
    out = io.StringIO()
    live = Live(clock=lambda: now, console=Console(file=out, force_terminal=True, width=100))
    with live.over(["scans/a.h5", "scans/b.h5", "scans/c.h5", "scans/d.h5"], total=4):
        live.iteration(0, {})
        live.iteration(1, {})
        now = 110.0
        live.iteration(1, {"iteration": 5, "max_iter": 20, "relative_change": 3.2e-3})
        live.finished(0, entry())
        live.iteration(2, {})
        head, one, two, foot = shown(live)
        assert head.split() == ["file", "iteration", "change", "time", "left"]
        assert one.split() == ["scans/b.h5", "5/20", "3.2e-03", "0:10", "0:30"]
        assert two.split() == ["scans/c.h5", "0:00"]
        # 1.25 of 4 files in 10 s
        assert foot.split() == ["1", "of", "4", "6/min", "0:10", "0:22"]
        live.finished(1, entry("failed"))
        assert "2 of 4, 1 failed" in shown(live)[-1]
        live.again(2, "c.h5: its worker died")
        assert len(shown(live)) == 2
    said = out.getvalue()
    assert "a.h5: done in 4.0 s" in said
    assert "failed: no samples" in said
    assert "will be tried again: c.h5: its worker died" in said


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "0:07"), (750, "12:30"), (11100, "3:05:00"), (float("nan"), "")])
def test_times(seconds, words):
    assert _clock(seconds) == words
