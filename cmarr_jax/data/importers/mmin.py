"""The format of MMIN and its forks (IF-MMIN, CIF-MMIN, NMER, GCNet's baselines).

    FEATURES/A/comparE.h5  V/denseface.h5  L/bert_large.h5    id -> [T, D]
    FEATURES/A/[NAME/]CV/{trn,val,tst}.npy                    older: rows beside the labels
    TARGET/CV/{trn,val,tst}_label.npy                         [N], or one-hot [N, C]
    TARGET/CV/{trn,val,tst}_int2name.npy                      [N] ids, or [N, k] with ids first

CV counts folds: any one of them names all utterances. Source: https://github.com/AIM3-RUC/MMIN.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers import pickles, stores
from cmarr_jax.data.importers.assemble import Archive, unread
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError

_FOLDERS = {"text": "L", "speech": "A", "video": "V"}
_SPLITS = {"trn": "train", "val": "val", "tst": "test"}


def read(
    features: str,
    target: str,
    *,
    cv: str = "1",
    names: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    polarity: str = "",
) -> Archive:
    """Reads one fold's labels and the features of all its utterances.

    Args:
      features: the folder with `A`, `V` and `L`, or with some of them.
      target: the folder with one folder a fold.
      cv: the fold whose split becomes the pack's split column.
      names: modality -> name of its features, `comparE` for `A/comparE.h5`; a modality that is
        not named takes the only file of its folder, and is left out if there is no folder.
      classes: see `labels.to_classes`.
      polarity: see `labels.to_classes`; "" = labels are classes.

    Raises:
      UserError: a file is missing or contradicts another.
    """
    ids, values, split, lines = _read_target(target, cv)
    where = os.path.join(target, cv)
    labels, class_names = to_classes(values, where, classes=classes, polarity=polarity)
    opened = {}
    for modality, folder in _FOLDERS.items():
        chosen = (names or {}).get(modality, "")
        path, others = _features_path(os.path.join(features, folder), chosen, cv, modality)
        lines += unread(f"{stores.short(features)}/{folder}: entries", others)
        if path and path.endswith(".h5"):
            opened[modality] = stores.open_store(path)
        elif path:
            opened[modality] = _rows(path, target, cv)
    if not opened:
        raise UserError(f"{features}: has none of the folders A, V and L")
    lines += unread(
        f"{stores.short(features)}: entries", {*os.listdir(features)} - {*_FOLDERS.values()}
    )
    return Archive(
        ids,
        labels,
        class_names,
        opened,
        {"split": split},
        {
            "layout": "mmin",
            "cv": cv,
            "features": {m: stores.short(s.path) for m, s in opened.items()},
        },
        tuple(lines),
    )


def _read_target(target: str, cv: str) -> tuple[list[str], np.ndarray, list[str], list[str]]:
    """Ids, labels and split of one fold; and what of its folder is not read, a line each."""
    folder = os.path.join(target, cv)
    if not os.path.isdir(folder):
        found = sorted(os.listdir(target)) if os.path.isdir(target) else []
        raise UserError(
            f"{folder}: no such folder; {target} holds {', '.join(found[:20]) or 'nothing'}: "
            "choose one with --cv"
        )
    by_split = {s: _read_split(folder, s) for s in _SPLITS}
    known = {f"{s}_{name}.npy" for s in _SPLITS for name in ("label", "int2name")}
    lines = unread(f"{stores.short(target)}/{cv}: files", {*os.listdir(folder)} - known)
    if sorted(by_split["val"][0]) == sorted(by_split["tst"][0]):
        del by_split["val"]  # GCNet writes the test part twice; ours must not validate on it
        repeated = len(by_split["tst"][0])
        lines.append(
            f"{stores.short(target)}/{cv}: val repeats tst, {repeated} utterances left out"
        )
    ids: list[str] = []
    split: list[str] = []
    for name, (of_split, _) in by_split.items():
        ids += of_split
        split += [_SPLITS[name]] * len(of_split)
    if len(set(ids)) < len(ids):
        twice = next(i for k, i in enumerate(ids) if i in ids[:k])
        raise UserError(f"{folder}: {twice!r} is in two of its parts or twice in one")
    values = [v for _, v in by_split.values() if len(v)]
    if not values:
        raise UserError(f"{folder}: its label files are empty")
    return ids, np.concatenate(values), split, lines


def _read_split(folder: str, split: str) -> tuple[list[str], np.ndarray]:
    label_file = os.path.join(folder, f"{split}_label.npy")
    name_file = os.path.join(folder, f"{split}_int2name.npy")
    values, names = pickles.load_npy(label_file), pickles.load_npy(name_file)
    if values.dtype == object:
        values = values_lib.numbers(values, label_file)
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
        raise UserError(f"{label_file}: {values.dtype} {values.shape}, wanted class indices")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        if not (np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all()):
            raise UserError(f"{label_file}: wanted class indices or one-hot rows")
        values = values.argmax(axis=1)
    if names.ndim == 2 and names.shape[1]:
        names = names[:, 0]
    if names.ndim != 1 or not all(isinstance(n, str | bytes) for n in names.tolist()):
        raise UserError(f"{name_file}: {names.dtype} {names.shape}, wanted one id a row")
    if len(names) != len(values):
        raise UserError(f"{name_file}: {len(names)} ids, but {label_file} has {len(values)} labels")
    return [n.decode() if isinstance(n, bytes) else n for n in names.tolist()], values


def _features_path(folder: str, name: str, cv: str, modality: str) -> tuple[str | None, list[str]]:
    """The .h5 file, or the folder with trn.npy, None if the modality is not there; and the
    entries beside it.
    """
    if not os.path.isdir(folder):
        if name:
            raise UserError(f"{folder}: no such folder, so no --{modality}={name}")
        return None, []
    candidates = {}
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if entry.endswith(".h5") and not entry.endswith("_mean_std.h5") and entry[0] != ".":
            candidates[entry.removesuffix(".h5")] = path
        elif os.path.isfile(os.path.join(path, cv, "trn.npy")):
            candidates[entry] = os.path.join(path, cv)
        elif entry == cv and os.path.isfile(os.path.join(path, "trn.npy")):
            candidates["npy"] = path
    if not name and len(candidates) == 1:
        name = next(iter(candidates))
    if name not in candidates:
        if not candidates:
            raise UserError(
                f"{folder}: holds neither an .h5 file nor {cv}/trn.npy; wanted features there, or "
                "no such folder"
            )
        listed = ", ".join(candidates)
        raise UserError(f"{folder}: holds {listed}; choose one with --{modality}=NAME")
    own = {name, f"{name}.h5", f"{name}_mean_std.h5"} | ({cv} if name == "npy" else set())
    return candidates[name], sorted({*os.listdir(folder)} - own)


def _rows(folder: str, target: str, cv: str) -> stores.Store:
    """Arrays `[N, T, D]` or `[N, D]` a split, in the order of the label file."""
    place: dict[str, tuple[np.ndarray, int]] = {}
    for split in _SPLITS:
        file = os.path.join(folder, f"{split}.npy")
        ids, _ = _read_split(os.path.join(target, cv), split)
        array = stores.load_rows(file)
        if len(array) != len(ids):
            raise UserError(f"{file}: {len(array)} rows, but {split}_label.npy has {len(ids)}")
        place |= {i: (array, k) for k, i in enumerate(ids)}
    return stores.Store(folder, frozenset(place), lambda i: place[i][0][place[i][1]], [])
