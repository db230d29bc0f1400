"""The last step of every importer: what an archive holds becomes a feature pack."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.cli.bar import track
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data.importers import naming
from cmarr_jax.data.importers.stores import Store
from cmarr_jax.errors import UserError


class Archive(NamedTuple):
    """What another toolkit's files say of N utterances."""

    ids: list[str]
    labels: list[str]  # class names, "" = unlabelled
    class_names: tuple[str, ...]
    stores: dict[str, Store]  # modality -> features by id
    columns: dict[str, list[str]]  # any further column of a pack
    provenance: dict[str, Any]  # "layout" names the format: packs keep the word they had


def write(
    archive: Archive,
    out: str,
    *,
    name: str,
    id_pattern: str = "",
    allow_missing: bool = False,
    keep_zero_rows: bool = False,
) -> pack_lib.Pack:
    """Writes the pack; it appears whole or not at all.

    Args:
      archive: of one of the readers beside this file.
      out: a folder that does not exist yet.
      name: the corpus' name, as it will stand in every results file.
      id_pattern: see `naming.by_pattern`; "" = ids name session and speaker, or columns do.
      allow_missing: an utterance without features in a modality lacks it; else an error.
      keep_zero_rows: by default rows of zeros alone are left out: in these formats they are
        padding or frames without a face.

    Returns:
      The pack, read back and validated.

    Raises:
      UserError: the archive contradicts itself, or `out` exists.
    """
    columns = _columns(archive, id_pattern)
    for modality, store in archive.stores.items():
        _check_ids(archive.ids, modality, store, allow_missing)
    return pack_lib.write(
        out,
        name=name,
        class_names=archive.class_names,
        columns=columns,
        sequences={
            m: _sequences(archive.ids, m, s, keep_zero_rows) for m, s in archive.stores.items()
        },
        provenance={
            **archive.provenance,
            "zero_rows": "kept" if keep_zero_rows else "left out",
        },
    )


def _columns(archive: Archive, id_pattern: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {"id": archive.ids, "label": archive.labels}
    given: Mapping[str, list[str]] = archive.columns
    turns: list[naming.Turn | None]
    if id_pattern:
        turns = [naming.by_pattern(id_pattern, i) for i in archive.ids]
    else:
        turns = [naming.parse(i) for i in archive.ids]
    known = None not in turns
    for field in naming.Turn._fields:
        values = [getattr(turn, field) for turn in turns] if known else []
        if known and (id_pattern or field not in given):
            if any(values):
                columns[field] = values
        elif field in given:
            columns[field] = given[field]
        elif field != "group":
            odd = archive.ids[turns.index(None)]
            raise UserError(
                f"id {odd!r} is not named as in IEMOCAP or MSP-IMPROV, so its {field} is unknown; "
                "give --id-pattern='(?P<session>...)(?P<speaker>...)'"
            )
    columns |= {field: v for field, v in given.items() if field not in columns}
    order = (*pack_lib.REQUIRED_COLUMNS, *pack_lib.OPTIONAL_COLUMNS)
    return {field: columns[field] for field in order if field in columns}


def _check_ids(ids: list[str], modality: str, store: Store, allow_missing: bool) -> None:
    missing = [i for i in ids if i not in store.ids]
    if len(missing) == len(ids):
        there = min(store.ids, default="nothing")
        raise UserError(
            f"{store.path}: has features of none of the {len(ids)} ids; wanted names such as "
            f"{ids[0]!r}, found such as {there!r}"
        )
    if missing and not allow_missing:
        raise UserError(
            f"{store.path}: no {modality} features of {missing[0]!r} ({len(missing)} of {len(ids)} "
            "ids lack them); with --allow-missing these utterances lack the modality"
        )


def _sequences(
    ids: list[str], modality: str, store: Store, keep_zero_rows: bool
) -> Iterator[np.ndarray]:
    """`[T_i, D]` an id, `T_i = 0` where the store lacks it."""
    width = _width(ids, modality, store)
    dtype = None
    for i in track(ids, modality):
        array = store.read(i) if i in store.ids else np.zeros((0, width), np.float32)
        if array.size == 0:
            array = np.zeros((0, width), array.dtype)
        while array.ndim > 2 and 1 in array.shape[:-1]:
            array = array.squeeze(array.shape.index(1))
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != width:
            raise UserError(
                f"{store.path}: {modality} of {i!r} has shape {array.shape}, "
                f"wanted (rows, {width}), as the first utterance has"
            )
        if dtype is None:
            dtype = np.float16 if array.dtype == np.float16 else np.float32
        with np.errstate(over="ignore"):  # shows as an infinity, which is refused next
            array = array.astype(dtype)
        if not np.isfinite(array).all():
            raise UserError(
                f"{store.path}: {modality} of {i!r} has a NaN, an infinity or a number beyond "
                f"{np.dtype(dtype).name}; repair it or remove it and give --allow-missing"
            )
        zero = ~array.any(axis=1)
        yield array[:0] if zero.all() else array if keep_zero_rows else array[~zero]


def _width(ids: list[str], modality: str, store: Store) -> int:
    for i in ids:
        if i in store.ids and (array := store.read(i)).size:
            return array.shape[-1]
    raise UserError(f"{store.path}: every id's {modality} features are empty")
