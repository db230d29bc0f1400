"""What one program trains: sweeps that are alike, on one corpus, under the same conditions."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from ml_collections import ConfigDict

from cmarr_jax import config as config_lib
from cmarr_jax.data import audit
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition
from cmarr_jax.systems.precision import Precision
from cmarr_jax.systems.system import Stage, System
from cmarr_jax.training import encoders
from cmarr_jax.training.runs import RunId, Settings, learners
from cmarr_jax.training.teachers import Teachers
from cmarr_jax.training.train_step import Masking
from cmarr_jax.training.vector import Vector, make_vectors


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of one config, and what the results say about it.

    Attributes:
      config: a whole config, as `configs/` makes it.
      identity: corpus, system, variant and protocol, as in every results file.
      run_ids: fold and seed of each run.
      settings: for each stage, the numbers in which sweeps of one program may differ.
    """

    config: ConfigDict
    identity: Mapping[str, str]
    run_ids: Sequence[RunId]
    settings: tuple[Settings, ...]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """R runs of one or several sweeps that one program trains.

    Attributes:
      sweeps: they differ in numbers alone, see `cmarr_jax.experiment.groups`; their runs, one
        sweep after another, are the R runs.
      corpus: all N utterances.
      conditions: of the test, and of the validation that chooses the last stage's epoch; the last
        condition is complete data, under which the epoch of an earlier stage is chosen.
      masking: how training hides modalities.
      make_system: mapped batch axis or None -> the system.
      teachers: where the models of earlier stages are kept.
      digest: -> the corpus' digest, computed once.
      curves: further conditions of the test: missing rates, noise levels, lost frames.
      audited: what `cmarr_jax.data.audit` found.
      memory: bytes that training is expected to take; 0 = unknown.
      steps: of each run, the most steps that an epoch takes; None = all, the whole training part.
    """

    sweeps: Sequence[Sweep]
    corpus: Corpus
    conditions: Sequence[Condition]
    masking: Masking
    make_system: Callable[[str | None], System]
    teachers: Teachers
    digest: Callable[[], bytes]
    curves: Sequence[Condition] = ()
    audited: Mapping[str, object] = dataclasses.field(default_factory=dict)
    memory: int = 0
    steps: Sequence[int] | None = None

    @property
    def config(self) -> ConfigDict:
        """The first sweep's config; the others agree with it in all that the program reads."""
        return self.sweeps[0].config

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The system's stages in order; the last one is tested."""
        return self.make_system(None).stages

    @property
    def precision(self) -> Precision:
        """In what all stages compute."""
        return self.stages[-1].precision

    @functools.cached_property
    def vectors(self) -> list[Vector]:
        """How the parameters of each stage lie."""
        return make_vectors(self.stages, self.corpus)

    @functools.cached_property
    def seen(self) -> Corpus:
        """The corpus as the system sees it before its encoders have learnt anything."""
        return encoders.as_published(self.corpus, self.stages[0])

    @property
    def layout(self) -> str:
        """How runs lie on a device, as `layout.make_layout` takes it.

        Runs with encoders of their own go one after another: vmapped, each would need the memory of
        all its activations at the same time, and every bucket of lengths would be computed.
        """
        chosen = self.config.layout
        return "map" if chosen == "auto" and self.stages[0].encoders else chosen

    @property
    def sections(self) -> list[str]:
        """For each stage the name of the config's section with its training."""
        return config_lib.sections(len(self.stages))

    @property
    def run_ids(self) -> list[RunId]:
        """Fold and seed of each of the R runs."""
        return [run_id for sweep in self.sweeps for run_id in sweep.run_ids]

    def learners(self, number: int) -> list[RunId]:
        """The R runs with what stage `number` learns from as their training parts."""
        return learners(self.run_ids, self.corpus, self.stages[number])

    def validated(self, number: int) -> list[Condition]:
        """The conditions under which stage `number` is validated.

        Modalities that are dropped from the training part are dropped here too.
        """
        last = number == len(self.stages) - 1
        conditions = self.conditions if last else self.conditions[-1:]
        if self.corpus.dropped is None:
            return list(conditions)
        left = self.corpus.learnable
        return [c._replace(available=np.asarray(c.available) & left) for c in conditions]

    @property
    def settings(self) -> list[tuple[Settings, ...]]:
        """The settings of each run in each stage."""
        return [sweep.settings for sweep in self.sweeps for _ in sweep.run_ids]

    @property
    def slices(self) -> list[slice]:
        """For each sweep, which of the R runs are its own."""
        ends = np.cumsum([0] + [len(sweep.run_ids) for sweep in self.sweeps]).tolist()
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    @property
    def scheme(self) -> str:
        """Whose folds these are, in words; "" where nothing was audited."""
        return audit.scheme_text(self.audited) if self.audited else ""

    @property
    def gaps(self) -> list[str]:
        """What the folds lack and what takes no part, a line each."""
        return list(cast(Sequence[str], self.audited.get("gaps", ())))

    @property
    def advice(self) -> str:
        """What would suit the corpus better, in words; "" if nothing is known."""
        length = self.config.data.length
        if self.corpus.longest != 1 or length == 1:
            return ""
        return (
            f"this pack has one vector for each modality, which data.length={length} repeats; the "
            "variant pooled is made for that: --config FILE.py:pooled, or :pooled,SYSTEM"
        )

    @property
    def variants(self) -> str:
        """The variants of all sweeps, as text for people."""
        names = [sweep.identity["variant"] for sweep in self.sweeps]
        return "; ".join(names if len(names) < 4 else [names[0], "...", names[-1]])
