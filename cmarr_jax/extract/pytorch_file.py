"""Weights that PyTorch saved, `pytorch_model.bin`, read without PyTorch and without running them.

Such a file is a pickle, which says what the tensors are called and how they lie in their
storages, and the storages' bytes: a zip archive since PyTorch 1.6, one after another before. The
pickle is read as data by `data.importers.pickles`, which admits here five names of PyTorch's more
and calls none of them; where a tensor lies is checked before its storage is touched.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from cmarr_jax.data.importers import pickles
from cmarr_jax.errors import UserError
from cmarr_jax.extract import snapshot

_DTYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",  # the upper half of a float32
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SAFETENSORS = (
    "weights are read as tensors of plain numbers and nothing in them is run; take the model's "
    "safetensors"
)
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6


class _Kind(NamedTuple):
    name: str  # a key of _DTYPES


class _Storage(NamedTuple):
    kind: _Kind
    key: str
    num: int  # numbers in it


class _Tensor(NamedTuple):
    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers


def read(file: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; bfloat16 as float32.

    Raises:
      UserError: the file is missing, damaged, or asks for anything but tensors.
    """
    try:
        with open(file, "rb") as f:
            if zipfile.is_zipfile(f):
                return _read_zip(file, f)
            f.seek(0)
            start = f.read(4)
            if start == b"PK\3\4":
                raise _damaged(file, "a zip archive without its end")
            if start[:1] != b"\x80":
                raise _damaged(file, "neither a zip archive nor a pickle")
            f.seek(0)
            return _read_sequence(file, f)
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    except UserError:
        raise
    except Exception as e:  # zipfile raises anything on a damaged file
        raise _damaged(file, str(e) or type(e).__name__) from None


def _read_zip(file: str, f: IO[bytes]) -> dict[str, np.ndarray]:
    archive = zipfile.ZipFile(f)
    found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise UserError(f"{file}: holds {len(found)} data.pkl; wanted weights that PyTorch saved")
    root = found[0].removesuffix("data.pkl")

    def member(name: str, limit: int) -> bytes:
        try:
            info = archive.getinfo(root + name)
        except KeyError:
            raise _damaged(file, f"{name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{file}: {name} is compressed; wanted weights that PyTorch saved")
        if info.file_size > limit:
            raise _damaged(file, f"{name} is larger than the file says")
        return archive.read(info)

    size = f.seek(0, 2)
    order = "<"
    if f"{root}byteorder" in archive.namelist():
        order = "<" if member("byteorder", 16).strip() == b"little" else ">"
    content = _load(io.BytesIO(member("data.pkl", size)), file)

    def storage(of: _Storage) -> np.ndarray:
        dtype = np.dtype(_DTYPES[of.kind.name]).newbyteorder(order)
        return _numbers(file, of, member(f"data/{of.key}", size), dtype)

    return _tensors(file, content, storage)


def _read_sequence(file: str, f: IO[bytes]) -> dict[str, np.ndarray]:
    """Pickles one after another: magic number, version, machine, content, the storages' keys."""
    if pickles.load_stream(f, file) != _MAGIC:
        raise UserError(f"{file}: no weights that PyTorch saved; wanted its state dict")
    _, machine = pickles.load_stream(f, file), pickles.load_stream(f, file)
    little = not isinstance(machine, dict) or machine.get("little_endian", True)
    kinds: dict[str, _Storage] = {}
    content = _load(f, file, kinds)
    raw: dict[str, np.ndarray] = {}
    for key in _listed(file, pickles.load_stream(f, file)):
        if key not in kinds:
            raise _damaged(file, f"a storage {key!r:.40} that no tensor has")
        of = kinds[key]
        dtype = np.dtype(_DTYPES[of.kind.name]).newbyteorder("<" if little else ">")
        (num,) = struct.unpack("<q" if little else ">q", f.read(8))
        if num != of.num:
            raise _damaged(file, f"storage {key!r:.40} has {num} numbers, wanted {of.num}")
        raw[key] = _numbers(file, of, _bytes(f, num * dtype.itemsize), dtype)

    def storage(of: _Storage) -> np.ndarray:
        if of.key not in raw:
            raise _damaged(file, f"storage {of.key!r:.40} is missing")
        return raw[of.key]

    return _tensors(file, content, storage)


def _load(stream: IO[bytes], file: str, kinds: dict[str, _Storage] | None = None) -> Any:
    def outside(pid: Any) -> _Storage:
        match pid:
            case ("storage", _Kind() as kind, str() as key, str(), int() as num, *view) if (
                num >= 0 and view in ([], [None])
            ):
                found = _Storage(kind, key, num)
                if kinds is not None and kinds.setdefault(key, found) != found:
                    raise ValueError(f"storage {key!r:.40} has two sizes")
                return found
        raise ValueError(f"an outside object {pid!r:.60}")

    return pickles.load_stream(
        stream, file, admitted=_ADMITTED, outside=outside, remedy=_SAFETENSORS
    )


def _tensors(
    file: str, content: Any, storage: Callable[[_Storage], np.ndarray]
) -> dict[str, np.ndarray]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file}: holds a {type(content).__name__}; wanted tensors by name")
    cache: dict[_Storage, np.ndarray] = {}  # tied weights share one
    tensors = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            kind = type(tensor).__name__
            raise UserError(
                f"{file}: {name!r:.60} is a {kind}; wanted a state dict, tensors by name"
            )
        of = tensor.storage
        if of not in cache:
            cache[of] = storage(of)
        tensors[name] = _placed(file, name, tensor, cache[of])
    return tensors


def _placed(file: str, name: str, tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """The tensor, a view of its storage."""
    shape, strides = tensor.shape, tensor.strides
    count = math.prod(shape)
    last = tensor.start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if count and (count > len(numbers) or last >= len(numbers)):
        raise _damaged(file, f"{name} lies outside its storage")
    if not count:
        placed = np.zeros(shape, numbers.dtype)
    else:
        placed = np.lib.stride_tricks.as_strided(
            numbers[tensor.start :],
            shape,
            [s * numbers.itemsize for s in strides],
            writeable=False,
        )
    if tensor.storage.kind.name == "BFloat16Storage":
        placed = (placed.astype(np.uint32) << 16).view(np.float32)
    return placed


def _numbers(file: str, of: _Storage, raw: bytes, dtype: np.dtype) -> np.ndarray:
    if len(raw) != of.num * dtype.itemsize:
        raise _damaged(file, f"storage {of.key!r:.40} has {len(raw)} bytes for {of.num} numbers")
    return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="), copy=False)


def _bytes(f: IO[bytes], num: int) -> bytes:
    here = f.tell()
    rest = f.seek(0, 2) - here
    f.seek(here)
    if num > rest:
        raise EOFError("ends in the middle of a storage")
    return f.read(num)


def _listed(file: str, keys: Any) -> Iterator[str]:
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise _damaged(file, "no list of storages")
    yield from keys


def _damaged(file: str, reason: object) -> UserError:
    return UserError(f"{file}: not whole ({reason}); {snapshot.remedy(file)}")


def _rebuild(storage: Any, start: Any, shape: Any, strides: Any, *ignored: Any) -> _Tensor:
    """`torch._utils._rebuild_tensor_v2`; whether gradients are wanted says nothing here."""
    axes = all(
        isinstance(axis, tuple) and all(type(n) is int and n >= 0 for n in axis)
        for axis in (shape, strides)
    )
    if not (isinstance(storage, _Storage) and type(start) is int and start >= 0 and axes):
        raise ValueError("a tensor that lies nowhere")
    if len(shape) != len(strides) or len(shape) > 8:
        raise ValueError("a tensor whose axes do not fit")
    return _Tensor(storage, start, shape, strides)


def _parameter(tensor: Any, *ignored: Any) -> Any:
    return tensor


_ADMITTED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
} | {("torch", name): _Kind(name) for name in _DTYPES}
