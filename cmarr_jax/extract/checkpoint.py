"""The tensors of a published model, in whichever of four forms its folder holds them.

One safetensors file, or one that PyTorch saved (`pytorch_file`); or several such files, shards,
and an index in JSON that says which tensor is in which. Nothing in them is run, and only files that
the index names by their plain names are opened.
"""

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pytorch_file, snapshot

FORMS = (  # the first that is there is read
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# How weights in other forms end, to be named where there are none that are read.
OTHERS = (".safetensors", ".bin", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
_INDEX = ".index.json"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|bin)")
# safetensors' names of the numbers that NumPy computes with, and of integers that only count.
_READ = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def find(names: Iterable[str]) -> str | None:
    """Of a folder's files, the one that its weights are read from; None: there are none."""
    return next((form for form in FORMS if form in {*names}), None)


def files(file: str) -> list[str]:
    """The files that `read` reads: `file`, and the shards if it is an index.

    Raises:
      UserError: one is missing or no file of that folder, or an index cannot be read.
    """
    folder, name = os.path.split(file)
    found = [snapshot.path(folder, name)]
    parts = shards(file)
    if lacking := [s for s in parts if not os.path.lexists(os.path.join(folder, s))]:
        raise UserError(
            f"{file}: {len(lacking)} of its {len(parts)} shards are missing, among them "
            f"{lacking[0]}; the download is not complete: do it again"
        )
    found += [snapshot.path(folder, shard) for shard in parts]
    return found


def shards(file: str) -> list[str]:
    """The names of the files that the index `file` sends to; none if it is no index.

    Raises:
      UserError: it cannot be read.
    """
    return sorted(set(_weight_map(file).values())) if file.endswith(_INDEX) else []


def read(file: str) -> dict[str, np.ndarray]:
    """The tensors by name, each in the precision that it was published in.

    Args:
      file: one of `FORMS`, with its folder.

    Raises:
      UserError: a file is missing, damaged or more than tensors, its parts contradict each
        other, or a number is none.
    """
    if not file.endswith(_INDEX):
        folder, name = os.path.split(file)
        return dict(_checked(snapshot.path(folder, name)))
    wanted = _weight_map(file)
    tensors: dict[str, np.ndarray] = {}
    for part in files(file)[1:]:
        shard = os.path.basename(part)
        for name, tensor in _checked(part):
            if name in tensors:
                raise UserError(f"{part}: holds {name}, which is in {wanted[name]} too; {_ASTRAY}")
            if wanted.get(name) != shard:
                place = wanted.get(name, "no shard")
                raise UserError(
                    f"{part}: holds {name}, for which {os.path.basename(file)} names {place}; "
                    f"{_ASTRAY}"
                )
            tensors[name] = tensor
    if lacking := sorted(wanted.keys() - tensors.keys()):
        raise UserError(
            f"{os.path.join(os.path.dirname(file), wanted[lacking[0]])}: lacks {lacking[0]}, which "
            f"{os.path.basename(file)} says is there; {_ASTRAY}"
        )
    return tensors


_ASTRAY = "index and shards belong to different models: download all of them again"


def _weight_map(file: str) -> dict[str, str]:
    """Tensor -> the name of its shard."""
    found = snapshot.read_json(file).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file}: no weight_map; wanted an index, which shard holds which tensor")
    end = os.path.basename(file).removesuffix(_INDEX).rpartition(".")[2]
    for tensor, shard in found.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or not shard.endswith(end):
            raise UserError(
                f"{file}: {tensor} is said to be in {shard!r:.60}; wanted the plain name of a "
                f".{end} file in the same folder"
            )
    return found


def _checked(file: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one file, one by one."""
    if file.endswith(".bin"):
        tensors: Iterable[tuple[str, np.ndarray]] = pytorch_file.read(file).items()
    else:
        tensors = _safetensors(file)
    for name, tensor in tensors:
        real = np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == "bfloat16"
        if not real and name.endswith((".weight", ".bias")):
            raise _quantised(file, name, tensor.dtype.name)
        if real and not np.isfinite(_as_float32(tensor)).all():
            raise UserError(
                f"{file}: {name} holds numbers that are NaN, infinite or beyond float32; "
                "wanted a model whose training succeeded"
            )
        yield name, tensor


def _as_float32(tensor: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return tensor.astype(np.float32) if tensor.dtype == np.float64 else tensor


def _safetensors(file: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import safetensors
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: needs safetensors; pip install -r requirements-extract.txt"
        ) from None
    try:
        with safetensors.safe_open(file, "np") as f:
            kinds = {name: f.get_slice(name).get_dtype() for name in f.keys()}  # noqa: SIM118
            _header(file)  # of two tensors of one name, safetensors gives the second
            for name, kind in kinds.items():
                if kind not in _READ:
                    raise _quantised(file, name, kind)
                yield name, f.get_tensor(name)
    except UserError:
        raise
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        reason = str(e).splitlines()[0].removeprefix("Error while deserializing header: ")
        raise UserError(
            f"{file}: not a whole safetensors file ({reason:.90}); {snapshot.remedy(file)}"
        ) from None


def _header(file: str) -> Any:
    with open(file, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        return json.loads(f.read(length), object_pairs_hook=snapshot.fields)


def _quantised(file: str, name: str, kind: str) -> UserError:
    return UserError(
        f"{file}: {name} is stored as {kind}; wanted float16, bfloat16, float32 or float64: "
        "take the model as it was trained, not quantised"
    )
