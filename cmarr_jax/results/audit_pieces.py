"""What the leakage audit found, as pieces of report.html."""

from collections.abc import Mapping
from typing import Any

from cmarr_jax.results import markup

_PARTS = ("train", "validation", "test")  # of a fold, as the page calls them


def pieces(audit: Mapping[str, Any]) -> list[str]:
    """What `data.audit.audit` found, in words and tables."""
    content = [markup.paragraph("No leak found between training and test parts.")]
    if audit["failures"]:
        content = [markup.paragraph("LEAKS FOUND:", "warn"), markup.bullets(audit["failures"])]
    if audit["warnings"]:
        content += [markup.paragraph("Worth knowing:"), markup.bullets(audit["warnings"])]
    sizes, crossing, classes = [], [], []
    for fold in audit["folds"]:
        name = f"{fold['fold']}: {fold['held_out']}"
        parts = [fold["parts"][part] for part in ("train", "val", "test")]
        numbers = [part[key] for key in ("utterances", "speakers") for part in parts]
        sizes.append([name, *map(str, numbers)])
        text = fold["text"]
        said = f"{text['utterances']} ({text['share']:.1%})" if text else ""
        pairs = [f"{found['pairs']}" for found in fold["near"].values()]
        crossing.append([name, *pairs, said, f"{100 * fold['baseline']['war']:.1f}"])
        for part, counts in zip(_PARTS, parts, strict=True):
            classes.append([f"{name}, {part}", *map(str, counts["classes"].values())])
    first = audit["folds"][0]
    head = ("fold", "train", "validation", "test", *(f"speakers of {p}" for p in _PARTS))
    content.append(markup.table("Utterances, and speakers, of each part.", head, sizes))
    caption = (
        "What the training and the test part share: pairs of utterances with nearly the same "
        "features, by modality; test utterances whose words are said in training too. Beside it "
        "the majority's WAR, of always naming the training part's largest class. Nearly the same: "
        "the features, averaged over time, differ by at most a hundredth of a standard deviation "
        "(root mean square over the dimensions). Such pairs are worth a look: a recording that was "
        "cut twice, or stored in two formats, is known from training when it is tested."
    )
    head = ("fold", *(f"{m} pairs" for m in first["near"]), "said in training", "majority WAR %")
    content.append(markup.table(caption, head, crossing))
    head = ("fold, part", *first["parts"]["train"]["classes"])
    table = markup.table("Utterances of each class.", head, classes)
    return [*content, markup.details("classes of each part", table)]
