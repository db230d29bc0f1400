"""The end of an extraction: writes features and problems as one pack, whole or not at all."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cmarr_jax.cli.bar import Bars
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from cmarr_jax.extract.source import Utterance
from cmarr_jax.extract.store import Store
from cmarr_jax.runtime.files import to_csv

WITH_FEATURES = ("ok", "truncated", "cut_short", "repaired")
PROBLEM_COLUMNS = ("id", "modality", "status", "detail")


class Corpus(NamedTuple):
    """The utterances of a pack, in its order, and what its manifest says of them."""

    name: str
    class_names: tuple[str, ...]
    utterances: Sequence[Utterance]
    provenance: Mapping[str, Any]


class Report(NamedTuple):
    """How an extraction ended."""

    num_utterances: int  # of the corpus
    dropped: int  # without features in any modality, so not in the pack
    statuses: dict[str, dict[str, int]]  # modality -> status -> count

    def bad_share(self, modality: str) -> float:
        """Share of utterances without features in `modality`."""
        counts = self.statuses[modality]
        return 1 - sum(counts.get(status, 0) for status in WITH_FEATURES) / self.num_utterances


def write(
    out: str,
    partial: str,
    corpus: Corpus,
    stores: Mapping[str, Store],
    facts: Mapping[str, Any],
    progress: Bars,
) -> Report:
    """Writes pack and `problems.csv` into `partial` and moves them to `out` in one step.

    Raises:
      UserError: a modality has no features at all.
    """
    kept, dropped, problems = [], [], []
    counts = {modality: Counter() for modality in stores}
    for u in corpus.utterances:
        entries = {m: store.entries[u.id] for m, store in stores.items()}
        for modality, entry in entries.items():
            counts[modality][entry.status] += 1
            if entry.status != "ok":
                problems.append((u.id, modality, entry.status, entry.detail))
        if any(entry.rows for entry in entries.values()):
            kept.append(u)
        else:
            dropped.append(u)
            problems.append((u.id, "all", "dropped", "no features in any modality"))
    report = Report(
        len(corpus.utterances),
        len(dropped),
        {m: dict(sorted(c.items())) for m, c in counts.items()},
    )
    for modality, store in stores.items():
        if not any(store.entries[u.id].rows for u in corpus.utterances):
            reasons = ", ".join(f"{n} {status}" for status, n in report.statuses[modality].items())
            first = corpus.utterances[0].id
            raise UserError(
                f"{modality}: no utterance has features ({reasons}); {first}: "
                f"{store.entries[first].detail or store.entries[first].status}; mend its input "
                f"or leave it out of --modalities"
            )
    if dropped:
        progress.warn(
            f"{len(dropped)} of {len(corpus.utterances)} utterances have no features in any "
            f"modality and are left out of the pack, {dropped[0].id} first"
        )
    draft = os.path.join(partial, "pack")
    pack_lib.write(
        draft,
        name=corpus.name,
        class_names=corpus.class_names,
        columns=columns(kept),
        sequences={m: map(store.features, [u.id for u in kept]) for m, store in stores.items()},
        provenance={**corpus.provenance, **facts, "extraction": report._asdict()},
    )
    rows = [dict(zip(PROBLEM_COLUMNS, problem, strict=True)) for problem in problems]
    with open(os.path.join(draft, "problems.csv"), "wb") as f:
        f.write(to_csv(rows, PROBLEM_COLUMNS).encode(errors="backslashreplace"))
    os.replace(draft, out)  # last: the next start removes what is left in `partial`
    return report


def columns(utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """The pack's columns: those that it must have, and the others that a reader filled."""
    values = {
        name: [getattr(u, name) for u in utterances]
        for name in ("id", "session", "speaker", "label", "group", "split")
    }
    for name in ("group", "split"):
        if not any(values[name]):
            del values[name]
    if any(u.text is not None for u in utterances):
        values["text"] = [u.text or "" for u in utterances]
    if any(u.start is not None for u in utterances):
        values["start"] = [_seconds(u.start) for u in utterances]
        values["end"] = [_seconds(u.end) for u in utterances]
    return values


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def reread(out: str, fingerprint: str) -> Report:
    """The report of the finished pack `out`.

    Raises:
      UserError: another command made it, or it is no finished pack.
    """
    try:
        with open(os.path.join(out, "pack.json"), encoding="utf-8") as f:
            provenance = json.load(f)["provenance"]
        if provenance["fingerprint"] == fingerprint:
            return Report(**provenance["extraction"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{out}: exists already and is not what this command would make; "
        "name a new folder or remove it first"
    )
