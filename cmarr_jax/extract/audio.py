"""Sound files as 16 kHz mono, checked and normalised."""

import importlib.util
import math
import os

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.source import Loaded

SAMPLE_RATE = 16_000  # Hz; what the speech encoders were trained on
_SILENCE = 1e-8  # variance, full scale = 1
_EPSILON = 1e-7  # of the normalisation, as in wav2vec2's published feature extractor


def require_packages() -> None:
    """Checks that sound files can be read and resampled.

    Raises:
      UserError: an optional package is not installed.
    """
    for package in ("soundfile", "soxr"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"speech needs {package}; pip install -r requirements-extract.txt")


def load(path: str | None, min_samples: int, max_samples: int) -> Loaded:
    """Reads one clip: channels averaged, resampled to 16 kHz, cut to `max_samples`, normalised.

    Args:
      path: any file that libsndfile reads; None = the corpus names none.
      min_samples: shorter clips are `too_short`.
      max_samples: longer clips are cut and `truncated`.

    Returns:
      Status and samples `[N]` float32. Never raises for a bad file.
    """
    import soundfile

    if path is None or not os.path.isfile(path):
        return Loaded("missing_file", None, "no file named" if path is None else path)
    try:
        with soundfile.SoundFile(path) as f:
            rate, total = f.samplerate, f.frames
            # One second more than is kept, so that the resampler sees past the cut.
            limit = math.ceil((max_samples / SAMPLE_RATE + 1) * rate)
            channels = f.read(limit, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError) as e:  # soundfile's errors are RuntimeErrors
        return Loaded("unreadable", None, str(e).splitlines()[0])
    if not np.isfinite(channels).all():
        return Loaded("nonfinite", None, "a sample is NaN or infinite")
    seconds = total / rate
    samples = resample(channels.mean(axis=1), rate)
    if len(samples) < min_samples:
        wanted = min_samples / SAMPLE_RATE
        return Loaded("too_short", None, f"{seconds:.4f} s, wanted at least {wanted:.4f} s")
    status, detail = "ok", ""
    if len(samples) > max_samples:
        samples = samples[:max_samples]
        status, detail = "truncated", f"{seconds:.2f} s cut to {max_samples / SAMPLE_RATE:.2f} s"
    if samples.var(dtype=np.float64) < _SILENCE:
        return Loaded("silent", None, f"variance below {_SILENCE:g}")
    return Loaded(status, normalise(samples), detail)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """`[N]` float32 at `rate` Hz -> float32 at 16 kHz, band-limited."""
    if rate == SAMPLE_RATE or not len(samples):
        return samples
    import soxr

    return soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")


def normalise(samples: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the clip, which is not padded yet; `[N]` float32."""
    centred = samples - samples.mean(dtype=np.float64)
    return (centred / np.sqrt(centred.var() + _EPSILON)).astype(np.float32)


def seconds(path: str | None) -> float:
    """Duration by the file's header; 0 if there is no readable file."""
    import soundfile

    try:
        return soundfile.info(path).duration if path is not None else 0.0
    except (RuntimeError, OSError, ValueError):
        return 0.0
