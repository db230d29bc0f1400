"""What training_speed.py's engines are given: random utterances, the same in each process."""

import argparse
import time

import numpy as np

DIMS = {"text": 768, "speech": 768, "video": 342}
NUM_CLASSES = 4
NUM_UTTERANCES = 512  # of the corpus
CONDITIONS = ("t", "s", "v", "st", "vt", "sv", "svt")  # the last one is complete data
PRODUCT = 2048  # rows of the square matrices whose product tells the machine's rate
CHECKS = {"complete": 50, "ragged": 50}  # batch: positions


def make_features(num: int, length: int, ragged: bool = True) -> dict:
    """Random utterances in IEMOCAP's shape; the video of one in fifty is absent."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.round(rng.normal(0.75, 0.25, num) * length), 1, length)
    mask = np.arange(length)[None] < (lengths[:, None] if ragged else length)
    present = np.ones((num, len(DIMS)), bool)
    present[:, -1] = rng.random(num) > (0.02 if ragged else 0)
    features = {
        name: rng.standard_normal((num, length, dim), np.float32) * mask[..., None]
        for name, dim in DIMS.items()
    }
    for k, values in enumerate(features.values()):
        values[~present[:, k]] = 0
    labels = rng.integers(NUM_CLASSES, size=num).astype(np.int32)
    return {"features": features, "mask": mask, "present": present, "labels": labels}


def make_check(name: str) -> dict:
    """A batch for --check; the ragged one has padding, absent and masked modalities."""
    rng = np.random.default_rng(1)
    batch = make_features(12, CHECKS[name], ragged=name == "ragged")
    available = batch["present"].copy()
    if name == "ragged":
        batch["present"][3, 0] = batch["present"][5, 1] = batch["present"][7, 1:] = False
        available = batch["present"] & (rng.random(available.shape) > 0.4)
        available = np.where(available.any(axis=1, keepdims=True), available, batch["present"])
    batch["weights"] = rng.uniform(0.5, 2, 12).astype(np.float32)
    return batch | {"available": available}


def make_order(args: argparse.Namespace, batch_size: int) -> np.ndarray:
    """Rows of a round's steps, `[S, B]`; two or more, since a call's memory is new to it once."""
    steps = max(2, -(-args.utterances // batch_size))
    return (
        np.random.default_rng(0).integers(0, NUM_UTTERANCES, (steps, batch_size)).astype(np.int32)
    )


def make_evaluated(args: argparse.Namespace) -> np.ndarray:
    """Rows that are evaluated a round, `[N, B]`: batches of 128, less if there are fewer."""
    size = min(args.utterances, 128)
    return np.arange(args.utterances // size * size, dtype=np.int32).reshape(-1, size)


def availability() -> np.ndarray:
    """`[K, M]`, of CONDITIONS."""
    return np.array([[name[0] in condition for name in DIMS] for condition in CONDITIONS])


class Clock:
    """Wall seconds of a call; `cpu` then tells its CPU seconds, over all threads."""

    def __init__(self):
        self._cpu = 0.0

    def time(self, call) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self._cpu = time.process_time() - cpu
        return time.perf_counter() - wall

    def cpu(self, _: str) -> float:
        return self._cpu
