"""Safetensors files in the dtypes that programs in other languages have: float64, float32, float16, bfloat16, whole."""

import json
from pathlib import Path

import numpy as np

CODES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "|u1",
    "BOOL": "|b1",
}
NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
BY_NAME = {name: code for code, name in NAMES.items()}
LARGEST_HEADER = 1 << 24


def write(path: Path, tensors: dict[str, tuple[np.ndarray, str]]) -> None:
    """Write arrays, each in the dtype that is named beside it; bfloat16 numbers must be representable."""
    header, blobs, offset = {}, [], 0
    for name, (array, dtype) in tensors.items():
        code = BY_NAME[dtype]
        blob = encoded(np.asarray(array), code)
        header[name] = {"dtype": code, "shape": list(np.shape(array)), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def encoded(array: np.ndarray, code: str) -> bytes:
    """Give an array's bytes; of bfloat16 the upper half of float32's."""
    if code == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes() if array.size else b""
    return np.ascontiguousarray(array.astype(CODES[code])).tobytes()


def read(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    """Read all tensors as float64, int64 or bool, with the dtype that they had; a ValueError says what is wrong."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, LARGEST_HEADER):
        raise ValueError(f"{path.name} is no safetensors file")
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {name: decoded(data[8 + size :], entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path.name} is no safetensors file: {type(error).__name__}: {error}") from None


def decoded(data: bytes, entry: dict) -> tuple[np.ndarray, str]:
    """Read one tensor."""
    begin, end = entry["data_offsets"]
    raw = np.frombuffer(data[begin:end], CODES[entry["dtype"]])
    if entry["dtype"] == "BF16":
        raw = (raw.astype("<u4") << 16).view("<f4")
    wide = np.float64 if raw.dtype.kind == "f" else np.bool_ if raw.dtype.kind == "b" else np.int64
    return raw.astype(wide).reshape(entry["shape"]), NAMES[entry["dtype"]]
