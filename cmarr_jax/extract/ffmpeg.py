"""Sound of mp4, m4a, aac, mkv, avi, webm and others, by FFmpeg's libraries: package av."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

# What may be opened: files that hold their sound, none that names other files or addresses.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,tta,w64,wav,wv"
)
_EXACT = ("mov", "matroska", "avi")  # formats whose header tells how long a stream is
_TOLERANCE = 0.1  # s; a codec's padding may miss from it, or come on top
_BEFORE = 0.2  # s, decoded before what is wanted: a codec's frame needs the one before it


class Sound(NamedTuple):
    """Part of a file's sound; a frame is one number a channel."""

    channels: np.ndarray  # [N, C] float32, full scale = 1
    rate: int  # Hz
    total: int  # frames that the whole file has, as far as can be told
    promised: int  # frames that its header names


def is_installed() -> bool:
    """Whether package av is."""
    return importlib.util.find_spec("av") is not None


def read(path: str, start: float, stop: float) -> Sound:
    """Sound of the first track from second `start` to second `stop` of the file, a film's too.

    Raises:
      ValueError: it cannot be read or has no sound, in one line.
    """
    import av

    with _opened(path) as (container, track):
        origin = (container.start_time or 0) / av.time_base
        if start > _BEFORE:
            container.seek(round((start - _BEFORE + origin) * av.time_base))
        planes = av.AudioResampler(format="fltp")
        parts: list[np.ndarray] = []
        rate, at, damaged = track.rate, None, False
        first, last = round(start * rate), round(stop * rate)
        frames = container.decode(track)
        while at is None or at < last:
            try:
                frame = next(frames, None)
                converted = planes.resample(frame)
            except av.error.FFmpegError as e:
                if at is None:
                    raise ValueError(f"its sound cannot be decoded ({e.strerror})") from None
                damaged = True
                break
            if at is None:
                began = 0.0 if frame is None or frame.time is None else frame.time - origin
                at = max(0, round(began * rate))
                silence = min(at, last) - first  # a film whose sound begins later than its picture
                if silence > 0:
                    parts.append(np.zeros((silence, track.channels), np.float32))
            for each in converted:
                part = each.to_ndarray().T
                parts.append(part[max(0, first - at) : max(0, last - at)])
                at += len(part)
            if frame is None:
                break
        named = round(_named(container, track) * rate)
    channels = np.concatenate([np.zeros((0, track.channels), np.float32), *parts])
    if at >= last and not damaged:  # and the rest is not known
        return Sound(channels, rate, max(at, named), max(at, named))
    if damaged or at < named - _TOLERANCE * rate:
        return Sound(channels, rate, at, max(named, at + 1))
    total = min(at, named) if named else at  # what is beyond fills the codec's last frame
    return Sound(channels[: max(0, total - first)], rate, total, total)


def seconds(path: str) -> float:
    """How long the sound is by the file's header; 0 if there is none."""
    import av

    try:
        with _opened(path, skip_frame="all") as (container, track):  # no picture is decoded
            return _named(container, track) or (container.duration or 0) / av.time_base
    except ValueError:
        return 0.0


@contextlib.contextmanager
def _opened(path: str, **options: str) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        container = av.open(path, options={"format_whitelist": _FORMATS, **options})
    except (av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise ValueError(f"no sound or video file that is known ({reason})") from None
    with container:
        if (track := container.streams.best("audio")) is None:
            raise ValueError("a video without sound")
        yield container, track


def _named(container: Any, track: Any) -> float:
    """Seconds that the header names for the track; 0 if it does not."""
    if container.format.name.split(",")[0] not in _EXACT:
        return 0.0
    if track.duration is not None:
        return float(track.duration * track.time_base)
    hours, _, rest = track.metadata.get("DURATION", "").partition(":")
    minutes, _, rest = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    except ValueError:
        return 0.0
