"""What train.py compiles and runs, the epoch and the scorer, on arrays that a benchmark makes."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax import config as config_lib
from cmarr_jax import systems
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.experiment.prepare import make_masking
from cmarr_jax.systems.precision import FLOAT32, Precision
from cmarr_jax.systems.system import Encoder
from cmarr_jax.training import loop, predict_step, train_step, vector
from cmarr_jax.training.encoders import with_encoders
from cmarr_jax.training.evaluation import Scorer
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.training.runs import RunId, Settings, make_runs
from cmarr_jax.training.vector import make_vectors


def corpus_of(data: dict[str, Any]) -> pipeline.Corpus:
    """A corpus of four classes of `training_inputs.make_features`' arrays."""
    return pipeline.Corpus("random", tuple("abcd"), {}, provenance={}, **data)


def _system(config: ConfigDict, corpus: pipeline.Corpus, precision: Precision) -> systems.System:
    model = FrozenConfigDict(config.model)
    shape = corpus.modalities, len(corpus.class_names)
    return systems.make(config.system, model, *shape, precision=precision)


class Program(NamedTuple):
    """What an accelerator runs, all runs vmapped, to be lowered and looked at."""

    name: str  # of the stage, and "training" or "evaluation"
    function: Callable
    shapes: tuple  # of its arguments


def programs(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    num_runs: int = 1,
    precision: Precision = FLOAT32,
    steps: int = 2,
) -> Iterator[Program]:
    """The epoch of `steps` steps and the scoring of a batch of each stage; nothing is computed."""
    stages = _system(config, corpus, precision).stages
    everything = np.arange(len(corpus.labels), dtype=np.int32)
    fold = protocol.Fold(1, "none", everything, everything, everything)
    run_ids = [RunId(fold, seed) for seed in range(num_runs)]
    settings = Settings.of(config, stages)
    conditions = protocol.make_conditions(corpus.modalities)
    masking = make_masking(config.masking, conditions)
    arrays = train_step.Arrays(corpus.features, corpus.mask, corpus.present)
    sections = config_lib.sections(len(stages))
    for k, (stage, of, section) in enumerate(
        zip(stages, make_vectors(stages, corpus), sections, strict=True)
    ):
        c = config[section]
        runs = make_runs(corpus, run_ids, config, section, settings=[settings[k]] * num_runs)
        optimizer = train_step.make_optimizer(clip_norm=c.clip_norm, beta1=c.beta1)
        rate = functools.partial(train_step.learning_rate, warmup=c.warmup, schedule=c.schedule)
        epoch = train_step.make_train_epoch(stage, of, optimizer, rate, masking, c.averaging)
        params = jax.ShapeDtypeStruct((num_runs, of.size), np.float32)
        counts = jax.ShapeDtypeStruct((num_runs,), np.int32)
        moments = jax.eval_shape(jax.vmap(optimizer.init), params)
        state = train_step.TrainState(params, params, moments, counts)
        order = jax.ShapeDtypeStruct((num_runs, steps, c.batch_size), np.int32)
        shapes = jax.eval_shape(lambda *x: x, state, runs, order, arrays)
        yield Program(f"{stage.name}, training", jax.vmap(epoch, in_axes=(0, 0, 0, None)), shapes)
        predict = predict_step.make_predict(stage, of)
        available = np.ones((len(conditions), *corpus.present.shape), bool)
        probe = predict_step.Probe(available, np.float32(0), np.float32(0))
        rows = jax.ShapeDtypeStruct((num_runs, c.eval_batch_size), np.int32)
        shapes = jax.eval_shape(lambda *x: x, params, runs, rows, (arrays, probe))
        yield Program(
            f"{stage.name}, evaluation", jax.vmap(predict, in_axes=(0, 0, 0, None)), shapes
        )


class CompiledSweep:
    """A sweep of `num_runs` over a whole corpus, on one device if there is one run."""

    def __init__(
        self,
        config: ConfigDict,
        corpus: pipeline.Corpus,
        num_runs: int = 1,
        precision: Precision = FLOAT32,
        encoders: Sequence[Encoder] = (),
    ):
        system = with_encoders(_system(config, corpus, precision), encoders)
        (self.stage,) = system.stages
        layout = "map" if encoders else config.layout  # see `Experiment.layout`
        self.layout = make_layout(num_runs, (1,), layout)
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
