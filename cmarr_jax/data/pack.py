"""The feature pack: a folder of NumPy arrays and one CSV file, readable without this library.

    utterances.csv      id,session,speaker,label[,split,group,text,start,end]
    pack.json           format version, corpus name, classes, modalities, dims, provenance
    MODALITY.npy        float16 or float32, [sum of lengths, D]
    MODALITY.offsets.npy  int64, [N + 1]; utterance i owns rows offsets[i]:offsets[i + 1]

Zero rows mean that the utterance lacks this modality. One vector per utterance is length 1.

    python -m cmarr_jax.data describe PACK    what is inside
    python -m cmarr_jax.data validate PACK    whether it can be trusted
"""

import hashlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.data import manifest as manifest_lib
from cmarr_jax.data import utterances, values
from cmarr_jax.data.utterances import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import draft, to_csv

_CHUNK_ROWS = 65_536


class Pack(NamedTuple):
    """A validated feature pack of N utterances; the features stay on disk, memory-mapped."""

    path: str
    name: str
    class_names: tuple[str, ...]
    columns: dict[str, np.ndarray]  # column name -> [N] str
    labels: np.ndarray  # [N] int32, index into class_names; -1 = unlabelled
    features: dict[str, np.ndarray]  # modality -> [sum_T, D]
    offsets: dict[str, np.ndarray]  # modality -> [N + 1]
    provenance: dict[str, Any]
    stamps: dict[str, tuple]  # file -> size and time of its last change when it was read

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the manifest's order."""
        return tuple(self.features)

    def sequence(self, modality: str, i: int) -> np.ndarray:
        """Features of utterance `i`, `[T_i, D]`; `T_i = 0` if it lacks this modality."""
        start, stop = self.offsets[modality][i : i + 2].tolist()
        return _rows(self.features[modality], start, stop)


def read(path: str) -> Pack:
    """Reads the pack in folder `path` and checks every statement that it makes.

    Raises:
      UserError: the folder is no pack or contradicts itself; names the file and the row.
    """
    stamps = {os.path.join(path, "pack.json"): _stamp(os.path.join(path, "pack.json"))}
    manifest = manifest_lib.read(path)
    files = [os.path.join(path, name) for name in _files(manifest["modalities"])]
    stamps = {file: _stamp(file) for file in files} | stamps
    table = os.path.join(path, "utterances.csv")
    columns = utterances.read(table)
    class_names = tuple(manifest["classes"])
    labels = utterances.label_indices(table, columns["label"], class_names)
    features, offsets = {}, {}
    for modality in manifest["modalities"]:
        features[modality], offsets[modality] = _read_modality(
            path, modality, manifest["dims"][modality], len(labels)
        )
    lengths = np.sum([np.diff(o) for o in offsets.values()], axis=0)
    if (lengths == 0).any():
        i = int(np.argmin(lengths))
        raise UserError(
            f"{table}: row {i + 2}, {str(columns['id'][i])!r}, has no row in any modality; "
            "give it at least one or leave it out"
        )
    pack = Pack(
        path,
        manifest["corpus"],
        class_names,
        columns,
        labels,
        features,
        offsets,
        manifest["provenance"],
        stamps,
    )
    check_unchanged(pack)
    return pack


def check_unchanged(pack: Pack) -> None:
    """Refuses a pack whose files are not those that `read` began to read.

    What reads features calls this when it has them all, before anything is made of them.

    Raises:
      UserError: names the file that was written, replaced or removed since.
    """
    for file, stamp in pack.stamps.items():
        if _stamp(file) != stamp:
            raise UserError(
                f"{file}: changed while it was read; wait until nothing writes it any more and "
                "run the same command again"
            )


def write(
    path: str,
    *,
    name: str,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence | np.ndarray],
    sequences: Mapping[str, Iterable],
    provenance: Mapping[str, Any],
) -> Pack:
    """Writes a pack to the new folder `path`; the folder appears whole or not at all.

    Missing and odd values are taken as docs/packs.md says; what that changed is counted on
    standard error and in the provenance, under `changed`.

    Args:
      path: a folder that does not exist yet.
      name: the corpus' name, as it will stand in every results file.
      class_names: the classes in the order of their indices.
      columns: column name -> N values; `id`, `session`, `speaker` and `label` are needed.
      sequences: modality -> N arrays `[T_i, D]` of numbers, or None; `T_i = 0` = absent. Float16
        is kept, all else becomes float32.
      provenance: how the features were made; kept in pack.json. It is read after `sequences`.

    Returns:
      The pack, read back and validated.

    Raises:
      UserError: `path` exists, or what was given is not a valid pack.
    """
    if os.path.exists(path):
        raise UserError(f"{path}: exists already; name a new folder or remove it first")
    _check_given(path, columns, sequences)
    try:
        with draft(path.rstrip("/")) as folder:
            os.makedirs(folder)
            class_names = [values.text(c) for c in class_names]
            table, changed = utterances.texts(path, columns, class_names)
            num = len(table["id"])
            dims = {}
            for modality, arrays in sequences.items():
                dims[modality], said = _write_modality(folder, modality, arrays, num)
                changed += said
            rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            with open(os.path.join(folder, "utterances.csv"), "wb") as f:
                f.write(to_csv(rows, table).encode())
            kept = dict(provenance)
            if said := [*kept.pop("changed", ()), *changed]:
                kept["changed"] = said
            manifest = {
                "format_version": manifest_lib.FORMAT_VERSION,
                "corpus": name,
                "classes": class_names,
                "modalities": list(dims),
                "dims": dims,
                "provenance": kept,
            }
            # Every byte counts for the fingerprint, so the form of this file never changes.
            with open(os.path.join(folder, "pack.json"), "w", encoding="utf-8") as f:
                json.dump(manifest, f, indent=2)
            try:
                read(folder)
            except UserError as e:
                raise UserError(str(e).replace(folder, path)) from None
    except OSError as e:
        reason = e.strerror or e
        raise UserError(
            f"{path}: cannot be written ({reason}); make room, or name a folder where you may write"
        ) from None
    except UnicodeEncodeError as e:
        raise UserError(f"{path}: a column holds what UTF-8 cannot write ({e.reason})") from None
    for line in changed:
        print(f"note: {path}: {line}", file=sys.stderr)
    return read(path)


def _check_given(
    path: str, columns: Mapping[str, Sequence[str] | np.ndarray], sequences: Mapping
) -> None:
    """What must hold before the first file is written."""
    unknown = set(columns) - set(REQUIRED_COLUMNS) - set(OPTIONAL_COLUMNS)
    absent = set(REQUIRED_COLUMNS) - set(columns)
    if unknown or absent:
        raise UserError(
            f"{path}: columns are {','.join(columns)}; wanted {','.join(REQUIRED_COLUMNS)} and "
            f"any of {','.join(OPTIONAL_COLUMNS)}"
        )
    for column, given in columns.items():
        if len(given) != len(columns["id"]):
            raise UserError(
                f"{path}: column {column} has {len(given)} values, wanted {len(columns['id'])}, "
                "one an id"
            )
    if not sequences:
        raise UserError(f"{path}: no modality given; wanted one or more")
    for modality in sequences:
        manifest_lib.check_modality(path, modality)


def fingerprint(pack: Pack) -> str:
    """Hash of everything that the pack's files say, 16 hex digits."""
    return fingerprint_at(pack.path)


def fingerprint_at(path: str) -> str:
    """The same of the pack in a folder, of which pack.json alone is checked.

    Raises:
      UserError: it is no pack, or a file is missing.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in _files(manifest_lib.read(path)["modalities"]):
        with open(os.path.join(path, name), "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _files(modalities: Iterable[str]) -> list[str]:
    arrays = [f"{m}{end}" for m in modalities for end in (".npy", ".offsets.npy")]
    return ["pack.json", "utterances.csv", *arrays]


def _stamp(file: str) -> tuple:
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _rows(features: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of a memory-mapped array, read from its file.

    Where somebody cuts the file short meanwhile, a touch of the map would end the process without
    a word.
    """
    if not isinstance(features, np.memmap) or not features.flags.c_contiguous:
        return features[start:stop]
    file = str(features.filename)
    width = features.shape[1]
    offset = features.offset + start * width * features.itemsize
    try:
        rows = np.fromfile(file, features.dtype, (stop - start) * width, offset=offset)
    except OSError as e:
        raise UserError(f"{file}: cannot be read any more ({e.strerror})") from None
    if len(rows) < (stop - start) * width:
        raise UserError(f"{file}: ends before row {stop}; it was cut short meanwhile")
    return rows.reshape(-1, width)


def _load_array(file: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # a size that a damaged header gives is refused next
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{file}: missing") from None
    except Exception as e:  # a damaged header can raise anything
        reason = str(e).splitlines()[0] if str(e) else "empty"
        raise UserError(f"{file}: not a plain NumPy array ({reason})") from None
    if not isinstance(array, np.memmap):
        kind = type(array).__name__
        raise UserError(f"{file}: found a {kind}, wanted one array as np.save writes it")
    if (more := os.path.getsize(file) - array.offset - array.nbytes) > 0:
        raise UserError(
            f"{file}: goes on for {more} bytes after its array of shape {array.shape}; "
            "write it again"
        )
    return array


def _read_modality(
    path: str, modality: str, dim: int, num_utterances: int
) -> tuple[np.ndarray, np.ndarray]:
    file = os.path.join(path, f"{modality}.npy")
    features = _load_array(file)
    if features.dtype not in (np.dtype("<f2"), np.dtype("<f4")):
        raise UserError(f"{file}: dtype is {features.dtype.str}, wanted '<f2' or '<f4'")
    if features.ndim != 2 or features.shape[1] != dim:
        raise UserError(f"{file}: shape is {features.shape}, wanted (rows, {dim})")
    offsets_file = os.path.join(path, f"{modality}.offsets.npy")
    offsets = np.asarray(_load_array(offsets_file))
    if offsets.dtype != np.dtype("<i8") or offsets.shape != (num_utterances + 1,):
        raise UserError(
            f"{offsets_file}: found {offsets.dtype.str} of shape {offsets.shape}, "
            f"wanted '<i8' of shape ({num_utterances + 1},)"
        )
    if offsets[0] != 0 or offsets[-1] != len(features):
        raise UserError(
            f"{offsets_file}: runs from {offsets[0]} to {offsets[-1]}, "
            f"wanted 0 to {len(features)}, the rows of {modality}.npy"
        )
    back = offsets[1:] < offsets[:-1]  # their difference could wrap around
    if back.any():
        entry = int(np.argmax(back)) + 1
        raise UserError(
            f"{offsets_file}: goes back at entry {entry}, from {offsets[entry - 1]} to "
            f"{offsets[entry]} (utterances.csv row {entry + 1})"
        )
    for start in range(0, len(features), _CHUNK_ROWS):
        rows = _rows(features, start, min(start + _CHUNK_ROWS, len(features)))
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            utterance = int(np.searchsorted(offsets, row, side="right"))  # csv rows start at 2
            raise UserError(
                f"{file}: row {row} (utterances.csv row {utterance + 1}) has a NaN or infinity; "
                "repair it or give this utterance zero rows"
            )
    return features, offsets


def _write_modality(
    folder: str, modality: str, arrays: Iterable, num: int
) -> tuple[int, list[str]]:
    """Streams the arrays to disk, never holding more than one.

    Returns:
      Their width; and what was changed, see `values.finite`.
    """
    offsets, width, dtype, dtype_of_none = [0], None, None, None
    missing = zeroed = dropped = 0
    raw = os.path.join(folder, f"{modality}.raw")
    with open(raw, "wb") as f:
        for i, given in enumerate(arrays):
            where = f"modality {modality}, utterance {i}"
            try:
                array = values.sequence(given, where)
            except UserError as e:
                raise UserError(
                    f"{e}; a missing modality is None or np.zeros((0, dims), np.float32)"
                ) from None
            missing += not hasattr(given, "__len__")
            of_array = values.stored(array)
            if not len(array):
                dtype_of_none = dtype_of_none or of_array
            elif dtype is None:
                dtype = of_array
            if width is None and array.shape[1]:
                width = array.shape[1]
            if array.shape[1] not in (0, width) or (len(array) and of_array != dtype):
                raise UserError(
                    f"{where}: found {array.dtype} {array.shape}, "
                    f"wanted {dtype} (rows, {width}) as before"
                )
            kept = values.finite(array, of_array)
            zeroed, dropped = zeroed + kept.zeroed, dropped + kept.dropped
            f.write(np.ascontiguousarray(kept.rows).tobytes())
            offsets.append(offsets[-1] + len(kept.rows))
    dtype = dtype or dtype_of_none
    if width is None and len(offsets) == num + 1:
        raise UserError(f"modality {modality}: no utterance has it; leave it out")
    if len(offsets) != num + 1 or width is None:
        raise UserError(f"modality {modality}: {len(offsets) - 1} arrays, wanted {num}, one an id")
    with open(os.path.join(folder, f"{modality}.npy"), "wb") as f, open(raw, "rb") as body:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (offsets[-1], width),
        }
        np.lib.format.write_array_header_1_0(f, header)
        shutil.copyfileobj(body, f, 1 << 22)
    os.remove(raw)
    np.save(os.path.join(folder, f"{modality}.offsets.npy"), np.array(offsets, np.int64))
    said = values.Finite(np.zeros((0, width), dtype), zeroed, dropped).said
    lacking = f"{missing} utterances without an array lack it" if missing else ""
    return width, [f"{modality}: {line}" for line in (said, lacking) if line]


if __name__ == "__main__":  # the older name of the command
    runpy.run_module("cmarr_jax.data", run_name="__main__", alter_sys=True)
