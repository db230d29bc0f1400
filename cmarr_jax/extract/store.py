"""Finished batches on disk: whole shards and a journal, so that a killed run can resume.

    FOLDER/recipe.json      what made the features
    FOLDER/000123.npy       one batch's rows, [sum_T, D]
    FOLDER/journal.jsonl    a line a shard: [id, rows, status, detail] of its utterances

A shard is whole under its name before its line is added to the journal. Opening the folder drops
lines without a shard, and the half-written last line of a killed run.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cmarr_jax.runtime.files import opened, remove_drafts, sync, write_whole


class Entry(NamedTuple):
    """Where one utterance's features lie, and how its extraction ended."""

    shard: str
    start: int
    rows: int
    status: str
    detail: str


class Store:
    """The shards of one modality made by one recipe."""

    def __init__(self, folder: str, recipe: dict, dim: int, dtype: str):
        self._folder, self._dim, self.dtype = folder, dim, np.dtype(dtype)
        self._journal = os.path.join(folder, "journal.jsonl")
        self.entries: dict[str, Entry] = {}
        os.makedirs(folder, exist_ok=True)
        remove_drafts(folder)  # safe, because the caller holds the lock
        shown = json.dumps(recipe, indent=2, sort_keys=True)
        write_whole(os.path.join(folder, "recipe.json"), shown.encode())
        lines = []
        for line in self._lines():
            shard, members = line["shard"], line["utterances"]
            if self._is_whole(shard, sum(rows for _, rows, _, _ in members)):
                lines.append(line)
                self._enter(shard, members)
        write_whole(self._journal, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def add(self, shard: str, batch: Sequence[tuple[str, np.ndarray, str, str]]) -> None:
        """Keeps one batch: (id, features `[T, D]`, status, detail) of each utterance in it."""
        file = os.path.join(self._folder, f"{shard}.npy")
        with opened(file) as f:
            np.save(f, np.concatenate([features for _, features, _, _ in batch]))
        members = [(i, len(features), status, detail) for i, features, status, detail in batch]
        with open(self._journal, "a", encoding="utf-8") as f:
            f.write(json.dumps({"shard": shard, "utterances": members}) + "\n")
            sync(f)
        self._enter(shard, members)

    def reject(self, identifier: str, status: str, detail: str) -> None:
        """Notes for this run why an utterance has no features; the next run tries again."""
        self.entries[identifier] = Entry("", 0, 0, status, detail)

    def features(self, identifier: str) -> np.ndarray:
        """Features of one utterance, `[T, D]`; `T = 0` if the store has none."""
        entry = self.entries[identifier]
        if entry.rows == 0:
            return np.zeros((0, self._dim), self.dtype)
        shard = np.load(os.path.join(self._folder, f"{entry.shard}.npy"), mmap_mode="r")
        return shard[entry.start : entry.start + entry.rows]

    def _enter(self, shard: str, members: Iterable[tuple]) -> None:
        start = 0
        for identifier, rows, status, detail in members:
            self.entries[identifier] = Entry(shard, start, rows, status, detail)
            start += rows

    def _lines(self) -> Iterator[dict]:
        if not os.path.exists(self._journal):
            return
        with open(self._journal, encoding="utf-8", errors="replace") as f:
            for text in f:
                with contextlib.suppress(json.JSONDecodeError):
                    yield json.loads(text)

    def _is_whole(self, shard: str, rows: int) -> bool:
        try:
            array = np.load(os.path.join(self._folder, f"{shard}.npy"), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return array.shape == (rows, self._dim) and array.dtype == self.dtype
