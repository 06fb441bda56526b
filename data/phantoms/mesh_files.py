"""Triangle meshes from .npz, .ply, .obj and .stl files; points and faces only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.phantoms.errors import SimulationError, unknown_name

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


def read_mesh(path: Path | str, name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float64 (n, 3), file's own units, and triangles int64 (m, 3); polygons become triangle fans.

    Args:
        path: .npz with pairs NAME_v and NAME_f, .ply (ASCII or binary), .obj, .stl (ASCII or binary).
        name: which pair of an .npz; may be left out when there is one.

    Raises:
        SimulationError: missing, unknown or broken file, or faces that name vertices that are not there.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".ply": _read_ply, ".obj": _read_obj, ".stl": _read_stl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SimulationError(f"{path}: expected a mesh file {', '.join(readers)}, got '{path.suffix}'")
    if not path.is_file():
        raise SimulationError(f"{path}: no such mesh file")
    try:
        vertices, faces = _read_npz(path, name) if reader is _read_npz else reader(path)
    except SimulationError:
        raise
    except Exception as error:  # whatever a broken file does to a parser, its reader gets one sentence
        raise SimulationError(f"{path}: not a readable {path.suffix} mesh ({error})") from error
    vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise SimulationError(
            f"{path}: expected vertices (n, 3) and triangles (m, 3), got {vertices.shape} and {faces.shape}"
        )
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise SimulationError(f"{path}: vertices must be finite and faces must name vertices 0 to {len(vertices) - 1}")
    return vertices, faces


def _read_npz(path: Path, name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        names = [k[:-2] for k in file.files if k.endswith("_v") and f"{k[:-2]}_f" in file.files]
        if name is None and len(names) != 1:
            raise SimulationError(f"{path}: holds the meshes {', '.join(names) or '(none)'}; set name to one of them")
        if name is not None and name not in names:
            raise unknown_name(f"{path}, mesh name", name, names)
        chosen = name if name is not None else names[0]
        return file[f"{chosen}_v"], file[f"{chosen}_f"]


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in path.read_text(errors="replace").splitlines():
        key, *values = line.split() or [""]
        if key == "v":
            vertices.append([float(v) for v in values[:3]])
        elif key == "f":
            numbers = [int(v.split("/")[0]) for v in values]
            # .obj counts from 1, and backwards from the latest vertex when negative
            faces += _fan([n - 1 if n > 0 else len(vertices) + n for n in numbers])
    return np.array(vertices), np.array(faces)


def _read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    n = int.from_bytes(raw[80:84], "little") if len(raw) >= 84 else 0
    # Binary files may start with "solid" too; their length gives them away.
    if n and len(raw) == 84 + 50 * n:
        record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        corners = np.frombuffer(raw, dtype=record, offset=84)["corners"].reshape(-1, 3)
    else:
        rows = [line.split()[1:4] for line in raw.decode("ascii").splitlines() if line.split()[:1] == ["vertex"]]
        corners = np.array(rows, dtype=np.float64).reshape(-1, 3)
    if len(corners) == 0 or len(corners) % 3:
        raise ValueError(f"{len(corners)} corners, expected three a triangle")
    vertices, index = np.unique(corners, axis=0, return_inverse=True)  # neighbours share corners
    return vertices, index.reshape(-1, 3)


def _read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    header, body = raw.split(b"end_header", 1)
    body = body[body.index(b"\n") + 1 :]
    lines = [line.split() for line in header.decode("ascii").splitlines()]
    if lines[0] != ["ply"]:
        raise ValueError("no 'ply' in the first line")
    style = next(line[1] for line in lines if line[:1] == ["format"])
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line[:1] == ["element"]:
            elements.append((line[1], int(line[2]), []))
        elif line[:1] == ["property"]:
            elements[-1][2].append(line[1:])
    tokens = _Tokens(body, style)
    vertices, faces = np.empty((0, 3)), []
    for name, count, properties in elements:
        scalars = [(p[-1], PLY_TYPES[p[0]]) for p in properties if p[0] != "list"]
        if len(scalars) == len(properties):
            table = tokens.table(count, scalars)
            if name == "vertex":
                vertices = np.stack([table[k].astype(np.float64) for k in "xyz"], axis=-1)
            continue
        for _ in range(count):
            for p in properties:
                if p[0] != "list":
                    tokens.take(1, PLY_TYPES[p[0]])
                    continue
                length = int(tokens.take(1, PLY_TYPES[p[1]])[0])
                numbers = tokens.take(length, PLY_TYPES[p[2]])
                if name == "face" and p[-1] in ("vertex_indices", "vertex_index"):
                    faces += _fan([int(v) for v in numbers])
    return vertices, np.array(faces)


class _Tokens:
    """The body of a .ply file, read front to back; ASCII and binary alike."""

    def __init__(self, body: bytes, style: str) -> None:
        orders = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
        self.order = orders[style]
        self.words = body.split() if style == "ascii" else []
        self.body, self.at = body, 0

    def take(self, n: int, kind: str) -> np.ndarray:
        """The next `n` numbers of numpy type `kind`."""
        if not self.order:
            words, self.at = self.words[self.at : self.at + n], self.at + n
            if len(words) < n:
                raise ValueError("the file ends early")
            return np.array([float(w) for w in words])
        values = np.frombuffer(self.body, dtype=self.order + kind, count=n, offset=self.at)
        self.at += values.nbytes
        return values

    def table(self, n: int, columns: list[tuple[str, str]]) -> dict[str, np.ndarray]:
        """The next `n` rows of `columns` (name, numpy type), as arrays by name."""
        if not self.order:
            rows = self.take(n * len(columns), "f8").reshape(n, len(columns))
            return {name: rows[:, i] for i, (name, _) in enumerate(columns)}
        record = np.dtype([(name, self.order + kind) for name, kind in columns])
        rows = np.frombuffer(self.body, dtype=record, count=n, offset=self.at)
        self.at += rows.nbytes
        return {name: rows[name] for name, _ in columns}


def _fan(polygon: list[int]) -> list[list[int]]:
    return [[polygon[0], polygon[i], polygon[i + 1]] for i in range(1, len(polygon) - 1)]
