"""What the engine knows of a modality: how to read an utterance and how to encode a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Utterance(NamedTuple):
    """One turn of a corpus, as its reader yields it."""

    id: str
    session: str
    speaker: str
    label: str  # class name or ""
    group: str  # dialogue
    text: str | None  # None = no transcript
    wav: str | None  # path, None = no file
    video: str | None  # path, None = no file
    start: float | None  # seconds in the dialogue's video
    end: float | None
    side: str | None  # "left" | "right" half of the frame, None = whole frame
    split: str = ""  # "train" | "val" | "test" where the corpus has official parts
    wav_span: tuple[float, float | None] | None = None  # seconds of `wav`; None = it is the turn

    @property
    def seconds(self) -> float | None:
        """How long it lasts by the label file; None = that does not say."""
        return None if self.start is None or self.end is None else self.end - self.start


class Release(NamedTuple):
    """What a reader of `corpora/` found."""

    utterances: list[Utterance]  # in the order of the pack
    class_names: tuple[str, ...]
    warnings: list[str]  # one line each
    modalities: str = "t,s"  # encoded if no flag names others
    name: str = ""  # the corpus', where it is not the reader's


class Loaded(NamedTuple):
    """One utterance in one modality, decoded, or why it could not be."""

    # ok truncated cut_short repaired | too_short silent unreadable nonfinite no_face missing_text
    # missing_file
    status: str
    item: Any  # None after the bar
    detail: str = ""  # for problems.csv


class Source(NamedTuple):
    """One modality: pure functions from utterances to features `[T_i, D]`."""

    modality: str  # "text" | "speech" | "video"
    dim: int  # D
    unit: str  # of the progress bar: "tokens", "s of audio", "frames"
    # JSON-able; everything that changes the numbers (weights' sha256, options, code version);
    # hashed by the engine.
    recipe: dict
    # Cheap estimate in `unit` for progress and sorting (no decoding; e.g. file size / header).
    amount: Callable[[Utterance], float]
    # Decode, resample, tokenise; runs in a prefetch thread; never raises for bad data.
    load: Callable[[Utterance], Loaded]
    # Item -> padded length.
    bucket: Callable[[Any], int]
    # Bucket -> rows B.
    batch_size: Callable[[int], int]
    # Bucket, items (<= B) -> float32 [T_i, D] each; pads to [B, bucket] itself; T_i may be 0.
    encode: Callable[[int, Sequence[Any]], list[np.ndarray]]
    # Loaded utterances that may wait for the device.
    ahead: int = 64
