"""Scores a sweep's models on their own utterances under every condition."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax import metrics, sweep, train_step
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition
from cmarr_jax.systems.system import System


class Scored(NamedTuple):
    """One run's predictions on n utterances under K conditions."""

    rows: np.ndarray  # [n], utterances
    posteriors: np.ndarray  # [K, n, C] float32
    rec_errors: np.ndarray  # [K, n]; NaN where nothing was recovered
    predictable: np.ndarray  # [K, n] bool; False = has none of the condition's modalities

    def confusion(self, labels: np.ndarray) -> np.ndarray:
        """`[K, C, C]` over the predictable utterances; `labels` are the corpus'."""
        predicted = self.posteriors.argmax(axis=-1)
        return np.stack(
            [
                metrics.confusion_matrix(
                    labels[self.rows[ok]], guess[ok], self.posteriors.shape[-1]
                )
                for guess, ok in zip(predicted, self.predictable, strict=True)
            ]
        )


class Scorer:
    """Predicts in batches of one fixed shape, so that validation and test share a program."""

    def __init__(
        self,
        system: System,
        vector: train_step.Vector,
        layout: sweep.Layout,
        runs: train_step.Run,
        arrays: train_step.Arrays,
        corpus: Corpus,
        conditions: Sequence[Condition],
        batch_size: int,
    ):
        self._layout, self._runs, self._arrays = layout, runs, arrays
        self._corpus, self._batch_size = corpus, batch_size
        self._available = np.array([c.available for c in conditions])
        self._predict = layout.compile(train_step.make_predict(system, vector, self._available))

    def score(self, params: Any, rows: Sequence[np.ndarray]) -> list[Scored]:
        """Predictions of run r on the utterances `rows[r]`; `params` as placed by the layout."""
        width = max(len(r) for r in rows)
        width += -width % self._batch_size
        padded = np.stack([np.resize(r, width) for r in rows]).astype(np.int32)
        parts = []
        for start in range(0, width, self._batch_size):
            batch = self._layout.deal_rows(padded[:, start : start + self._batch_size])
            posteriors, errors = self._predict(params, self._runs, batch, self._arrays)
            parts.append(
                (
                    self._layout.collect_rows(posteriors, axis=2),
                    self._layout.collect_rows(errors, axis=2),
                )
            )
        posteriors, errors = (np.concatenate(p, axis=2) for p in zip(*parts, strict=True))
        present = self._corpus.present
        return [
            Scored(
                r,
                posteriors[k, :, : len(r)],
                errors[k, :, : len(r)],
                (self._available[:, None, :] & present[r][None]).any(axis=-1),
            )
            for k, r in enumerate(rows)
        ]

    def pooled_uar(self, params: Any, rows: Sequence[np.ndarray]) -> np.ndarray:
        """`[R]` UAR of each run on `rows[r]`, all conditions' predictions pooled."""
        scored = self.score(params, rows)
        pooled = [s.confusion(self._corpus.labels).sum(axis=0) for s in scored]
        return np.array([metrics.scores(c).uar for c in pooled], np.float32)

    def score_best(self, params: Any, rows: Sequence[np.ndarray]) -> list[Scored]:
        """Like `score` for `params` on the host, leaves `[R, ...]`."""
        return self.score(self._layout.deal(params), rows)
