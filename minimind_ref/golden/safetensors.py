"""The safetensors format in NumPy: 8 bytes with the header's length, a JSON header, then the raw little-endian data."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

DTYPES = {"F64": "<f8", "I64": "<i8", "BOOL": "|b1"}


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write float64, int64 and bool arrays, ordered by name, so that equal contents give equal bytes."""
    header, blobs, offset = {}, [], 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        code = next((c for c, d in DTYPES.items() if np.dtype(d) == array.dtype), None)
        if code is None:
            raise ValueError(f"{name} is {array.dtype} but must be float64, int64 or bool")
        header[name] = {
            "dtype": code, "shape": list(tensors[name].shape), "data_offsets": [offset, offset + array.nbytes]
        }  # fmt: skip
        blobs.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def read(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file that holds float64, int64 and bool only; a file that did not change is read once."""
    status = path.stat()
    return dict(_read(path, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
    return found
