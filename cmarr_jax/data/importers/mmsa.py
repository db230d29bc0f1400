"""The pickles of MMSA (CMU-MOSI, CMU-MOSEI, CH-SIMS and what others save in the same shape).

    {"train": {...}, "valid": {...}, "test": {...}}, each with
      id                            N names, VIDEO$_$CLIP
      text, audio, vision           [N, T, D], padded with zeros, or [N, D]
      text_bert                     [N, 3, T]: token ids, mask, segments
      audio_lengths, vision_lengths [N], in unaligned files
      regression_labels, annotations, classification_labels, raw_text

Source: https://github.com/thuiar/MMSA.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmarr_jax.data.importers import naming, pickles, stores
from cmarr_jax.data.importers.assemble import Archive
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_KEYS = {"text": "text", "speech": "audio", "video": "vision"}
_LABELS = ("annotations", "classification_labels")


def read(
    file: str,
    *,
    polarity: str = "",
    label_key: str = "annotations",
    classes: Sequence[str] = (),
) -> Archive:
    """Reads a pickle without running it, see `pickles`.

    As MMSA does, infinities and NaN become 0. The video is the group, and the speaker too
    unless ids name one; the split is the session.

    Args:
      file: path of the pickle.
      polarity: makes two classes of `regression_labels`, see `labels.to_classes`; "" = takes
        `label_key`.
      label_key: `annotations` (names) or `classification_labels` (integers).
      classes: see `labels.to_classes`.

    Raises:
      UserError: the file is refused, or not of this format.
    """
    if label_key not in _LABELS:
        raise UserError(f"--label-key={label_key}: wanted one of {', '.join(_LABELS)}")
    content = pickles.load(file)
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file}: found {found!r:.80}, wanted a dict with train, valid and test")
    parts = {name: content[key] for key, name in _SPLITS.items() if content.get(key)}
    ids, split = [], []
    for name, part in parts.items():
        of_part = [_identifier(i) for i in _field(part, "id", f"{file}, {name}")]
        ids += of_part
        split += [name] * len(of_part)
    key = "regression_labels" if polarity else label_key
    values = [v for name, part in parts.items() for v in _field(part, key, f"{file}, {name}")]
    where = f"{file}: {key}"
    if len(values) != len(ids):
        raise UserError(f"{where}: {len(values)} labels, wanted {len(ids)}, one an id")
    labels, class_names = to_classes(values, where, classes=classes, polarity=polarity)
    replaced = {}
    opened = {}
    for modality in _KEYS:
        if all(_KEYS[modality] in part for part in parts.values()):
            sequences, replaced[modality] = _sequences(file, parts, modality)
            opened[modality] = stores.of_rows(f"{file}: {_KEYS[modality]}", ids, sequences)
    if not opened:
        raise UserError(f"{file}: has none of {', '.join(_KEYS.values())}; wanted features")
    videos = [i.split("$_$")[0] for i in ids]
    columns = {"split": split, "group": videos}
    if any(naming.parse(i) is None for i in ids):
        columns |= {"session": split, "speaker": videos}
    if all("raw_text" in part for part in parts.values()):
        columns["text"] = [str(t) for part in parts.values() for t in part["raw_text"]]
    return Archive(
        ids,
        labels,
        class_names,
        opened,
        columns,
        {
            "layout": "mmsa",
            "file": stores.short(file),
            "labels": key,
            "polarity": polarity,
            "non_finite_set_to_0": replaced,
        },
    )


def _identifier(value: Any) -> str:
    names = value if isinstance(value, list | tuple | np.ndarray) else [value]
    names = np.asarray(names).ravel().tolist()
    return "$_$".join(n.decode() if isinstance(n, bytes) else str(n) for n in names)


def _field(part: Any, key: str, where: str) -> Sequence:
    if not isinstance(part, dict) or key not in part:
        found = ", ".join(map(str, part)) if isinstance(part, dict) else type(part).__name__
        hint = "; for a score of sentiment give --polarity=has0 or non0" if key in _LABELS else ""
        raise UserError(f"{where}: has no {key!r} (found {found:.120}){hint}")
    return part[key]


def _sequences(file: str, parts: dict[str, dict], modality: str) -> tuple[list[np.ndarray], int]:
    """N arrays without the padding that the file marks, and how many numbers became 0."""
    key = _KEYS[modality]
    sequences: list[np.ndarray] = []
    replaced = 0
    for name, part in parts.items():
        where = f"{file}, {name}: {key}"
        array = np.asarray(part[key])
        if array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
            raise UserError(f"{where}: {array.dtype} {array.shape}, wanted [N, T, D] or [N, D]")
        if len(array) != len(part["id"]):
            raise UserError(f"{where}: {len(array)} rows, wanted {len(part['id'])}, one an id")
        if array.ndim == 2:
            array = array[:, None]
        if modality == "text" and "text_bert" in part:
            mask = np.asarray(part["text_bert"])
            lengths = mask[:, 1].sum(axis=1) if mask.ndim == 3 and mask.shape[1] == 3 else None
        else:
            lengths = part.get(f"{key}_lengths")
        lengths = [array.shape[1]] * len(array) if lengths is None else np.ravel(lengths)
        if len(lengths) != len(array):
            raise UserError(f"{where}: {len(lengths)} lengths for {len(array)} utterances")
        for row, length in zip(array, lengths, strict=True):
            row = row[: int(length)]
            odd = ~np.isfinite(row)
            replaced += int(odd.sum())
            sequences.append(np.where(odd, 0, row) if odd.any() else row)
    return sequences, replaced
