"""Scores a sweep's models on their own utterances under every condition."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cmarr_jax import metrics
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition
from cmarr_jax.systems.system import Stage
from cmarr_jax.training import predict_step, train_step
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import Layout
from cmarr_jax.training.vector import Vector
from cmarr_jax.workdir.status import Stopped


class Scored(NamedTuple):
    """One run's predictions on n utterances under K conditions."""

    rows: np.ndarray  # [n], which utterances of the corpus
    posteriors: np.ndarray  # [K, n, C] float32
    recovery: np.ndarray  # [K, n, M, 2]; squared error, squared length of what was missing
    predictable: np.ndarray  # [K, n] bool; False = it has none of the condition's modalities

    @property
    def rec_errors(self) -> np.ndarray:
        """Squared error over squared length of all that was missing, `[K, n]`; NaN: nothing was."""
        return _ratio(self.recovery.sum(axis=2))

    @property
    def rec_errors_by_modality(self) -> np.ndarray:
        """The same for each modality, `[K, n, M]`."""
        return _ratio(self.recovery)

    def confusion(self, labels: np.ndarray) -> np.ndarray:
        """Counts `[K, C, C]` over the predictable utterances; `labels` `[N]` of the corpus."""
        predicted = self.posteriors.argmax(axis=-1)
        return np.stack(
            [
                metrics.confusion_matrix(
                    labels[self.rows[ok]], guess[ok], self.posteriors.shape[-1]
                )
                for guess, ok in zip(predicted, self.predictable, strict=True)
            ]
        )


def _ratio(recovery: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return recovery[..., 0] / recovery[..., 1]


class Validated(NamedTuple):
    """What chooses an epoch and what is shown beside it, over all conditions together."""

    uar: np.ndarray  # [R] float32
    cross_entropy: np.ndarray  # [R] float32, see metrics.cross_entropy


class Scorer:
    """Predicts in batches of one fixed shape, so that validation and test share a program."""

    def __init__(
        self,
        stage: Stage,
        vector: Vector,
        layout: Layout,
        runs: train_step.Run[jax.Array],
        feed: Feed,
        corpus: Corpus,
        batch_size: int,
    ):
        self._layout, self._runs, self._feed = layout, runs, feed
        self._corpus, self._batch_size = corpus, batch_size
        self.vector = vector
        self._predict = {
            noisy: layout.compile(predict_step.make_predict(stage, vector, noisy))
            for noisy in (False, True)
        }

    @property
    def runs(self) -> train_step.Run[np.ndarray]:
        """The runs' constants on the host, `[R, ...]`."""
        return self._layout.collect(self._runs)

    def score(
        self, params: jax.Array, rows: Sequence[np.ndarray], conditions: Sequence[Condition]
    ) -> list[Scored]:
        """Predictions of each run r on the utterances `rows[r]`; `params` as `Layout.deal` gives.

        All conditions are scored in one pass, so they must have the same noise; lost frames stand
        alone.
        """
        probe = self._probe(conditions)
        predict = self._predict[bool(probe.gaussian or probe.impulse)]
        shared = self._layout.share(probe)
        width = max(len(r) for r in rows)
        width += -width % self._batch_size
        orders = [self._order(r) for r in rows]
        taken = [r[order] for r, order in zip(rows, orders, strict=True)]
        padded = np.stack([np.resize(r, width) for r in taken]).astype(np.int32)
        predicted = []
        for chunk, arrays in self._feed.steps(padded.reshape(len(rows), -1, self._batch_size)):
            for batch in (b for b in np.moveaxis(chunk, 1, 0) if b.max() >= 0):
                dealt = self._layout.deal_rows(batch)
                posteriors, recovery, _ = predict(params, self._runs, dealt, (arrays, shared))
                both = posteriors, recovery
                predicted.append([self._layout.collect_rows(x, axis=2) for x in both])
        posteriors, recovery = (np.concatenate(p, axis=2) for p in zip(*predicted, strict=True))
        present, back = self._corpus.present, [np.argsort(order) for order in orders]
        return [
            Scored(
                r,
                posteriors[k][:, back[k]],
                recovery[k][:, back[k]],
                (probe.available[:, r] & present[r][None]).any(axis=-1),
            )
            for k, r in enumerate(rows)
        ]

    def _order(self, rows: np.ndarray) -> np.ndarray:
        """In which order to predict utterances: alike ones together, see `encoders`."""
        total = self._corpus.total_rows
        return np.arange(len(rows)) if total is None else np.argsort(total[rows], kind="stable")

    def validate(
        self,
        params: jax.Array,
        rows: Sequence[np.ndarray],
        conditions: Sequence[Condition],
        labels: np.ndarray,
    ) -> Validated:
        """Scores each run on `rows[r]`, over the predictions of all conditions together.

        The scores are NaN where a posterior is not finite. `labels` `[R, N]` are those that each
        run learns from, so that a control with shuffled labels is chosen by these.
        """
        scored = self.score(params, rows, conditions)
        both = np.full((2, len(scored)), np.nan, np.float32)
        for r, (s, y) in enumerate(zip(scored, labels, strict=True)):
            if np.isfinite(s.posteriors).all():
                truth = np.broadcast_to(y[s.rows], s.predictable.shape)[s.predictable]
                both[0, r] = metrics.scores(s.confusion(y).sum(axis=0)).uar
                both[1, r] = metrics.cross_entropy(s.posteriors[s.predictable], truth)
        return Validated(*both)

    def score_best(
        self,
        params: np.ndarray,
        rows: Sequence[np.ndarray],
        conditions: Sequence[Condition],
        curves: Sequence[Condition] = (),
    ) -> list[Scored]:
        """`score` for `params` `[R, P]` on the host, under `conditions` and then `curves`."""
        params = self._layout.deal(params)
        passes = [conditions]
        for is_degraded, some in itertools.groupby(curves, lambda c: c.is_degraded):
            together = list(some)
            passes += [[c] for c in together] if is_degraded else [together]
        scored = zip(*(self.score(params, rows, p) for p in passes), strict=True)
        return [
            Scored(run[0].rows, *(np.concatenate(x) for x in list(zip(*run, strict=True))[1:]))
            for run in scored
        ]

    def probe(
        self,
        params: np.ndarray,
        runs: train_step.Run,
        rows: np.ndarray,
        conditions: Sequence[Condition],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors `[R, K, B, C]` of one batch, and means of what is recovered `[R, K, B, D]`.

        Args:
          params: `[R, P]` on the host.
          runs: the runs' constants on the host, `[R, ...]`.
          rows: utterances; a batch of them is taken.
          conditions: as many as the scorer is otherwise given, whose program serves here too.
        """
        padded = np.resize(rows, self._batch_size).astype(np.int32)
        padded = np.broadcast_to(padded, (len(params), 1, self._batch_size))
        ((batch, arrays),) = self._feed.steps(padded)
        probe = self._layout.share(self._probe(conditions))
        dealt = self._layout.deal(params), self._layout.deal(runs)
        posteriors, _, means = self._predict[False](
            *dealt, self._layout.deal_rows(batch[:, 0]), (arrays, probe)
        )
        posteriors, means = (self._layout.collect_rows(x, axis=2) for x in (posteriors, means))
        return posteriors, means[:, :, :, 0]

    def represent(
        self,
        params: np.ndarray,
        rows: Sequence[np.ndarray],
        conditions: Sequence[Condition],
        stopped: Sequence[Stopped | None],
        runs: slice,
    ) -> tuple[np.ndarray, ...]:
        """What one run recovers, and the truth, where one modality alone is missing.

        Args:
          params: `[R, P]` on the host.
          rows: utterances of each run; at most a batch of those with every modality is used.
          conditions: as given to `score_best`, so that its compiled program is used again.
          stopped: where each run was stopped; None = it was not.
          runs: the first of these that was not stopped is shown.

        Returns:
          Two arrays `[M, n, D]`, recovered and true; nothing if the system recovers nothing, or if
          no run or no utterance is left.
        """
        whole = [r for r in range(len(rows))[runs] if not stopped[r]]
        if not whole or self._corpus.present.shape[1] < 2:
            return ()
        run = whole[0]
        chosen = rows[run][self._corpus.present[rows[run]].all(axis=1)]
        if not len(chosen):
            return ()
        padded = np.resize(chosen, self._batch_size).astype(np.int32)
        padded = np.broadcast_to(padded, (len(params), 1, self._batch_size))
        ((batch, arrays),) = self._feed.steps(padded)
        dealt = self._layout.deal_rows(batch[:, 0])
        probe = self._layout.share(self._probe(conditions))
        *_, means = self._predict[False](
            self._layout.deal(params), self._runs, dealt, (arrays, probe)
        )
        means = self._layout.collect_rows(means, axis=2)[run, :, : len(chosen)]
        if not means.shape[-1]:
            return ()
        known = [np.asarray(c.available).tolist() for c in conditions]
        alone = [known.index(row) for row in (~np.eye(len(known[0]), dtype=bool)).tolist()]
        return means[alone, :, 0], means[alone, :, 1]

    def _probe(self, conditions: Sequence[Condition]) -> predict_step.Probe[np.ndarray]:
        """The probe of `conditions`: of the same noise; one alone where it loses frames."""
        (gaussian, impulse), *others = {(c.gaussian, c.impulse) for c in conditions}
        assert not others and (len(conditions) == 1 or all(c.lost is None for c in conditions))
        lost = conditions[0].lost
        if lost is not None:
            lost = dict(zip(self._corpus.modalities, np.moveaxis(lost, 1, 0), strict=True))
        shape = self._corpus.present.shape
        available = np.stack([np.broadcast_to(c.available, shape) for c in conditions])
        levels = [np.array(level, np.float32) for level in (gaussian, impulse)]
        return predict_step.Probe(available, levels[0], levels[1], lost)
