"""How a pack's features were made: what its provenance says of each modality's encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

EXTRACTED_BY = "cmarr_jax.extract"


def encoders(provenance: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """What made each modality's features, from a pack's provenance; None = not known.

    A known one has `fingerprint` (of the features), `recipe` (of the encoder), `stored_as` (the
    features' dtype) and `model` (the folder or hub name that the extraction was given).
    """
    if provenance.get("made_by") != EXTRACTED_BY:
        return dict.fromkeys(modalities)
    made: dict[str, Any] = {}
    for m in modalities:
        facts = provenance["modalities"].get(m)
        made[m] = facts and {
            "fingerprint": facts["fingerprint"],
            "recipe": facts["source"],
            "stored_as": facts["stored_as"],
            "model": provenance.get("models", {}).get(m, ""),
        }
    return made


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first field that two recipes of an encoder do not share, in words; "" if none."""
    for field in sorted({*found, *wanted}):
        ours, theirs = found.get(field), wanted.get(field)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return f"{field}: " + difference(ours, theirs)
        return f"{field} is {_short(ours)}, wanted {_short(theirs)}"
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) > 40 else text
