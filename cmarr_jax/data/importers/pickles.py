"""Reads pickles and object arrays of other toolkits as data: nothing in them is ever called.

A pickle is a program. Feature archives use a harmless part of that language, NumPy arrays in
dicts, lists, tuples and sets; only this part is executed, and any other name that a file asks
for is refused before it is imported. NumPy's own unpickling trusts the state that it is given
(flags, strides, nested dtypes), so arrays are rebuilt here from dtype, shape and bytes.
"""

import collections
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO, Any, Literal

import numpy as np

from cmarr_jax.errors import UserError


def load(file: str) -> Any:
    """The content of a pickle file: containers, numbers, text and NumPy arrays.

    Text pickled by Python 2 is decoded as Latin-1, as its readers do.

    Raises:
      UserError: the file is missing, damaged, or asks for anything but data.
    """
    try:
        with open(file, "rb") as f:
            return load_stream(f, file)
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None


def load_stream(
    stream: IO[bytes],
    name: str,
    *,
    admitted: Mapping[tuple[str, str], Any] = MappingProxyType({}),
    outside: Callable[[Any], Any] | None = None,
    remedy: str = (
        "only NumPy arrays and plain containers are read: save it so, with the code that made it"
    ),
) -> Any:
    """As `load`, from an open file.

    Args:
      stream: where the pickle begins; it is left where the pickle ends.
      name: of the file, for errors.
      admitted: (module, name) -> what stands for it, besides what every archive may ask for.
      outside: gives the objects that the pickle keeps outside, by their ids; None = refused.
      remedy: what to do about a pickle that asks for more than data.
    """
    try:
        _check_memo(stream)
        unpickler = _Unpickler(stream, encoding="latin1")
        unpickler.admitted, unpickler.outside = {**_ADMITTED, **admitted}, outside
        return unpickler.load()
    except _RefusedError as e:
        raise UserError(f"{name}: refused, it asks for {e}, which is not data; {remedy}") from None
    except (MemoryError, RecursionError):
        raise UserError(f"{name}: damaged, or too large for this machine's memory") from None
    except Exception as e:  # a damaged pickle can raise anything
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(f"{name}: no readable pickle ({reason})") from None


def load_npy(file: str | IO[bytes], name: str | None = None) -> np.ndarray:
    """An array of a `.npy` file or stream; an array of objects is read as a pickle by `load`.

    Raises:
      UserError: no such file, no array, or an array of objects that are not data.
    """
    name = name or str(file)
    try:
        if isinstance(file, str):
            with open(file, "rb") as f:
                return load_npy(f, name)
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"format version {version}")
        shape, fortran_order, dtype = header(file)
        if dtype == np.dtype(object):
            return np.asarray(load_stream(file, name), object)
        if dtype.hasobject or dtype.fields:
            raise ValueError(f"a structured array, {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
        return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)
    except UserError:
        raise
    except OSError as e:
        raise UserError(f"{name}: {e.strerror or e}") from None
    except (ValueError, EOFError, MemoryError) as e:
        reason = str(e).splitlines()[0] if str(e) else "empty"
        raise UserError(f"{name}: not a NumPy array ({reason})") from None


class _RefusedError(Exception):
    pass


def _check_memo(stream: IO[bytes]) -> None:
    """Refuses a pickle that numbers its objects far beyond their count.

    Python's unpickler keeps a table as long as the largest number: seven bytes can take 68 GB.
    """
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream), start=1):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument not in range(count + 1):
            raise _RefusedError(f"a table of {argument} objects")
    stream.seek(start)


class _Unpickler(pickle.Unpickler):
    admitted: Mapping[tuple[str, str], Any]
    outside: Callable[[Any], Any] | None

    # Overriding these two methods is the standard library's way of restricting globals.
    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        if self.outside is None:
            raise _RefusedError(f"an outside object ({pid!r:.40})")
        return self.outside(pid)


class _Dtype:
    """Stands for np.dtype while unpickling: plain dtypes only."""

    __slots__ = ("real",)

    def __init__(self, spec: Any, align: Any = False, copy: Any = True):
        # NumPy's own parser also takes lists of types and evaluates the numbers in them.
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            raise _RefusedError(f"the dtype {spec!r:.40}")
        self.real = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        _, order, *nested = state
        if any(field is not None for field in nested[:3]):
            raise _RefusedError("a structured dtype")
        if order in ("<", ">"):
            self.real = self.real.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose state is checked before NumPy sees it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        if not isinstance(dtype, _Dtype):
            raise _RefusedError("an array without a dtype")
        wanted = list if dtype.real.hasobject else (bytes, bytearray, str)
        if not isinstance(content, wanted):
            raise _RefusedError("an array whose content does not fit its dtype")
        # NumPy's types leave out str and bytearray, which older pickles hold.
        state = (1, shape, dtype.real, bool(fortran_order), content)
        super().__setstate__(state)  # type: ignore[arg-type]


def _reconstruct(subtype: type, shape: tuple, kind: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise _RefusedError(f"an array subclass ({subtype!r:.40})")
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    if dtype.real.hasobject:
        raise _RefusedError("a scalar of objects")
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype.real, 1)[0]


def _frombuffer(
    content: bytes, dtype: _Dtype, shape: tuple, order: Literal["C", "F"]
) -> np.ndarray:
    if dtype.real.hasobject:
        raise _RefusedError("a buffer of objects")
    return np.frombuffer(content, dtype.real).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):  # other codecs may be programs too
        raise _RefusedError(f"the codec {encoding!r:.40}")
    return text.encode("latin1")


# Numbers, text and objects; structured arrays and dates are left out.
_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufcSUO][0-9]{0,9}")
_BUILTINS = (set, frozenset, list, tuple, dict, bytes, bytearray, str, int, float, bool, complex)
_NDARRAY = object()  # a name to compare with, not a class to call
_ADMITTED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
}
for _module in ("builtins", "__builtin__"):
    _ADMITTED |= {(_module, kind.__name__): kind for kind in _BUILTINS}
_ADMITTED["__builtin__", "unicode"] = str
_ADMITTED["__builtin__", "long"] = int
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED |= {
        (f"{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _frombuffer,
    }
