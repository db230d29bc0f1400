"""What a person sees while a sweep runs: one bar in a terminal, plain lines elsewhere."""

import sys
from typing import Any

import numpy as np
import tqdm


class Progress:
    """Writes to standard error, so that standard output holds the table alone."""

    def __init__(self):
        self._interactive = sys.stderr.isatty()
        self._bar = None

    def start(self, pack: str) -> None:
        """Says what is being read; preparing a pack for the first time takes a while."""
        self._say(f"reading {pack} ...")

    def reading(self, done: int, total: int) -> None:
        """Shows how many utterances were read."""
        if not self._interactive:
            return
        if self._bar is None:
            self._bar = tqdm.tqdm(total=total, desc="reading", unit="utt", leave=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._close()

    def sweep(self, identity: dict, corpus: Any, run_ids: Any, stages: Any, device: str) -> None:
        """Says what will be trained, before it is."""
        folds = len({fold.number for fold, _ in run_ids})
        self._say(
            f"{identity['system']} ({identity['variant']}) on {identity['corpus']}: "
            f"{len(corpus.labels)} utterances, {', '.join(corpus.modalities)}; "
            f"{folds} folds x {len(run_ids) // folds} seeds on {device}"
            + "".join(f"; {k}: {stage.name}" for k, stage in enumerate(stages, 1) if stages[1:])
        )
        self._say("compiling ...")

    def measure(self) -> None:
        """Says that a dry run has begun, which compiles too."""
        self._say("compiling and measuring a few steps ...")

    def epoch(self, epoch: Any) -> None:
        """Shows one finished epoch, `training.Epoch`."""
        best = f"{100 * epoch.best_uar.mean():.1f}"
        losses = epoch.terms["loss"][epoch.trained]
        facts = {"loss": f"{losses.mean():.3f}", "best val UAR %": best}
        if np.isfinite(epoch.utterances_per_second):
            facts["utt/s"] = f"{epoch.utterances_per_second:.0f}"
        name = epoch.stage.replace("_", " ") + "epoch"
        for stopped in epoch.stopped:
            self._say(f"{stopped}; the other runs go on")
        if not self._interactive:
            text = ", ".join(f"{k} {v}" for k, v in facts.items())
            self._say(f"{name} {epoch.number}/{epoch.total}: {text}")
            return
        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=epoch.total, initial=epoch.number - 1, desc=name, unit="epoch", leave=False
            )
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(1)
        if epoch.number == epoch.total:
            self._close()

    def done(self, workdir: str, seconds: float) -> None:
        """Says where the results lie."""
        self._close()
        self._say(f"done in {seconds:.0f} s; results lie in {workdir}")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
