"""The pickles of MMSA (CMU-MOSI, CMU-MOSEI, CH-SIMS) and of MulT, MultiBench and their kind.

    {"train": {...}, "valid": {...}, "test": {...}}, each with
      id                            N names, VIDEO$_$CLIP, or rows of names that are joined so
      text, audio, vision           [N, T, D], padded, or [N, D], or N arrays [T_i, D]
      text_bert                     [N, 3, T]: token ids, mask, segments
      KEY_lengths                   [N], in unaligned files
      regression_labels or labels   [N] scores, read with --polarity or --label-key
      annotations, classification_labels, raw_text

Padding may stand behind or in front. Other parts and keys are counted, not read.
Source: https://github.com/thuiar/MMSA, https://github.com/yaohungt/Multimodal-Transformer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers import naming, pickles, stores
from cmarr_jax.data.importers.assemble import Archive, unread
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError

_SPLITS = {"train": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_SPLITS["validation"] = "val"
_KEYS = {"text": "text", "speech": "audio", "video": "vision"}
_CLASSES = ("annotations", "classification_labels")
_SCORES = ("regression_labels", "labels")


def read(
    file: str,
    *,
    polarity: str = "",
    label_key: str = "",
    classes: Sequence[str] = (),
) -> Archive:
    """Reads a pickle without running it, see `pickles`.

    What float32 cannot hold becomes 0. The video is the group, and the speaker too unless ids
    name one; the split is the session.

    Args:
      file: path of the pickle.
      polarity: makes two classes of a score, see `labels.to_classes`; "" = labels are classes.
      label_key: where labels are; "" = `annotations`, or with `polarity` `regression_labels`,
        else `labels`.
      classes: see `labels.to_classes`.

    Raises:
      UserError: the file is refused, or not of this format.
    """
    content = pickles.load(file)
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        hint = (
            "; a tuple of dicts by video is read by the format gcnet" if _is_gcnet(content) else ""
        )
        raise UserError(
            f"{file}: found {found!r:.80}, wanted a dict with train, valid and test{hint}"
        )
    parts = _parts(file, content)
    ids, split = [], []
    for name, part in parts.items():
        of_part = [_identifier(i) for i in _field(part, "id", f"{file}, {name}")]
        ids += of_part
        split += [name] * len(of_part)
    key = label_key or _label_key(file, parts, polarity)
    values = [v for name, part in parts.items() for v in _field(part, key, f"{file}, {name}")]
    where = f"{file}: {key}"
    if len(values) != len(ids):
        raise UserError(f"{where}: {len(values)} labels, wanted {len(ids)}, one an id")
    labels, class_names = to_classes(values, where, classes=classes, polarity=polarity)
    read_keys = {"id", key}
    replaced, opened, beyond = {}, {}, []
    for modality, of_modality in _KEYS.items():
        if all(of_modality in part for part in parts.values()):
            made = _sequences(file, parts, modality)
            opened[modality] = stores.of_rows(f"{file}: {of_modality}", ids, made.arrays)
            replaced[modality] = made.zeroed
            read_keys |= {of_modality, f"{of_modality}_lengths"}
            if modality == "text":
                read_keys |= {"text_bert"}
            if made.beyond:
                beyond.append(f"{modality}: {made.beyond} rows beyond their utterance's length cut")
    if not opened:
        raise UserError(f"{file}: has none of {', '.join(_KEYS.values())}; wanted features")
    videos = [i.split("$_$")[0] for i in ids]
    columns = {"split": split, "group": videos}
    if any(naming.parse(i) is None for i in ids):
        columns |= {"session": split, "speaker": videos}
    if all("raw_text" in part for part in parts.values()):
        columns["text"] = [values_lib.text(t) for part in parts.values() for t in part["raw_text"]]
        read_keys |= {"raw_text"}
    keys = {f"{name}.{k}" for name, part in parts.items() for k in part if k not in read_keys}
    others = {k for k, part in content.items() if not any(part is p for p in parts.values())}
    counted = {f"{k} of {_size(content[k])}" for k in others}
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
        (
            *unread(f"{stores.short(file)}: parts", counted),
            *unread(f"{stores.short(file)}: keys", keys),
            *_repaired(replaced),
            *beyond,
        ),
    )


def _is_gcnet(content: Any) -> bool:
    return isinstance(content, tuple | list) and len(content) in (6, 7)


def _parts(file: str, content: dict) -> dict[str, dict]:
    """Split -> what the file holds of it, empty parts left out."""
    parts: dict[str, dict] = {}
    for key, name in _SPLITS.items():
        part = content.get(key)
        if part is None or (hasattr(part, "__len__") and not len(part)):
            continue
        if name in parts:
            raise UserError(f"{file}: has two parts for {name}, {key!r} the second; remove one")
        parts[name] = part
    return {name: parts[name] for name in ("train", "val", "test") if name in parts}


def _size(part: Any) -> str:
    number = len(part["id"]) if isinstance(part, dict) and "id" in part else None
    return f"{number} utterances" if number is not None else type(part).__name__


def _repaired(replaced: dict[str, int]) -> list[str]:
    return [
        f"{m}: {n} numbers that float32 cannot hold count as 0" for m, n in replaced.items() if n
    ]


def _label_key(file: str, parts: dict[str, dict], polarity: str) -> str:
    """Where the labels are, if the user does not say so."""
    found = [k for k in (*_CLASSES, *_SCORES) if all(k in part for part in parts.values())]
    scores = [k for k in found if k in _SCORES]
    if polarity and scores:
        return scores[0]
    if not polarity and _CLASSES[0] in found:
        return _CLASSES[0]
    _, part = next(iter(parts.items()))
    listed = ", ".join(map(str, part)) if isinstance(part, dict) else type(part).__name__
    wanted = " or ".join(_SCORES) if polarity else _CLASSES[0]
    if _CLASSES[1] in found and not polarity:
        hint = f"give --label-key={_CLASSES[1]}"
    elif scores:
        hint = f"for classes of the score {scores[0]!r} give --polarity=has0 or non0"
    else:
        hint = "give --label-key=KEY" + (", the key of a score" if polarity else "")
    quoted = " or ".join(repr(k) for k in wanted.split(" or "))
    raise UserError(f"{file}: has no {quoted} in every part (found {listed:.120}); {hint}")


def _identifier(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return "$_$".join(_identifier(v) for v in value)
    return values_lib.text(value)


def _field(part: Any, key: str, where: str) -> Sequence:
    if not isinstance(part, dict) or key not in part:
        found = ", ".join(map(str, part)) if isinstance(part, dict) else type(part).__name__
        raise UserError(f"{where}: has no {key!r} (found {found:.120})")
    found = part[key]
    if not isinstance(found, list | tuple) and np.ndim(found) == 0:
        raise UserError(f"{where}: {key!r} is {found!r:.60}, wanted one an utterance")
    return part[key]


class _Sequences(NamedTuple):
    arrays: list[np.ndarray]  # N arrays [T_i, D]
    zeroed: int  # numbers that became 0
    beyond: int  # rows outside the length that a file gives which are no padding


def _sequences(file: str, parts: dict[str, dict], modality: str) -> _Sequences:
    """N arrays without the padding that the file marks."""
    key = _KEYS[modality]
    arrays: list[np.ndarray] = []
    zeroed = beyond = 0
    for name, part in parts.items():
        where = f"{file}, {name}: {key}"
        given = _field(part, key, f"{file}, {name}")
        if len(given) != len(part["id"]):
            raise UserError(f"{where}: {len(given)} rows, wanted {len(part['id'])}, one an id")
        rows = [
            values_lib.sequence(row, f"{where} of {_identifier(i)!r}")
            for row, i in zip(given, part["id"], strict=True)
        ]
        claims = _claims(part, key, rows, where)
        for row, claimed in zip(rows, claims, strict=True):
            kept = values_lib.finite(row, values_lib.stored(row), keep_rows=True)
            inside, lost = values_lib.window(kept.rows, claimed)
            zeroed, beyond = zeroed + kept.zeroed, beyond + lost
            arrays.append(inside)
    return _Sequences(arrays, zeroed, beyond)


def _claims(part: dict, key: str, rows: list[np.ndarray], where: str) -> list[np.ndarray]:
    """For each utterance the rows that are no padding as the file has it, `[T_i]` bool."""
    longest = max((len(row) for row in rows), default=0)
    if key == "text" and "text_bert" in part:
        masks = [values_lib.numbers(m, f"{where[:-4]}text_bert") for m in part["text_bert"]]
        if len(masks) == len(rows) and all(
            m.ndim == 2 and len(m) == 3 and m.shape[1] == len(r)
            for m, r in zip(masks, rows, strict=True)
        ):
            return [m[1] > 0 for m in masks]
    if f"{key}_lengths" not in part:
        return [np.ones(len(row), bool) for row in rows]
    lengths = values_lib.lengths(part[f"{key}_lengths"], len(rows), longest, f"{where}_lengths")
    return [np.arange(len(row)) < n for row, n in zip(rows, lengths, strict=True)]
