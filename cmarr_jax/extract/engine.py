"""Runs modality sources over a corpus and writes the feature pack.

While the device encodes one batch, a thread decodes what follows. The order of the work and the
content of every batch depend on the corpus and the recipes alone, and work is saved batch by batch.
So a killed run resumes where it was and ends with the same bytes.

Until the pack PACK is whole, PACK.partial lies beside it. The features of a modality lie in a
folder named by a hash of all that they depend on: another recipe has another folder.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from cmarr_jax.cli.bar import Bars
from cmarr_jax.data import values
from cmarr_jax.errors import UserError
from cmarr_jax.extract import result
from cmarr_jax.extract.result import Corpus, Report
from cmarr_jax.extract.source import Loaded, Source, Utterance
from cmarr_jax.extract.store import Store
from cmarr_jax.runtime.lock import locked

VERSION = 1  # of how batches are cut and stored; in every fingerprint

_STATUS_OF_NO_ROWS = {"text": "missing_text", "speech": "too_short", "video": "no_face"}


def extract(
    out: str,
    corpus: Corpus,
    sources: Sequence[Source],
    *,
    dtype: str,
    environment: Mapping[str, str],
    cache: str | None,
    progress: Bars,
) -> Report:
    """Writes the pack `out` with the features of `sources`, and `problems.csv` inside it.

    Args:
      out: a folder that does not exist yet, or a pack that the same call made.
      corpus: what to extract.
      sources: one for each modality.
      dtype: of the stored features, float16 or float32.
      environment: what else the numbers depend on, such as JAX's version and platform.
      cache: where finished features stay for other packs; None: beside `out`, removed at the end.
      progress: shows how far it is.

    Returns:
      How each modality went.

    Raises:
      UserError: `out` is something else, another process works on it, a modality has no
        features at all, or the device fails.
    """
    prints = {s.modality: fingerprint(s, corpus, dtype, environment) for s in sources}
    whole = _sha256([prints, result.columns(corpus.utterances), corpus.class_names])
    partial = out.rstrip(os.sep) + ".partial"
    features = cache or partial
    if os.path.exists(out):
        report = result.reread(out, whole)
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed just before
        return report
    with ExitStack() as stack:
        stack.callback(progress.close)
        for folder in sorted({os.path.realpath(partial), os.path.realpath(features)}):
            stack.enter_context(locked(folder, ("--out", "--cache")))
        for name in os.listdir(partial):
            if name.startswith("pack"):  # the draft of a killed run
                shutil.rmtree(os.path.join(partial, name))
        stores = {}
        for source in sources:
            modality = source.modality
            recipe = _recipe(source, dtype, environment)
            folder = os.path.join(features, f"{modality}-{prints[modality][:16]}")
            stores[modality] = Store(folder, recipe, source.dim, dtype)
            _encode(source, corpus.utterances, stores[modality], progress)
        facts = {
            "fingerprint": whole,
            "modalities": {
                s.modality: {"fingerprint": prints[s.modality]} | _recipe(s, dtype, environment)
                for s in sources
            },
        }
        report = result.write(out, partial, corpus, stores, facts, progress)
        shutil.rmtree(partial)
    return report


def fingerprint(source: Source, corpus: Corpus, dtype: str, environment: Mapping[str, str]) -> str:
    """Hash of everything that a modality's features depend on, 64 hex digits."""
    inputs = [_inputs(source.modality, u) for u in corpus.utterances]
    return _sha256([_recipe(source, dtype, environment), inputs])


def _recipe(source: Source, dtype: str, environment: Mapping[str, str]) -> dict:
    return {
        "modality": source.modality,
        "dim": source.dim,
        "stored_as": dtype,
        "engine": VERSION,
        "environment": dict(environment),
        "source": source.recipe,
    }


def _inputs(modality: str, u: Utterance) -> list:
    """What a source may read; a file counts by its size, so that its path does not matter."""
    if modality == "text":
        return [u.id, u.text]
    if modality == "speech":
        # Of corpora that know neither, features keep the fingerprint that they had.
        times = [u.wav_span, u.seconds]
        return [u.id, _size(u.wav), *(times if any(t is not None for t in times) else [])]
    return [u.id, _size(u.video), u.start, u.end, u.side]


def _size(file: str | None) -> int | None:
    return None if file is None else os.path.getsize(file)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _encode(source: Source, utterances: Sequence[Utterance], store: Store, progress: Bars) -> None:
    """Encodes what the store lacks, longest first, so that too little memory shows at once."""
    amounts = {u.id: source.amount(u) for u in utterances}
    order = sorted(utterances, key=lambda u: (-amounts[u.id], u.id))
    rank = {u.id: i for i, u in enumerate(order)}
    todo = [u for u in order if u.id not in store.entries]
    done = sum(amounts[u.id] for u in order if u.id in store.entries)
    progress.start(source.modality, source.unit, sum(amounts.values()), done)
    waiting: dict[int, list[tuple[Utterance, Loaded]]] = {}

    def encode_batch(bucket: int) -> None:
        batch = waiting.pop(bucket)
        arrays = _encode_batch(source, bucket, [loaded.item for _, loaded in batch])
        kept = [
            (utterance.id, *checked(source, loaded, array, store.dtype))
            for (utterance, loaded), array in zip(batch, arrays, strict=True)
        ]
        store.add(f"{rank[kept[0][0]]:06d}", kept)
        progress.advance(sum(amounts[utterance.id] for utterance, _ in batch))

    for utterance, loaded in _prefetch(source, todo):
        if loaded.item is None:
            store.reject(utterance.id, loaded.status, loaded.detail)
            progress.advance(amounts[utterance.id])
            continue
        bucket = source.bucket(loaded.item)
        waiting.setdefault(bucket, []).append((utterance, loaded))
        # Each bucket's queue is cut every B items of a fixed order: whichever batches an earlier
        # run finished, the rest falls into the same batches again.
        if len(waiting[bucket]) == source.batch_size(bucket):
            encode_batch(bucket)
    for bucket in sorted(waiting):
        encode_batch(bucket)
    usable = sum(store.entries[u.id].rows > 0 for u in utterances)
    progress.finish(f"features of {usable} of {len(utterances)} utterances")


def _prefetch(
    source: Source, utterances: Sequence[Utterance]
) -> Iterator[tuple[Utterance, Loaded]]:
    """(utterance, loaded) in order, loaded ahead by one thread: decoders may not be re-entrant."""
    pool = ThreadPoolExecutor(1)
    ahead: deque = deque()
    try:
        for utterance in utterances:
            ahead.append((utterance, pool.submit(guarded, source.load, utterance)))
            if len(ahead) > source.ahead:
                utterance, future = ahead.popleft()
                yield utterance, future.result()
        for utterance, future in ahead:
            yield utterance, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def guarded(load: Callable[[Utterance], Loaded], utterance: Utterance) -> Loaded:
    """`load(utterance)`; an error of a decoder only makes this utterance unreadable.

    Raises:
      UserError: `load` did.
    """
    try:
        return load(utterance)
    except UserError:
        raise
    except Exception as e:
        return Loaded("unreadable", None, f"{type(e).__name__}: {e}")


def _encode_batch(source: Source, bucket: int, items: Sequence[Any]) -> list[np.ndarray]:
    try:
        return source.encode(bucket, items)
    except (RuntimeError, MemoryError) as e:  # JAX's device errors are RuntimeErrors
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"{source.modality}: the device failed on {len(items)} items of bucket {bucket} "
            f"({reason}); finished batches are kept and the same command goes on from them"
        ) from None


def checked(
    source: Source, loaded: Loaded, array: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, str, str]:
    """(features to store, status, detail): odd numbers become 0; without a finite one, none.

    Args:
      source: the modality.
      loaded: what was encoded.
      array: the encoder's output, `[T, D]`.
      dtype: of the features to store.
    """
    if array.ndim != 2 or array.shape[1] != source.dim:
        raise ValueError(f"{source.modality}: encoded {array.shape}, wanted (T, {source.dim})")
    kept = values.finite(np.asarray(array), dtype)
    if not len(array):
        return kept.rows, _STATUS_OF_NO_ROWS[source.modality], loaded.detail
    if not len(kept.rows):
        return kept.rows, "nonfinite", f"the encoder's output has no number that {dtype} can hold"
    if kept.said:
        detail = f"{loaded.detail}; {kept.said}" if loaded.detail else kept.said
        return kept.rows, "repaired", detail
    return kept.rows, loaded.status, loaded.detail
