"""A program that the kit judges over stdin and stdout: rms_norm in NumPy, and on request what programs do wrong."""

import json
import os
import sys
import time

import numpy as np

NAMES = {"F64": np.float64, "F32": np.float32}


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    size = int.from_bytes(data[:8], "little")
    body = data[8 + size :]
    header = json.loads(data[8 : 8 + size])
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], NAMES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


def write(path, tensors):
    header, body = {}, b""
    for name, x in tensors.items():
        code = "F64" if x.dtype == np.float64 else "F32"
        header[name] = {"dtype": code, "shape": list(x.shape), "data_offsets": [len(body), len(body) + x.nbytes]}
        body += np.ascontiguousarray(x).tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + body)


def answer(asked):
    kept = read(asked["tensors"])
    x, weight = (kept[asked["inputs"][name]["tensor"]] for name in ("x", "weight"))
    eps = x.dtype.type(asked["parameters"]["eps"])
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    found = {"y": x * inverse * weight}
    reply = {"id": asked["id"], "outputs": {"y": {"tensor": "y"}}}
    if "cotangent" in asked:
        pulled = kept[asked["cotangent"]["y"]["tensor"]]
        inner = np.mean(weight * pulled * x, axis=-1, keepdims=True)
        found |= {"x": inverse * weight * pulled - x * inverse**3 * inner}
        found |= {"weight": (pulled * x * inverse).reshape(-1, x.shape[-1]).sum(axis=0)}
        reply["gradients"] = {name: {"tensor": name} for name in asked["gradients"]}
    write(asked["answer"], found)
    return reply


def main(fault):
    hello = {"name": f"runner {fault}", "ops": ["rms_norm"], "profiles": ["float64", "float32"], "gradients": True}
    for line in sys.stdin:
        asked = json.loads(line)
        if "hello" in asked:
            print(json.dumps(hello), flush=True)
        elif fault == "dies":
            sys.exit("out of memory")
        elif fault == "nonsense":
            print("y = [0.5, 0.25]", flush=True)
        elif fault == "silent":
            time.sleep(60)
        elif fault == "closes":
            os.close(1)
            time.sleep(60)
        elif fault == "error":
            print(json.dumps({"id": asked["id"], "error": "no kernel for this shape"}), flush=True)
        elif fault == "cannot":
            print(json.dumps({"id": asked["id"], "cannot": "eps"}), flush=True)
        elif fault == "lacking":
            print(json.dumps({"id": asked["id"], "outputs": {}}), flush=True)
        elif fault == "no_file":
            print(json.dumps({"id": asked["id"], "outputs": {"y": {"tensor": "y"}}}), flush=True)
        elif fault == "bad_file":
            with open(asked["answer"], "wb") as file:
                file.write(b"not a safetensors file")
            print(json.dumps({"id": asked["id"], "outputs": {"y": {"tensor": "y"}}}), flush=True)
        elif fault == "bad_values":
            node = {"shape": [2, 2], "values": [1.0, "x"]}
            print(json.dumps({"id": asked["id"], "outputs": {"y": node}}), flush=True)
        else:
            print(json.dumps(answer(asked)), flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main(sys.argv[1] if len(sys.argv) > 1 else "")
