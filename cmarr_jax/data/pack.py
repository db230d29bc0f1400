"""The feature pack: a folder of NumPy arrays and one CSV file, readable without this library.

    utterances.csv      id,session,speaker,label[,split,group,text,start,end]
    pack.json           format version, corpus name, classes, modalities, dims, provenance
    MODALITY.npy        float16 or float32, [sum of lengths, D]
    MODALITY.offsets.npy  int64, [N + 1]; utterance i owns rows offsets[i]:offsets[i + 1]

Zero rows mean that the utterance lacks this modality. One vector per utterance is length 1.

    python -m cmarr_jax.data.pack describe PACK    what is inside
    python -m cmarr_jax.data.pack validate PACK    whether it can be trusted
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.errors import UserError

FORMAT_VERSION = 1
REQUIRED_COLUMNS = ("id", "session", "speaker", "label")
OPTIONAL_COLUMNS = ("split", "group", "text", "start", "end")
SPLITS = ("train", "val", "test")
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

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.features)

    def sequence(self, modality: str, i: int) -> np.ndarray:
        """Features of utterance `i`, `[T_i, D]`; `T_i = 0` if it lacks this modality."""
        start, stop = self.offsets[modality][i : i + 2]
        return self.features[modality][start:stop]


def read(path: str) -> Pack:
    """Reads the pack in folder `path` and checks every statement that it makes.

    Raises:
      UserError: the folder is no pack or contradicts itself; names the file and the row.
    """
    manifest = _read_manifest(path)
    columns = _read_utterances(os.path.join(path, "utterances.csv"))
    num_utterances = len(columns["id"])
    class_names = tuple(manifest["classes"])
    labels = _label_indices(os.path.join(path, "utterances.csv"), columns["label"], class_names)
    features, offsets = {}, {}
    for modality in manifest["modalities"]:
        features[modality], offsets[modality] = _read_modality(
            path, modality, manifest["dims"][modality], num_utterances
        )
    lengths = sum(np.diff(o) for o in offsets.values())
    if (lengths == 0).any():
        culprit = str(columns["id"][np.argmin(lengths)])
        raise UserError(
            f"{path}: utterance {culprit!r} has no row in any modality; "
            "give it at least one or leave it out of utterances.csv"
        )
    return Pack(
        path,
        manifest["corpus"],
        class_names,
        columns,
        labels,
        features,
        offsets,
        manifest["provenance"],
    )


def write(
    path: str,
    *,
    name: str,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    sequences: Mapping[str, Iterable[np.ndarray]],
    provenance: Mapping[str, Any],
) -> Pack:
    """Writes a pack to the new folder `path`; the folder appears whole or not at all.

    Args:
      path: a folder that does not exist yet.
      name: the corpus' name, as it will stand in every results file.
      class_names: the classes in the order of their indices.
      columns: column name -> N values; `id`, `session`, `speaker` and `label` are needed.
      sequences: modality -> N arrays `[T_i, D]`, float16 or float32; `T_i = 0` = absent.
      provenance: how the features were made; kept in pack.json.

    Returns:
      The pack, read back and validated.

    Raises:
      UserError: `path` exists, or what was given is not a valid pack.
    """
    if os.path.exists(path):
        raise UserError(f"{path}: exists already; name a new folder or remove it first")
    unknown = set(columns) - set(REQUIRED_COLUMNS) - set(OPTIONAL_COLUMNS)
    if unknown:
        raise UserError(f"{path}: unknown columns {sorted(unknown)}; see {__name__}")
    draft = path.rstrip("/") + f".tmp{os.getpid()}"
    os.makedirs(draft)
    try:
        dims = {m: _write_modality(draft, m, arrays) for m, arrays in sequences.items()}
        with open(os.path.join(draft, "utterances.csv"), "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        manifest = {
            "format_version": FORMAT_VERSION,
            "corpus": name,
            "classes": list(class_names),
            "modalities": list(dims),
            "dims": dims,
            "provenance": dict(provenance),
        }
        with open(os.path.join(draft, "pack.json"), "w", encoding="utf-8") as f:
            json.dump(manifest, f, indent=2)
        try:
            read(draft)
        except UserError as e:
            raise UserError(str(e).replace(draft, path)) from None
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read(path)


def fingerprint(pack: Pack) -> str:
    """Hash of everything that the pack's files say, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    files = ["pack.json", "utterances.csv"]
    files += [f"{m}{end}" for m in pack.modalities for end in (".npy", ".offsets.npy")]
    for name in files:
        with open(os.path.join(pack.path, name), "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _read_manifest(path: str) -> dict[str, Any]:
    file = os.path.join(path, "pack.json")
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such folder; wanted a feature pack (a folder with pack.json)")
    try:
        with open(file, encoding="utf-8") as f:
            manifest = json.load(f)
    except FileNotFoundError:
        raise UserError(f"{file}: missing, so {path} is no feature pack") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{file}: not JSON ({e})") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{file}: found a {type(manifest).__name__}, wanted an object")
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        raise UserError(
            f"{file}: format_version is {version!r}, this library reads {FORMAT_VERSION}; "
            "make the pack again or change the library's version"
        )
    fields = {"corpus": str, "classes": list, "modalities": list, "dims": dict, "provenance": dict}
    for field, kind in fields.items():
        if not isinstance(manifest.get(field), kind):
            raise UserError(
                f"{file}: field {field!r} is {manifest.get(field)!r}, wanted a {kind.__name__}"
            )
    for field in ("classes", "modalities"):
        names = manifest[field]
        if not names or not all(isinstance(n, str) and n for n in names):
            raise UserError(f"{file}: {field!r} is {names!r}, wanted a list of non-empty names")
        if len(set(names)) < len(names):
            raise UserError(f"{file}: {field!r} has a name twice: {names!r}")
    for modality in manifest["modalities"]:
        if not modality.isidentifier():
            raise UserError(f"{file}: modality {modality!r} must be a plain word: it names a file")
        dim = manifest["dims"].get(modality)
        if not isinstance(dim, int) or dim < 1:
            raise UserError(f"{file}: dims[{modality!r}] is {dim!r}, wanted a positive integer")
    return manifest


def _read_utterances(file: str) -> dict[str, np.ndarray]:
    try:
        with open(file, newline="", encoding="utf-8") as f:
            rows = list(csv.reader(f))
    except FileNotFoundError:
        raise UserError(f"{file}: missing") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{file}: not a UTF-8 CSV file ({e})") from None
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    absent = [c for c in REQUIRED_COLUMNS if c not in header]
    unknown = [c for c in header if c not in REQUIRED_COLUMNS + OPTIONAL_COLUMNS]
    if absent or unknown or len(set(header)) < len(header):
        raise UserError(
            f"{file}: header is {','.join(header)!r}; wanted {','.join(REQUIRED_COLUMNS)} and "
            f"any of {','.join(OPTIONAL_COLUMNS)}, each once"
        )
    if not rows:
        raise UserError(f"{file}: has no utterance below its header")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{file}: row {number} has {len(row)} fields, wanted {len(header)}")
    columns = {c: np.array([row[k] for row in rows]) for k, c in enumerate(header)}
    seen: dict[str, int] = {}
    for number, identifier in enumerate(columns["id"].tolist(), start=2):
        if not identifier or not identifier.isprintable():
            raise UserError(f"{file}: row {number} has id {identifier!r}, wanted printable text")
        if identifier in seen:
            raise UserError(
                f"{file}: row {number} repeats the id {identifier!r} of row {seen[identifier]}"
            )
        seen[identifier] = number
    for column in ("session", "speaker"):
        if (columns[column] == "").any():
            number = int(np.argmax(columns[column] == "")) + 2
            raise UserError(f"{file}: row {number} has an empty {column}")
    if "split" in columns:
        for number, split in enumerate(columns["split"].tolist(), start=2):
            if split not in SPLITS:
                raise UserError(f"{file}: row {number} has split {split!r}, wanted one of {SPLITS}")
    return columns


def _label_indices(file: str, labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    index = {"": -1} | {name: k for k, name in enumerate(class_names)}
    for number, label in enumerate(labels.tolist(), start=2):
        if label not in index:
            raise UserError(
                f"{file}: row {number} has label {label!r}, which pack.json's classes "
                f"{list(class_names)} lack; leave it empty for an unlabelled utterance"
            )
    return np.array([index[label] for label in labels.tolist()], np.int32)


def _load_array(file: str) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{file}: missing") from None
    except (ValueError, EOFError, OSError) as e:
        reason = str(e).splitlines()[0] if str(e) else "empty"
        raise UserError(f"{file}: not a plain NumPy array ({reason})") from None


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
    if (np.diff(offsets) < 0).any():
        raise UserError(
            f"{offsets_file}: goes back at entry {int(np.argmin(np.diff(offsets))) + 1}"
        )
    for start in range(0, len(features), _CHUNK_ROWS):
        finite = np.isfinite(features[start : start + _CHUNK_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            utterance = int(np.searchsorted(offsets, row, side="right"))  # csv rows start at 2
            raise UserError(
                f"{file}: row {row} (utterances.csv row {utterance + 1}) has a NaN or infinity; "
                "repair it or give this utterance zero rows"
            )
    return features, offsets


def _write_modality(folder: str, modality: str, arrays: Iterable[np.ndarray]) -> int:
    """Streams the arrays to disk, never holding more than one, and returns their width."""
    offsets, width, dtype = [0], None, None
    raw = os.path.join(folder, f"{modality}.raw")
    with open(raw, "wb") as f:
        for i, array in enumerate(arrays):
            if width is None:
                width, dtype = array.shape[-1], array.dtype
            if array.ndim != 2 or array.shape[1] != width or array.dtype != dtype:
                raise UserError(
                    f"modality {modality}, utterance {i}: found {array.dtype} {array.shape}, "
                    f"wanted {dtype} (rows, {width}) as before"
                )
            f.write(np.ascontiguousarray(array).tobytes())
            offsets.append(offsets[-1] + len(array))
    if width is None:
        raise UserError(f"modality {modality}: no utterance given")
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
    return width


if __name__ == "__main__":
    from cmarr_jax.data import describe  # it imports this module, and only the command needs it

    sys.exit(describe.main(sys.argv[1:]))
