"""Features looked up by utterance id: an .h5 file, a folder of .npy files, an .npz archive."""

import os
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cmarr_jax.data import values
from cmarr_jax.data.importers import pickles
from cmarr_jax.errors import UserError


class Store(NamedTuple):
    """Arrays by id; the file stays open, nothing is held in memory."""

    path: str
    ids: frozenset[str]
    read: Callable[[str], np.ndarray]  # of an id that is in `ids`
    unread: list[str]  # what lies there and is no features; `read` adds what it finds


def open_store(path: str) -> Store:
    """Opens what lies at `path`.

      .h5, .hdf5   one dataset an id, or one group an id that holds a dataset `feat`
      .npz         one array an id
      a folder     ID.npy, or a folder ID with one .npy a frame, stacked in the order of names

    Raises:
      UserError: nothing is there, or nothing that is known; `read` raises it for a bad array.
    """
    if os.path.isdir(path):
        return _folder(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    if path.endswith((".h5", ".hdf5")):
        return _hdf5(path)
    if path.endswith(".npz"):
        archive = open_npz(path)
        return Store(
            path,
            frozenset(archive),
            lambda i: values.numbers(archive[i](), f"{path}: {i!r}"),
            [],
        )
    raise UserError(f"{path}: wanted an .h5 or .npz file, or a folder of .npy files")


def short(path: str) -> str:
    """The last name of a path, for a pack's provenance: where it lay says nothing elsewhere."""
    return os.path.basename(os.path.normpath(path))


def open_npz(path: str) -> dict[str, Callable[[], np.ndarray]]:
    """The arrays of an .npz archive by name, each read when it is called for.

    Arrays of objects are admitted as `pickles.load_npy` admits them.

    Raises:
      UserError: no such file, or no .npz archive.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from None
    except Exception:  # zipfile raises anything on a damaged file
        raise UserError(f"{path}: no .npz archive") from None

    def reader(member: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            try:
                with archive.open(member) as f:
                    return pickles.load_npy(f, f"{path}: {member.removesuffix('.npy')!r}")
            except UserError:
                raise
            except Exception as e:  # zlib, lzma and zipfile have their own
                reason = (str(e).splitlines() or [type(e).__name__])[0]
                raise UserError(f"{path}: {member!r} is damaged ({reason})") from None

        return read

    return {m.removesuffix(".npy"): reader(m) for m in archive.namelist()}


def _hdf5(path: str) -> Store:
    try:
        import h5py
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: reading HDF5 needs h5py; pip install -r requirements-extract.txt"
        ) from None
    unread: list[str] = []
    try:
        file = h5py.File(path, "r")
        ids = frozenset(file)
    except Exception as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"{path}: no HDF5 file ({reason})") from None

    def read(i: str) -> np.ndarray:
        try:
            entry = file[i]
            if isinstance(entry, h5py.Group):
                if "feat" not in entry:
                    raise UserError(f"{path}: {i!r} is a group without a dataset 'feat'")
                unread.extend(f"{i}/{name}" for name in entry if name != "feat")
                entry = entry["feat"]
            array = entry[()]
        except UserError:
            raise
        except Exception as e:  # of a damaged file HDF5 makes KeyError, RuntimeError and others
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise UserError(f"{path}: {i!r} is damaged ({reason})") from None
        return values.numbers(array, f"{path}: {i!r}")

    return Store(path, ids, read, unread)


def _folder(path: str) -> Store:
    entries: dict[str, str] = {}
    unread: list[str] = []
    with os.scandir(path) as scan:
        for entry in scan:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                entries.setdefault(entry.name, entry.path)
            elif entry.name.endswith(".npy"):
                entries[entry.name.removesuffix(".npy")] = entry.path
            else:
                unread.append(entry.name)
    unread.sort()
    if not entries:
        raise UserError(f"{path}: holds neither .npy files nor folders of them")

    def read(i: str) -> np.ndarray:
        if not os.path.isdir(entries[i]):
            return values.numbers(pickles.load_npy(entries[i]), entries[i])
        frames = frames_of(entries[i])
        others = {f for f in os.listdir(entries[i]) if not f.startswith(".")} - {*frames}
        unread.extend(f"{i}/{f}" for f in sorted(others))
        return stack_frames(entries[i], frames)

    return Store(path, frozenset(entries), read, unread)


def frames_of(folder: str) -> list[str]:
    """The .npy files of one utterance's folder, in the order of their names."""
    return sorted(f for f in os.listdir(folder) if f.endswith(".npy") and not f.startswith("."))


def stack_frames(folder: str, files: list[str]) -> np.ndarray:
    """One vector a file -> `[T, D]`; `[0, 0]` without files."""
    paths = [os.path.join(folder, f) for f in files]
    vectors = [np.ravel(values.numbers(pickles.load_npy(p), p)) for p in paths]
    for p, vector in zip(paths, vectors, strict=True):
        if len(vector) != len(vectors[0]):
            raise UserError(
                f"{p}: {len(vector)} numbers, wanted {len(vectors[0])} as in {paths[0]}"
            )
    return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)


def load_rows(file: str) -> np.ndarray:
    """A numeric array of at least two axes from a .npy file, memory-mapped.

    Raises:
      UserError: no such file, or no such array.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    except (ValueError, EOFError):
        array = values.numbers(pickles.load_npy(file), file)
    if array.dtype.kind not in "fiub" or array.ndim < 2:
        raise UserError(f"{file}: {array.dtype} {array.shape}, wanted numbers, one row an id")
    return array


def of_rows(path: str, ids: Sequence[str], array: np.ndarray | Sequence[np.ndarray]) -> Store:
    """A store over `array` `[N, D]` or `[N, T, D]`, whose rows stand in the order of `ids`.

    Raises:
      UserError: their numbers differ.
    """
    if len(array) != len(ids):
        raise UserError(f"{path}: {len(array)} rows, wanted {len(ids)}, one an utterance")
    row = {i: k for k, i in enumerate(ids)}
    return Store(path, frozenset(row), lambda i: array[row[i]], [])
