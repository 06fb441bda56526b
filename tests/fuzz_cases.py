"""Files that no program should write: seeded mutations of good HDF5 and TOML files."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from data_cases import MEASUREMENTS, reconstruction
from foreign_cases import CASES

from data import write_measurement, write_reconstruction
from pipelines.describe import config_template
from pipelines.methods import METHODS

Generator = np.random.Generator
#: Of the library that fails on a file it cannot change: the mutant is what came out until then.
FAILURES = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError)


def seeds(folder: Path) -> tuple[list[Path], list[Path]]:
    """Good HDF5 files of every kind, and good TOML files; foreign files keep what belongs to them."""
    folder.mkdir()
    for name, make in MEASUREMENTS.items():
        write_measurement(folder / f"{name}.h5", make())
    write_reconstruction(folder / "still.h5", reconstruction())
    write_reconstruction(folder / "movie.h5", reconstruction(3))
    for name in ("fastmri", "nxtomo", "data_exchange", "ismrmrd", "matlab7.3"):
        with contextlib.suppress(ImportError):
            CASES[name].write(folder)
    hdf5 = sorted(p for p in folder.iterdir() if p.suffix != ".toml" and h5py.is_hdf5(p))
    tomls = folder / "toml"
    tomls.mkdir()
    for method in METHODS:
        (tomls / f"{method.full_name.replace(':', '.')}.toml").write_text(config_template(method.full_name))
    for name in ("npz", "npy", "matlab5", "bart"):
        CASES[name].write(tomls)
    return hdf5, sorted(tomls.glob("*.toml"))


# -- bytes ---------------------------------------------------------------------------------------------------


def flip(content: bytearray, g: Generator) -> bytearray:
    for place in g.integers(0, len(content), int(g.integers(1, 20))):
        content[place] ^= 1 << int(g.integers(8))
    return content


def splash(content: bytearray, g: Generator) -> bytearray:
    """A run of equal or random bytes."""
    at, n = int(g.integers(len(content))), int(g.integers(1, 64))
    fill = g.choice([0, 0xFF, -1])
    content[at : at + n] = bytes(g.integers(0, 256, n, dtype=np.uint8)) if fill < 0 else bytes([fill]) * n
    return content


def cut(content: bytearray, g: Generator) -> bytearray:
    return content[: int(g.integers(len(content)))]


def shift(content: bytearray, g: Generator) -> bytearray:
    """Bytes put in or taken out: all addresses behind are wrong."""
    at, n = int(g.integers(len(content))), int(g.integers(1, 32))
    return content[:at] + bytes(n) + content[at:] if g.integers(2) else content[:at] + content[at + n :]


def head(content: bytearray, g: Generator) -> bytearray:
    """The superblock and the first object headers."""
    for place in g.integers(0, min(2048, len(content)), int(g.integers(1, 6))):
        content[place] = int(g.integers(256))
    return content


BYTES: tuple[Callable[[bytearray, Generator], bytearray], ...] = (flip, splash, cut, shift, head)


# -- structure -----------------------------------------------------------------------------------------------


def objects(f: h5py.File, kind: type) -> list[str]:
    found: list[str] = []
    f.visititems(lambda name, item: found.append(name) if isinstance(item, kind) else None)
    return sorted(found)


def pick(names: list[str], g: Generator) -> str:
    return names[int(g.integers(len(names)))]


def strange_values(f: h5py.File, g: Generator) -> object:
    """A value of a type or shape that the format does not have there."""
    values: list[Callable[[], object]] = [
        lambda: "words",
        lambda: b"\xff\xfe not utf-8",
        lambda: np.array(["a", "b"], dtype=h5py.string_dtype()),
        lambda: f["/"].ref,
        lambda: np.array([f["/"].ref] * 3, dtype=h5py.ref_dtype),
        lambda: np.zeros((0, 3)),
        lambda: np.float64(np.nan),
        lambda: np.full((2, 3), np.inf),
        lambda: np.zeros((1,) * 20),
        lambda: np.arange(5, dtype=np.uint64) + 2**63,
        lambda: np.array([True, False]),
        lambda: np.zeros(3, np.float16),
        lambda: np.zeros(3, [("a", "f4"), ("b", "S5")]),
        lambda: np.zeros(3, [("r", "i8"), ("i", "f4")]),
        lambda: np.frombuffer(b"opaque!!", "V8"),
        lambda: h5py.Empty("f4"),
        lambda: np.int64(-(2**62)),
        lambda: 1e308,
        lambda: "x" * 70_000,
    ]
    return values[int(g.integers(len(values)))]()


def wrong_value(f: h5py.File, g: Generator) -> None:
    name = pick(objects(f, h5py.Dataset), g)
    kept = dict(f[name].attrs) if g.integers(2) else {}
    del f[name]
    f[name] = strange_values(f, g)
    for key, value in kept.items():
        with contextlib.suppress(*FAILURES):
            f[name].attrs[key] = value


def wrong_attribute(f: h5py.File, g: Generator) -> None:
    items = ["/", *objects(f, h5py.Dataset), *objects(f, h5py.Group)]
    found = [(name, key) for name in items for key in f[name].attrs]
    name, key = found[int(g.integers(len(found)))]
    del f[name].attrs[key]
    if g.integers(4):
        f[name].attrs[key] = strange_values(f, g)


def wrong_words(f: h5py.File, g: Generator) -> None:
    words = ("../../etc", "a\nb", "exp(-j", "-1", "nan", "z,y,x", "K" * 500, "µs", "m/s/s/s", "frame", "1e999", "")
    items = ["/", *objects(f, h5py.Dataset), *objects(f, h5py.Group)]
    found = [(name, key) for name in items for key in f[name].attrs if isinstance(f[name].attrs[key], str)]
    name, key = found[int(g.integers(len(found)))]
    f[name].attrs[key] = words[int(g.integers(len(words)))]


def huge(f: h5py.File, g: Generator) -> None:
    """A dataset that claims to be larger than any disk."""
    name = pick(objects(f, h5py.Dataset), g)
    old = f[name]
    dtype = old.dtype if old.dtype.kind in "fciu" else np.dtype("f4")
    kept = dict(old.attrs)
    rank = max(old.ndim, 1)
    del f[name]
    shape = [1 << int(g.integers(1, 36 // rank + 1)) for _ in range(rank)]
    shape[int(g.integers(rank))] = 1 << int(g.integers(24, 42))
    chunks = tuple(min(n, 16) for n in shape)
    more = {"compression": "gzip"} if g.integers(2) else {}
    d = f.create_dataset(name, shape=tuple(shape), dtype=dtype, chunks=chunks, **more)
    if g.integers(2):
        d[(0,) * rank] = 1
    for key, value in kept.items():
        with contextlib.suppress(*FAILURES):
            d.attrs[key] = value


def cyclic(f: h5py.File, g: Generator) -> None:
    """Soft links to themselves and each other, groups within themselves."""
    name = pick([*objects(f, h5py.Dataset), *objects(f, h5py.Group)], g)
    kind = int(g.integers(4))
    if kind == 0:
        f.move(name, "moved_away")
        f[name] = h5py.SoftLink(f"/{name}")
    elif kind == 1:
        f.move(name, "moved_away")
        f[name], f["other_way"] = h5py.SoftLink("/other_way"), h5py.SoftLink(f"/{name}")
    elif kind == 2:
        group = pick(objects(f, h5py.Group), g)
        f[f"{group}/itself"] = f[group]
        f[f"{group}/root"] = f["/"]
    else:
        f.move(name, "moved_away")
        f[name] = h5py.SoftLink("/nothing/there")


def outwards(f: h5py.File, g: Generator) -> None:
    """External links, external storage and virtual datasets that point to the folder outside/."""
    name = pick([*objects(f, h5py.Dataset), *objects(f, h5py.Group)], g)
    is_group = isinstance(f[name], h5py.Group)
    kept = {} if is_group else dict(f[name].attrs)
    shape = (3,) if is_group else f[name].shape or (1,)
    del f[name]
    folder = Path(f.filename).resolve().parent.parent / "outside"
    target = [str(folder / "canary.h5"), "../outside/canary.h5", "../outside/../outside/canary.h5"][int(g.integers(3))]
    kind = int(g.integers(4))
    if kind == 0:
        f[name] = h5py.ExternalLink(target, f"/{name}")
    elif kind == 1:
        f.create_dataset(
            name, shape=shape, dtype="f4", external=[(target.replace(".h5", ".raw"), 0, h5py.h5f.UNLIMITED)]
        )
    elif kind == 2:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource(target, "data", shape)
        f.create_virtual_dataset(name, layout)
    else:
        f[name] = h5py.SoftLink(target)
    if kind in (1, 2):
        for key, value in kept.items():
            with contextlib.suppress(*FAILURES):
                f[name].attrs[key] = value


def missing(f: h5py.File, g: Generator) -> None:
    del f[pick([*objects(f, h5py.Dataset), *objects(f, h5py.Group)], g)]


def exchanged(f: h5py.File, g: Generator) -> None:
    """One object under the name of another."""
    names = [*objects(f, h5py.Dataset), *objects(f, h5py.Group)]
    a, b = pick(names, g), pick(names, g)
    if not (a.startswith(b) or b.startswith(a)):
        f.move(a, "third")
        f.move(b, a)
        f.move("third", b)


def deep(f: h5py.File, g: Generator) -> None:
    """Groups in groups in groups, or very many of them."""
    if g.integers(2):
        group = f
        for _ in range(800):
            group = group.create_group("g")
    else:
        for i in range(1500):
            f.create_group(f"many/{i}")


def regions(f: h5py.File, g: Generator) -> None:
    """References to regions as values and attributes."""
    name = pick([n for n in objects(f, h5py.Dataset) if f[n].shape], g)
    region = f[name].regionref[...]
    other = pick(objects(f, h5py.Dataset), g)
    f[other].attrs["units"] = region
    del f[name].attrs["units"]
    f[name].attrs.create("axes", np.array([region], dtype=h5py.regionref_dtype))


STRUCTURE: tuple[Callable[[h5py.File, Generator], None], ...] = (
    wrong_value,
    wrong_attribute,
    wrong_words,
    huge,
    cyclic,
    outwards,
    missing,
    exchanged,
    deep,
    regions,
)


def mutant_hdf5(source: Path, target: Path, g: Generator) -> str:
    """Write a mutant of a good file; what was done to it."""
    shutil.copy(source, target)
    done = []
    for _ in range(int(g.integers(1, 3))):
        if g.integers(5) < 3:
            change = STRUCTURE[int(g.integers(len(STRUCTURE)))]
            with contextlib.suppress(*FAILURES), h5py.File(target, "r+") as f:
                change(f, g)
            done.append(change.__name__)
        else:
            content = bytearray(target.read_bytes())
            spoil = BYTES[int(g.integers(len(BYTES)))]
            if content:
                target.write_bytes(spoil(content, g))
            done.append(spoil.__name__)
            break  # h5py may never come back from a file with wrong bytes
    return "+".join(done)


# -- TOML ----------------------------------------------------------------------------------------------------

STRANGE = (
    b"nan",
    b"-inf",
    b"1e400",
    b"-1",
    b"0",
    b"1" * 5000,
    b"0x7fffffffffffffffff",
    b"true",
    b'""',
    b'"none"',
    b'"../../outside/canary"',
    b'"/etc/passwd"',
    b'"a\\u0000b"',
    b"[]",
    b"[[], [1]]",
    b"[1, 'a']",
    b"{}",
    b"{a = {b = {c = 1}}}",
    b"1979-05-27T07:32:00Z",
    b"07:32:00",
    b"[" * 3000 + b"]" * 3000,
    b"{x=" * 800 + b"1" + b"}" * 800,
    b"'\xff'",
    b"[" + b"0.5, " * 20000 + b"]",
)


def mutant_toml(source: Path, target: Path, g: Generator) -> str:
    """Write a mutant of a good file; what was done to it."""
    content = bytearray(source.read_bytes())
    kind = int(g.integers(6))
    if kind < 3:
        places = list(re.finditer(rb"(?m)^\s*#?\s*([\w.]+)\s*=\s*(.*)$", bytes(content)))
        place = places[int(g.integers(len(places)))]
        value = STRANGE[int(g.integers(len(STRANGE)))]
        content[place.start() : place.end()] = place[1] + b" = " + value
        words = f"{place[1].decode()} = {value[:20]!r}"
    elif kind == 3:
        spoil = BYTES[int(g.integers(3))]
        content, words = spoil(content, g), spoil.__name__
    elif kind == 4:
        lines = bytes(content).splitlines(keepends=True)
        at = int(g.integers(len(lines)))
        lines[at : at + 1] = [lines[at], lines[int(g.integers(len(lines)))]]
        content, words = bytearray(b"".join(lines)), "a line again"
    else:
        added = (
            b"[geometry.x.y]\n",
            b"unknown = 1\n",
            b"[[data]]\n",
            b"data.from = 3\n",
            b"\xef\xbb\xbf",
            b"a" * 100000,
        )
        add = added[int(g.integers(len(added)))]
        content, words = (bytearray(add) + content if g.integers(2) else content + add), f"{add[:20]!r} added"
    target.write_bytes(content)
    return words


def mutant_list(target: Path, g: Generator) -> str:
    """A list of inputs with ways out of its folder, files that are none, and other bytes."""
    lines = [
        "radar.h5",
        "../good/radar.h5",
        "../outside/canary.h5",
        "../../*",
        "../good/../good/*.h5",
        "*.h5",
        "@other.txt",
        "-o",
        "# nothing",
        "a" * 5000,
        "no\0thing",
        "[",
        "**/../**/*.h5",
        "~/x.h5",
        "",
    ]
    chosen = [lines[int(i)] for i in g.integers(0, len(lines), 4)]
    content = bytearray("\n".join(chosen).encode())
    if g.integers(4) == 0:
        content = flip(content, g)
    target.write_bytes(content)
    return repr(chosen)
