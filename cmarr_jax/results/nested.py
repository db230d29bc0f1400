"""A tuned system: in each fold the trial that did best on this fold's own validation part.

Settings that are chosen once for all folds have been chosen on utterances that other folds test on.
So the choice is made within the fold (Cawley and Talbot, "On over-fitting in model selection and
subsequent selection bias in performance evaluation", JMLR 11, 2010), and the results of the folds,
each of its own trial, are joined to those of one system. No test score is looked at before.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from cmarr_jax.results import arrays, rows
from cmarr_jax.results.summary import number, summarise
from cmarr_jax.runtime.files import remove_drafts, write_csv, write_json, write_whole
from cmarr_jax.runtime.lock import locked
from cmarr_jax.workdir import files, status
from cmarr_jax.workdir.ownership import make_folder

VARIANT = "tuned"  # after the trials' own, in every row
_DIFFERS = f"chosen in each fold, see {files.TUNING}"  # in config.json
_ALIKE = ("system", "fold", "seed", "num_seeds", "data.pack", "data.data_dir")
_ALIKE_SECTIONS = ("protocol.", "robustness.")
_COPIED = (files.AUDIT, files.REPRESENTATIONS)  # of the first run's trial


class Trial(NamedTuple):
    """One setting that was trained on every fold."""

    name: str
    folder: str
    fields: Mapping[str, object]  # that it sets


class Choice(NamedTuple):
    """What one fold chose."""

    fold: int
    trial: str
    val_uar: dict[str, float]  # trial -> mean over the fold's seeds; NaN where one was stopped


def choose(
    val_uar: Mapping[str, Mapping[tuple[int, int], float]], runs: Sequence[tuple[int, int]]
) -> list[Choice]:
    """For each fold the trial with the best mean over the fold's seeds; of equal ones the first.

    A trial that lacks one of a fold's runs is not chosen there: its mean would be of others.

    Args:
      val_uar: trial -> (fold, seed) -> the chosen epoch's UAR on the validation part.
      runs: (fold, seed) of all runs.

    Raises:
      UserError: no trial has all runs of a fold.
    """
    choices = []
    for fold in dict.fromkeys(fold for fold, _ in runs):
        own = [run for run in runs if run[0] == fold]
        means = {
            trial: float(np.mean([of_run.get(run, np.nan) for run in own]))
            for trial, of_run in val_uar.items()
        }
        whole = {trial: mean for trial, mean in means.items() if not np.isnan(mean)}
        if not whole:
            raise UserError(
                f"fold {fold}: in each of the {len(means)} trials one of its runs was stopped, so "
                "none can be chosen; add trials with lower learning rates"
            )
        choices.append(Choice(fold, max(whole, key=whole.__getitem__), means))
    return choices


def write(workdir: str, trials: Sequence[Trial], variant: str) -> list[Choice]:
    """Chooses in each fold, and writes the results of the chosen ones as those of one system.

    The folder is complete or says that it is not, as any other; there is no model in it, since
    folds may differ in theirs.

    Args:
      workdir: of the tuned system; created if need be.
      trials: all of them, ended.
      variant: what the trials have in common, "default" or such as "pooled".

    Raises:
      UserError: the trials are of different systems, corpora, protocols, seeds or conditions, or
        validated on the test part or not at all; no trial has all runs of a fold; a file of one is
        missing or damaged; or the folder cannot be written.
    """
    configs = {t.name: files.read_json(os.path.join(t.folder, files.CONFIG)) for t in trials}
    _check_alike(trials, configs)
    status.check_same_corpus([t.folder for t in trials])
    facts = {t.name: {(r["fold"], r["seed"]): r for r in rows.read_runs(t.folder)} for t in trials}
    runs = _runs(trials, facts)
    scores = {name: {run: r["val_uar"] for run, r in of.items()} for name, of in facts.items()}
    if any(uar is None for of_run in scores.values() for uar in of_run.values()):
        raise UserError(
            f"{trials[0].folder}: has no validation part (protocol.validation=none), so nothing to "
            "choose a trial by; train with another protocol.validation"
        )
    choices = choose(scores, runs)
    folder_of = {t.name: t.folder for t in trials}
    chosen = _Chosen({c.fold: folder_of[c.trial] for c in choices}, runs)
    own = variant.split(",") if variant != "default" else []
    named = {"variant": ",".join([*own, VARIANT])}
    results = _renamed(chosen, named, len(trials))
    make_folder("--workdir", workdir)
    with locked(workdir):
        remove_drafts(workdir)
        state: dict[str, Any] = {"complete": False, "trials": len(trials)}
        write_json(os.path.join(workdir, files.STATUS), state)
        config = _common(configs) | named | {"members": []}
        write_json(os.path.join(workdir, files.CONFIG), config)
        _write(workdir, chosen, results)
        write_csv(os.path.join(workdir, files.TUNING), _tuning(trials, choices, runs, facts))
        write_json(os.path.join(workdir, files.STATUS), state | _ended(trials, choices, chosen))
    return choices


def table(choices: Sequence[Choice]) -> str:
    """What each fold chose, beside the first trial, in per cent; and which could not be chosen."""
    width = max(len("trial"), *(len(c.trial) for c in choices))
    lines = [f"fold  {'trial':<{width}}  {'validation UAR %':>16}  {'first trial %':>13}"]
    stopped = []
    for fold, trial, val_uar in choices:
        first, best = 100 * next(iter(val_uar.values())), 100 * val_uar[trial]
        shown = "stopped" if np.isnan(first) else f"{first:.2f}"
        lines.append(f"{fold:>4}  {trial:<{width}}  {best:>16.2f}  {shown:>13}")
        stopped += [
            f"fold {fold}: {name} was stopped in one of its runs, and so was not chosen from"
            for name, uar in val_uar.items()
            if np.isnan(uar)
        ]
    return "\n".join(lines + stopped)


class _Chosen:
    """The result files of the chosen trials, each read for its own folds alone."""

    def __init__(self, folder_of: Mapping[int, str], runs: Sequence[tuple[int, int]]):
        """`folder_of`: fold -> its trial's folder."""
        self.folder_of, self.runs = folder_of, runs
        self.folders = list(dict.fromkeys(folder_of.values()))
        self.first = folder_of[runs[0][0]]

    def rows(self, name: str, optional: bool = False) -> list[dict[str, str]]:
        """Rows of one of the CSV files, run by run; each run's in the order of its file."""
        found: dict[tuple[int, int], list[dict[str, str]]] = {run: [] for run in self.runs}
        for folder in self.folders:
            file = os.path.join(folder, name)
            if optional and not os.path.exists(file):
                continue
            for row in _read(file):
                run = int(row["fold"]), int(row["seed"])
                if self.folder_of.get(run[0]) == folder:
                    found.setdefault(run, []).append(row)
        return [row for run in self.runs for row in found[run]]

    def confusion(self) -> tuple[np.ndarray, list[str], list[str]]:
        """Counts `[R, K, C, C]`, the K conditions and the C classes."""
        of_run, axes = {}, []
        for folder in self.folders:
            own = arrays.read_confusion(folder)
            axes.append(([str(c) for c in own["conditions"]], [str(c) for c in own["classes"]]))
            if axes[-1] != axes[0]:
                raise UserError(
                    f"{folder}: its conditions or classes are {axes[-1]}, of {self.folders[0]} "
                    f"{axes[0]}; train all trials on one pack, in a new --workdir"
                )
            for fold, seed, counts in zip(
                own["folds"], own["seeds"], own["confusion"], strict=True
            ):
                if self.folder_of.get(int(fold)) == folder:
                    of_run[int(fold), int(seed)] = counts
        for fold, seed in self.runs:
            if (fold, seed) not in of_run:
                file = os.path.join(self.folder_of[fold], files.CONFUSION)
                raise UserError(f"{file}: lacks fold {fold}, seed {seed}; copy the folder anew")
        return np.stack([of_run[run] for run in self.runs]), *axes[0]


def _check_alike(trials: Sequence[Trial], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses trials whose validation scores are no choice between settings of one system."""
    plain = {name: dict(leaves(dict(config))) for name, config in configs.items()}
    first = trials[0]
    for trial in trials:
        for field, value in plain[trial.name].items():
            alike = field in _ALIKE or field.startswith(_ALIKE_SECTIONS)
            if alike and value != plain[first.name].get(field):
                raise UserError(
                    f"{trial.folder}: {field}={value}, of {first.folder} "
                    f"{plain[first.name].get(field)}; the choice in each fold is between settings "
                    "of one system, corpus, protocol and seeds"
                )
    if plain[first.name].get("protocol.select_on_test"):
        raise UserError(
            f"{first.folder}: validated on its test part (protocol.select_on_test), which would "
            "choose the trial too; train without it, in a new --workdir"
        )


def _runs(
    trials: Sequence[Trial], facts: Mapping[str, Mapping[tuple[int, int], Any]]
) -> list[tuple[int, int]]:
    """(fold, seed) of all runs, stopped ones too, seed by seed; the same in every trial."""
    found = []
    for trial in trials:
        stopped = status.read_status(trial.folder).get("stopped", ())
        found.append({*facts[trial.name], *((s["fold"], s["seed"]) for s in stopped)})
        if found[-1] != found[0]:
            raise UserError(
                f"{trial.folder}: has other folds or seeds than {trials[0].folder}; train all "
                "trials with the same flags, in a new --workdir"
            )
    return sorted(found[0], key=lambda run: (run[1], run[0]))


def _renamed(chosen: _Chosen, named: Mapping[str, str], num_trials: int) -> list[dict[str, str]]:
    """Rows of results.csv, whose protocol says how many trials there were."""
    found = chosen.rows(files.RESULTS)
    conditions: dict[tuple[str, str], list[str]] = {}
    for row in found:
        conditions.setdefault((row["fold"], row["seed"]), []).append(row["condition"])
    if len({(row["corpus"], row["protocol"]) for row in found}) > 1 or any(
        each != next(iter(conditions.values())) for each in conditions.values()
    ):
        raise UserError(
            f"{', '.join(chosen.folders)}: {files.RESULTS} are of different corpora, protocols or "
            "conditions; train all trials with the same flags, in a new --workdir"
        )
    told = f"; {num_trials} trials, chosen in each fold by validation"
    return [row | named | {"protocol": row["protocol"] + told} for row in found]


def _write(workdir: str, chosen: _Chosen, results: Sequence[Mapping[str, str]]) -> None:
    """All result files but status.json; those of an earlier choice that are no more, go."""
    write_csv(os.path.join(workdir, files.RESULTS), results, _columns(results))
    write_csv(os.path.join(workdir, files.SUMMARY), summarise(results))
    predictions = chosen.rows(files.PREDICTIONS)
    write_csv(os.path.join(workdir, files.PREDICTIONS), predictions, _columns(predictions))
    confusion, conditions, classes = chosen.confusion()
    arrays.write_confusion(workdir, confusion, classes, conditions, chosen.runs)
    history = chosen.rows(files.HISTORY, optional=True)
    stages = list(dict.fromkeys(row["stage"] for row in history))
    history.sort(key=lambda row: (stages.index(row["stage"]), int(row["epoch"])))
    for name, found in (
        (files.HISTORY, history),
        (files.RECONSTRUCTION, chosen.rows(files.RECONSTRUCTION, optional=True)),
    ):
        if found:
            write_csv(os.path.join(workdir, name), found, _columns(found))
        else:
            _remove(os.path.join(workdir, name))
    for name in _COPIED:
        source = os.path.join(chosen.first, name)
        if os.path.exists(source):
            with open(source, "rb") as f:
                write_whole(os.path.join(workdir, name), f.read())
        else:
            _remove(os.path.join(workdir, name))


def _columns(found: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for row in found for name in row))


def _tuning(
    trials: Sequence[Trial],
    choices: Sequence[Choice],
    runs: Sequence[tuple[int, int]],
    facts: Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]],
) -> list[dict[str, object]]:
    """Rows of tuning.csv: each fold and trial, what it scored, and what it sets."""
    fields = list(dict.fromkeys(field for trial in trials for field in trial.fields))
    made: list[dict[str, object]] = []
    for choice in choices:
        own = [run for run in runs if run[0] == choice.fold]
        for trial in trials:
            done = [facts[trial.name][run] for run in own if run in facts[trial.name]]
            made.append(
                {
                    "fold": choice.fold,
                    "trial": trial.name,
                    "chosen": int(trial.name == choice.trial),
                    "val_uar": number(choice.val_uar[trial.name]),
                    "stopped": len(own) - len(done),  # runs
                    "epochs": " ".join(str(r["epoch"]) for r in done),
                    **{field: trial.fields.get(field, "") for field in fields},
                }
            )
    return made


def _ended(
    trials: Sequence[Trial], choices: Sequence[Choice], chosen: _Chosen
) -> dict[str, object]:
    """What status.json says at the end; the time is that of all trials."""
    each = [status.read_status(t.folder) for t in trials]
    of_first = status.read_status(chosen.first)
    known = {k: of_first[k] for k in ("corpus", "device", "precision", "versions") if k in of_first}
    return known | {
        "complete": True,
        "chosen": {str(c.fold): c.trial for c in choices},
        "seconds": round(sum(s["seconds"] for s in each), 1),
        "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _common(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The trials' config; what they differ in is said to be chosen."""

    def common(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name, value in trees[0].items():
            all_values = [tree.get(name) for tree in trees]
            if all(isinstance(v, dict) for v in all_values):
                merged[name] = common(all_values)
            else:
                merged[name] = value if all(v == value for v in all_values) else _DIFFERS
        return merged

    return common(list(configs.values()))


def _read(file: str) -> Iterator[dict[str, str]]:
    try:
        yield from files.iterate_csv(file)
    except (OSError, ValueError) as e:
        raise UserError(f"{file}: missing or damaged ({e}); copy the folder anew") from None


def _remove(file: str) -> None:
    if os.path.exists(file):
        os.remove(file)
