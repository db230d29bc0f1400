"""What things are called where people read: tables, figures and the report.

Files and flags keep the short names; what is not listed here goes by its own.
"""

from collections.abc import Mapping, Sequence

SYSTEMS = {  # systems, and variants of CM-ARR
    "cmarr": "CM-ARR",
    "cmarr_plus": "CM-ARR+",
    "full_modality": "Baseline",
    "augmented": "Augmented",
    "cra": "CRA",
    "mmin": "MMIN",
    "if_mmin": "IF-MMIN",
    "cif_mmin": "CIF-MMIN",
    "dicmor": "DiCMoR+",
    "nmer": "NMER",
    "no_udcl": "w/o UDCL",
    "no_spcl": "w/o SPCL",
    "no_attention": "w/o attention",
    "point": "w/ point",
    "paper_nll": "w/ likelihood",
}
SCORES = {
    "war": "WAR",
    "uar": "UAR",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "rec_error": "rec. error",
}
TERMS = {  # columns of history.csv
    "val_uar": "validation UAR, %",
    "val_cross_entropy": "validation cross-entropy",
    "loss": "training loss",
    "cls": "classification",
    "udcl": "alignment (UDCL)",
    "spcl": "class contrast (SPCL)",
    "rec": "reconstruction",
    "nll": "likelihood of the flows",
    "entropy": "entropy of the latents",
    "heads": "one-modality classifiers",
    "forward": "imagination, forward",
    "backward": "imagination, backward",
    "invariance": "invariance",
    "cmd": "moment discrepancy (CMD)",
    "contrast": "modality contrast",
    "kl": "distillation (KL)",
    "gradient_norm": "norm of the gradient",
}
CURVES = {  # kinds of further conditions that have one number, "missing=0.3"
    "missing": "missing rate",
    "gaussian": "Gaussian noise",
    "impulse": "impulse noise",
    "frames": "share of lost frames",
    "spans": "share lost in one span",
}


def member(name: str, titles: Mapping[str, str] = SYSTEMS) -> str:
    """A system, a variant or several with commas between them.

    A member that somebody named "baseline" or "cm-arr" is spelt as the systems are.
    """
    spelling = {title.casefold(): title for title in titles.values()}
    own = titles.get(name) or spelling.get(name.casefold())
    return own or ", ".join(titles.get(n, n) for n in name.split(","))


def members(names: Sequence[str], titles: Mapping[str, str] = SYSTEMS) -> list[str]:
    """Each as `member` shows it; those that would be shown alike by their own names."""
    shown = [member(name, titles) for name in names]
    pairs = zip(names, shown, strict=True)
    return [title if shown.count(title) == 1 else name for name, title in pairs]


def score(name: str) -> str:
    """One of `SCORES`, or "recall CLASS" of one class."""
    return SCORES.get(name, name)


def term(name: str) -> str:
    """A term of the loss."""
    return TERMS.get(name, name.replace("_", " "))


def sweep(identity: Mapping[str, str]) -> str:
    """System, variant and corpus of a row of results.csv."""
    variant = identity["variant"]
    rest = "" if variant == "default" else f" ({member(variant)})"
    return f"{member(identity['system'])}{rest} on {identity['corpus']}"
