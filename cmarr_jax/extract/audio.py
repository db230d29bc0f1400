"""Sound files as 16 kHz mono, checked and normalised."""

import importlib.util
import os

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import ffmpeg
from cmarr_jax.extract.ffmpeg import Sound
from cmarr_jax.extract.source import Loaded

SAMPLE_RATE = 16_000  # Hz; what the speech encoders were trained on
_SILENCE = 1e-8  # variance, full scale = 1
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_BYTES |= {"ULAW": 1, "ALAW": 1}
_OPEN = 0x7FFF_F000  # a size from here on stands for "unknown" in files written to a pipe
_TOLERANCE = 0.1  # share of a turn, and seconds, that its sound may be shorter than its times
# A file whose name ends in .raw gives a TypeError: it has no header.
_SOUNDFILE_ERRORS = (RuntimeError, OSError, ValueError, TypeError)
_EPSILON = 1e-7  # of the normalisation, as in wav2vec2's published feature extractor


def require_packages() -> None:
    """Checks that sound files can be read and resampled.

    Raises:
      UserError: an optional package is not installed.
    """
    for package in ("soundfile", "soxr"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"speech needs {package}; pip install -r requirements-extract.txt")


def load(
    path: str | None,
    min_samples: int,
    max_samples: int,
    *,
    normalised: bool = True,
    span: tuple[float, float | None] | None = None,
    lasts: float | None = None,
) -> Loaded:
    """Reads one clip: channels averaged, resampled to 16 kHz, cut to `max_samples`.

    Args:
      path: any file that libsndfile or FFmpeg reads, videos among them; None = the corpus names
        none.
      min_samples: shorter clips are `too_short`.
      max_samples: longer clips are cut and `truncated`.
      normalised: to zero mean and unit variance.
      span: seconds at which the clip begins and ends in the file, None = with the file; None =
        the file is the clip.
      lasts: seconds that the clip has by the corpus' label file; None = not known.

    A file that ends before its header, or the corpus, says so gives what there is and is
    `cut_short`.

    Returns:
      Status and samples `[N]` float32. Never raises for a bad file.
    """
    if path is None or not os.path.isfile(path):
        return Loaded("missing_file", None, "no file named" if path is None else path)
    start, end = span or (0.0, None)
    # One second more than is kept, so that the resampler sees past the cut.
    stop = start + max_samples / SAMPLE_RATE + 1
    try:
        channels, rate, total, promised = _read(
            path, start, stop if end is None else min(stop, end)
        )
    except ValueError as e:
        return Loaded("unreadable", None, str(e))
    first, last = round(start * rate), None if end is None else round(end * rate)
    if span is not None and first >= total:
        ends = f"ends after {total / rate:.2f} s, the turn begins at {start:.2f} s"
        return Loaded("too_short", None, ends)
    if not np.isfinite(channels).all():
        return Loaded("nonfinite", None, "a sample is NaN or infinite")
    seconds = (total if last is None else min(total, last)) / rate - first / rate
    short = _shortfall(seconds, total, promised, last, rate, lasts)
    samples = resample(channels.mean(axis=1), rate)
    if len(samples) < min_samples:
        wanted = min_samples / SAMPLE_RATE
        detail = f"{seconds:.4f} s, wanted at least {wanted:.4f} s"
        return Loaded("too_short", None, f"{short}; {detail}" if short else detail)
    status, detail = ("cut_short", short) if short else ("ok", "")
    if len(samples) > max_samples:
        samples = samples[:max_samples]
        cut = f"{seconds:.2f} s cut to {max_samples / SAMPLE_RATE:.2f} s"
        status, detail = "truncated", f"{short}; {cut}" if short else cut
    if samples.var(dtype=np.float64) < _SILENCE:
        return Loaded("silent", None, f"variance below {_SILENCE:g}")
    return Loaded(status, normalise(samples) if normalised else samples, detail)


def _shortfall(
    seconds: float, total: int, promised: int, last: int | None, rate: int, lasts: float | None
) -> str:
    """What a clip lacks that its file's header or its corpus promises, "" if nothing."""
    if total < (promised if last is None else min(promised, last)):
        return f"ends after {total / rate:.2f} of {promised / rate:.2f} s"
    if lasts is not None and lasts - seconds > max(_TOLERANCE, _TOLERANCE * lasts):
        return f"{seconds:.2f} s, {lasts:.2f} s by the times in the label file"
    return ""


def _read(path: str, start: float, stop: float) -> Sound:
    """Sound of a file from second `start` to second `stop`, by libsndfile or else by FFmpeg.

    Raises:
      ValueError: neither can read it, in one line.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as f:
            rate, total = f.samplerate, f.frames
            first = min(round(start * rate), total)
            if first:  # not every format can be sought in
                f.seek(first)
            limit = max(0, round(stop * rate) - first)
            channels = f.read(limit, dtype="float32", always_2d=True)
            promised = max(total, _promised(path, f.channels, f.subtype))
            if len(channels) < min(total - first, limit):  # a compressed file that breaks off
                total = first + len(channels)
            return Sound(channels, rate, total, promised)
    except _SOUNDFILE_ERRORS as e:
        reason = str(e).splitlines()[0]
    if not ffmpeg.is_installed():
        raise ValueError(
            f"{reason} (mp4, m4a and videos need av; pip install -r requirements-extract.txt)"
        )
    return ffmpeg.read(path, start, stop)


def _promised(path: str, channels: int, subtype: str) -> int:
    """Frames that the header of a .wav file names; libsndfile tells those that are there.

    0 where the header leaves it open, as files that were written to a pipe do, and for other
    formats and codings, whose frames have no fixed size.
    """
    width = _BYTES.get(subtype)
    with open(path, "rb") as f:
        head = f.read(12)
        if width is None or head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
            return 0
        order = "little" if head[:4] == b"RIFF" else "big"
        while len(chunk := f.read(8)) == 8:
            size = int.from_bytes(chunk[4:], order)  # type: ignore[arg-type]
            if chunk[:4] == b"data":
                return size // (width * channels) if size < _OPEN else 0
            f.seek(size + size % 2, os.SEEK_CUR)
    return 0


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


def seconds(path: str | None, span: tuple[float, float | None] | None = None) -> float:
    """Duration of a clip by its file's header, see `load`; 0 if there is no readable file."""
    import soundfile

    if path is None:
        return 0.0
    try:
        whole = soundfile.info(path).duration
    except _SOUNDFILE_ERRORS:
        whole = ffmpeg.seconds(path) if ffmpeg.is_installed() else 0.0
    start, end = span or (0.0, None)
    return max(0.0, (whole if end is None else min(whole, end)) - start)
