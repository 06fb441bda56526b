"""A process that runs commands of ``backcast`` one after the other, watched: memory, files, tracebacks.

Each line of standard input is a JSON list of arguments; each answer is a line of JSON. Address space is limited to what
the process has once everything is imported, and LIMIT_BYTES more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

#: What any command may allocate for a file of a few kilobytes.
LIMIT_BYTES = 512 * 2**20


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    import typer

    from pipelines.cli import app, guarded

    command = typer.main.get_command(app)  # made once: it takes as long as most commands
    touched: list[str] = []

    def run(arguments: list[str]) -> dict[str, object]:
        out, err = io.StringIO(), io.StringIO()
        touched.clear()
        before = clear_peak()
        began = time.process_time()
        status: object = None
        crash = ""
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = guarded(lambda: command.main(args=arguments, standalone_mode=False))
            except SystemExit as e:
                status = e.code
            except BaseException:
                crash = traceback.format_exc()
        return {
            "status": status,
            "out": out.getvalue(),
            "err": err.getvalue(),
            "crash": crash,
            "seconds": time.process_time() - began,
            "bytes": peak() - before,
            "touched": list(touched),
        }

    for line in sys.argv[2:]:  # everything is imported before the limits begin
        run(json.loads(line))
    watch(root, touched)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


def clear_peak() -> int:
    """Forget the highest resident size; the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def peak() -> int:
    """The highest resident size since."""
    return _status("VmHWM:")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def watch(root: Path, touched: list[str]) -> None:
    """Note what Python writes outside of the folder out/ below the root, and what it reads from the folder outside/."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    changes = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changed = isinstance(flags, int) and bool(flags & writing)
        elif event in changes:
            path, changed = arguments[0], True
        elif event in ("os.listdir", "os.scandir"):
            path, changed = arguments[0], False
        elif event in ("subprocess.Popen", "os.system", "os.exec", "pickle.find_class"):
            touched.append(f"{event} {arguments[0]!r}")
            return
        else:
            return
        if isinstance(path, int) or not path:
            return
        place = Path(os.path.realpath(os.fsdecode(path)))  # type: ignore[arg-type]
        inside_out = place.is_relative_to(root / "out")
        harmless = str(place) in ("/dev/null", "/proc/self/clear_refs") or str(place).startswith("/proc/")
        if (changed and not inside_out and not harmless) or place.is_relative_to(root / "outside"):
            touched.append(f"{event} {place}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
