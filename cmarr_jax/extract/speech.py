"""Sound files to frame vectors: hidden states of a published speech encoder."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import audio, buckets, pretrained
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.models import data2vec_audio, hubert, wav2vec2, wavlm, whisper
from cmarr_jax.extract.source import Loaded, Source, Utterance

_VERSION = 1  # raise it with every change that changes the numbers
FAMILIES = {
    "data2vec-audio": data2vec_audio,
    "hubert": hubert,
    "wav2vec2": wav2vec2,
    "wavlm": wavlm,
    "whisper": whisper,
}
_LONGEST = 60.0  # s; attention's cost grows with the square
_CPU_SECONDS = 36  # a batch
_ACCELERATOR_SECONDS = 320


def source(
    model: str,
    *,
    max_seconds: float,
    dtype: str,
    layers: str = "last",
    budget: int | None = None,
) -> Source:
    """The speech modality, one vector every 20 ms with all published models but a few.

    Args:
      model: a folder with a Hugging Face model of `FAMILIES` (`config.json` and weights), or
        its name on the hub.
      max_seconds: longer clips are cut.
      dtype: of convolutions and matrix products, "float32" or "bfloat16"; norms and softmax are
        float32.
      layers: hidden states to keep, one of `layers.FORMS`.
      budget: seconds a batch; None = what suits the device in a whole corpus.

    Raises:
      UserError: the model is not there, is of another kind, or its files contradict each
        other; `max_seconds` or `layers` is out of its range; a package is missing.
    """
    if not 1 <= max_seconds <= _LONGEST:
        raise UserError(f"--max-seconds={max_seconds}: wanted 1 to {_LONGEST:.0f}")
    audio.require_packages()
    encoder = open_encoder(model, FAMILIES, layers=layers, dtype=dtype)
    module = encoder.module
    normalised = _normalised(encoder.folder, module)
    max_samples = round(max_seconds * audio.SAMPLE_RATE)
    ladder = buckets.samples(max_samples, audio.SAMPLE_RATE, module.window)
    if budget is None:
        budget = _CPU_SECONDS if jax.default_backend() == "cpu" else _ACCELERATOR_SECONDS

    def load(utterance: Utterance) -> Loaded:
        return audio.load(
            utterance.wav,
            module.receptive_field,
            max_samples,
            normalised=normalised,
            span=utterance.wav_span,
            lasts=utterance.seconds,
        )

    def batch_size(bucket: int) -> int:
        return buckets.batch_size(bucket, budget * audio.SAMPLE_RATE)

    def encode(bucket: int, items: Sequence[np.ndarray]) -> list[np.ndarray]:
        samples = np.zeros((batch_size(bucket), bucket), np.float32)
        # Rows that no clip fills count as whole, so that no mean is over nothing.
        lengths = np.full(len(samples), bucket, np.int32)
        for row, item in enumerate(items):
            samples[row, : len(item)] = item
            lengths[row] = len(item)
        vectors = encoder.forward(samples, lengths)
        return [vectors[k, : module.num_frames(len(x))].copy() for k, x in enumerate(items)]

    return Source(
        modality="speech",
        dim=encoder.dim,
        unit="s of audio",
        recipe=encoder.recipe
        | {
            "version": _VERSION,
            "sample_rate": audio.SAMPLE_RATE,
            "resampler": "soxr HQ",
            "max_seconds": max_seconds,
        }
        # Models that say nothing else keep the recipe that they had.
        | ({} if normalised else {"normalised": False}),
        amount=lambda u: min(audio.seconds(u.wav, u.wav_span), max_seconds),
        load=load,
        bucket=lambda item: buckets.smallest(ladder, len(item)),
        batch_size=batch_size,
        encode=encode,
    )


def _normalised(folder: str, module: nn.Module) -> bool:
    """Whether the model wants each clip at zero mean and unit variance.

    Raises:
      UserError: the model was trained on sound of another rate.
    """
    said = pretrained.sound(folder)
    if (rate := said.get("sampling_rate", audio.SAMPLE_RATE)) != audio.SAMPLE_RATE:
        raise UserError(
            f"{folder}: made for sound of {rate} Hz (sampling_rate), and this library gives every "
            f"model {audio.SAMPLE_RATE} Hz; wanted a model of {audio.SAMPLE_RATE} Hz"
        )
    if not isinstance(wanted := said.get("do_normalize", module.normalised), bool):
        raise UserError(f"{folder}: do_normalize is {wanted!r:.40}, wanted true or false")
    if wanted and not module.normalised:
        raise UserError(
            f"{folder}: do_normalize is true, wanted false: this kind of model takes sound as it is"
        )
    return wanted
