"""The last step of every importer: what an archive holds becomes a feature pack."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.cli.bar import track
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import values
from cmarr_jax.data.importers import naming
from cmarr_jax.data.importers.stores import Store, short
from cmarr_jax.errors import UserError

_SHOWN = 5  # names of what is not read


class Archive(NamedTuple):
    """What another toolkit's files say of N utterances."""

    ids: list[str]
    labels: list[str]  # class names, "" = unlabelled
    class_names: tuple[str, ...]
    stores: dict[str, Store]  # modality -> features by id
    columns: dict[str, list[str]]  # any further column of a pack
    provenance: dict[str, Any]  # "layout" names the format: packs keep the word they had
    unread: tuple[str, ...] = ()  # a line each: what the files hold that the pack will lack


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
    if not archive.ids:
        raise UserError("the labels name no utterance")
    columns = _columns(archive, id_pattern)
    for modality, store in archive.stores.items():
        _check_ids(archive.ids, modality, store, allow_missing)
    changed = list(archive.unread)  # grows while `write` draws the sequences
    pack = pack_lib.write(
        out,
        name=name,
        class_names=archive.class_names,
        columns=columns,
        sequences={
            m: _sequences(archive.ids, m, s, keep_zero_rows, changed)
            for m, s in archive.stores.items()
        },
        provenance={
            **archive.provenance,
            "zero_rows": "kept" if keep_zero_rows else "left out",
            "changed": changed,
        },
    )
    for line in changed:
        print(f"note: {line}", file=sys.stderr)
    return pack


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
    ids: list[str], modality: str, store: Store, keep_zero_rows: bool, changed: list[str]
) -> Iterator[np.ndarray]:
    """`[T_i, D]` an id, `T_i = 0` where the store lacks it; says in `changed` what it left out."""
    width = _width(ids, modality, store)
    dtype, zeroed, zero_rows = None, 0, 0
    for i in track(ids, modality):
        where = f"{store.path}: {modality} of {i!r}"
        array = values.sequence(store.read(i) if i in store.ids else None, where)
        if not len(array):
            yield np.zeros((0, width), array.dtype)
            continue
        if array.shape[1] != width:
            raise UserError(
                f"{where} has shape {array.shape}, wanted (rows, {width}), as the first utterance "
                "has"
            )
        dtype = dtype or values.stored(array)
        kept = values.finite(array, dtype, keep_rows=True)
        zeroed += kept.zeroed
        zero = ~kept.rows.any(axis=1)
        whole = keep_zero_rows and not zero.all()
        zero_rows += 0 if whole else int(zero.sum())
        yield kept.rows if whole else kept.rows[~zero]
    if zeroed:
        changed.append(f"{modality}: {zeroed} numbers that {dtype} cannot hold count as 0")
    if zero_rows:
        changed.append(f"{modality}: {zero_rows} rows of zeros are left out")
    changed += unread(f"{modality}: entries of {short(store.path)}", store.unread)
    changed += unread(f"{modality}: ids of {short(store.path)} without a label", store.ids - {*ids})


def _width(ids: list[str], modality: str, store: Store) -> int:
    for i in ids:
        if i in store.ids:
            array = values.sequence(store.read(i), f"{store.path}: {modality} of {i!r}")
            if len(array):
                return array.shape[1]
    raise UserError(f"{store.path}: every id's {modality} features are empty")


def unread(what: str, names: Iterable[Any]) -> list[str]:
    """The line that counts and names what is not read; nothing if there is nothing."""
    listed = sorted(map(str, set(names)))
    if not listed:
        return []
    shown = ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
    return [f"{what}: {len(listed)} not read ({shown:.160})"]
