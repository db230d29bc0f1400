"""What train.py compiles and runs, the epoch and the scorer, on arrays that a benchmark makes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax.data import pipeline, protocol
from cmarr_jax.experiment.prepare import make_masking
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.training import loop, vector
from cmarr_jax.training.evaluation import Scorer
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.training.runs import RunId, Settings, make_runs
from cmarr_jax.training.vector import make_vectors


def corpus_of(data: dict[str, Any]) -> pipeline.Corpus:
    """A corpus of four classes of `training_inputs.make_features`' arrays."""
    return pipeline.Corpus("random", tuple("abcd"), {}, provenance={}, **data)


class CompiledSweep:
    """A sweep of `num_runs` over a whole corpus, on one device if there is one run."""

    def __init__(self, config: ConfigDict, corpus: pipeline.Corpus, num_runs: int = 1):
        system = SYSTEMS[config.system](
            FrozenConfigDict(config.model), corpus.modalities, len(corpus.class_names), None
        )
        (self.stage,) = system.stages
        self.layout = make_layout(num_runs, (1,), config.layout)
        self._config, self._corpus = config, corpus
        everything = np.arange(len(corpus.labels), dtype=np.int32)
        fold = protocol.Fold(1, "none", everything, everything, everything)
        run_ids = [RunId(fold, seed) for seed in range(num_runs)]
        (self.vector,) = make_vectors(system.stages, corpus)
        settings = Settings.of(config, system.stages) * num_runs
        runs = make_runs(corpus, run_ids, config, "train", settings=settings)
        self.params = vector.init_params(self.stage, self.vector, runs.key, corpus)
        self._feed, self._runs = Feed(corpus, self.layout), self.layout.deal(runs)

    def epoch(self, order: np.ndarray) -> tuple[Callable, tuple]:
        """The pmapped epoch that trains each run on the rows of `order` `[S, B]`, and its
        arguments, of which it takes over the first, the state.
        """
        config, layout = self._config, self.layout
        conditions = protocol.make_conditions(self._corpus.modalities)
        masking = make_masking(config.masking, conditions)
        state, epoch = loop.compile_epoch(
            self.stage, self.vector, self.params, masking, config.train, layout
        )
        order = np.broadcast_to(order, (len(self.params), *order.shape)).copy()
        ((rows, arrays),) = self._feed.steps(order)
        return epoch, (layout.deal(state), self._runs, layout.deal_rows(rows), arrays)

    def train(self, order: np.ndarray) -> Callable[[], None]:
        """A function that trains each run on the rows of `order` `[S, B]`, and waits."""
        epoch, (state, *rest) = self.epoch(order)

        def run():
            nonlocal state
            state, terms = epoch(state, *rest)
            self.layout.collect(terms)

        return run

    def evaluate(
        self, rows: np.ndarray, conditions: Sequence[protocol.Condition]
    ) -> Callable[[], None]:
        """A function that scores each run on `rows` `[N, B]` under the conditions."""
        scorer = Scorer(
            self.stage, self.vector, self.layout, self._runs, self._feed, self._corpus,
            rows.shape[1],
        )  # fmt: skip
        params = self.layout.deal(np.asarray(self.params))
        each = [rows.reshape(-1)] * len(self.params)
        return lambda: scorer.score(params, each, conditions)
