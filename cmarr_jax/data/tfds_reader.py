"""From a prepared feature pack to batches of padded arrays, by tf.data."""

import os
from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf
import tensorflow_datasets as tfds

from cmarr_jax.data import pooling

_BATCH_BYTES = 4 << 20  # of records: long utterances come in smaller batches, not in more memory
_BATCH_SIZE = 256  # utterances, at most


def batches(
    builder: tfds.core.DatasetBuilder,
    *,
    align: str,
    length: int,
    statistics: str = "mean",
    whole: Mapping[str, int] = MappingProxyType({}),
) -> tf.data.Dataset:
    """All utterances, in the order in which they were prepared.

    Records are parsed, decoded and pooled a batch at a time: one by one, as `as_dataset` decodes
    them, took 3.8 times as long where an utterance is pooled to one position (IEMOCAP).

    Args:
      builder: of `tfds_builder.prepare`.
      align: as for `pipeline.load`.
      length: T.
      statistics: as for `pipeline.load`.
      whole: as for `pipeline.load`.

    Returns:
      Batches with `index` `[B]`, `column_*` `[B]` and, for each modality, `modality_*`
      `[B, T, D]` (2 D for "mean_max"; `[B, L_m, D]`, if in `whole`) and `length_*` `[B]`, the
      number of rows before pooling.
    """
    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    features, split = builder.info.features, builder.info.splits["corpus"]
    size = _BATCH_BYTES * split.num_examples // max(split.num_bytes, 1)

    def to_arrays(records: tf.Tensor) -> dict[str, tf.Tensor]:
        arrays = tf.io.parse_example(records, features.tf_example_spec)
        for name in [n for n in arrays if n.startswith("modality_")]:
            sequences, modality = _decode(arrays[name], features[name]), name.split("_", 1)[1]
            arrays[f"length_{modality}"] = sequences.row_lengths()
            if align == "none" or modality in whole:
                most = whole.get(modality, length)
                fixed = sequences.to_tensor(shape=(None, most, None))
            else:
                fixed = _fix_length(sequences, length, align, statistics)
            arrays[name] = tf.cast(fixed, sequences.dtype)
        return arrays

    return (
        tf.data.TFRecordDataset([os.fspath(path) for path in split.filepaths])
        .batch(min(max(size, 1), _BATCH_SIZE))
        .map(to_arrays, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _decode(encoded: tf.Tensor, feature: tfds.features.Tensor) -> tf.RaggedTensor:
    """Raw bytes `[B]` -> `[B, T_i, D]`."""
    dtype, dim = tf.as_dtype(feature.np_dtype), feature.shape[-1]
    values = tf.io.decode_raw(tf.strings.reduce_join(encoded), dtype)
    lengths = tf.cast(tf.strings.length(encoded), tf.int64) // (dim * dtype.size)
    return tf.RaggedTensor.from_row_lengths(tf.reshape(values, (-1, dim)), lengths, validate=False)


def _fix_length(sequences: tf.RaggedTensor, length: int, kind: str, statistics: str) -> tf.Tensor:
    """`pooling.fix_length` of many sequences: `[B, T_i, D]` -> `[B, T, D]` or `[B, T, 2 D]`."""
    values, positions = tf.cast(sequences.values, tf.float32), tf.range(length, dtype=tf.int64)
    starts, rows = sequences.row_starts()[:, None], sequences.row_lengths()[:, None]
    if kind == "interp":
        place = pooling.places(tf.cast(positions, tf.float64), tf.cast(rows, tf.float64), xp=tf)
        share = tf.cast(place - tf.floor(place), tf.float32)[..., None]
        padded, before = tf.pad(values, ((0, 1), (0, 0))), tf.cast(place, tf.int64)

        def at(row: tf.Tensor) -> tf.Tensor:  # the row of zeros where there is none
            inside = starts + tf.minimum(row, rows - 1)
            return tf.gather(padded, tf.where(rows > 0, inside, sequences.row_splits[-1]))

        fixed = (1 - share) * at(before) + share * at(before + 1)
    else:
        first, last = (tf.reshape(starts + w, [-1]) for w in pooling.windows(positions, rows))
        frames = tf.ragged.range(first, last)
        fixed = tf.sparse.segment_mean(
            values, frames.values, frames.value_rowids(), num_segments=tf.size(first)
        )
        fixed = tf.reshape(fixed, (-1, length, values.shape[-1]))
    if statistics == "mean":
        return fixed
    highest = tf.math.segment_max(values, sequences.value_rowids())
    absent = sequences.nrows() - tf.shape(highest, tf.int64)[0]  # those at the batch's end
    return tf.concat([fixed, tf.pad(highest, ((0, absent), (0, 0)))[:, None]], axis=-1)
