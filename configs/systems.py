"""The settings of each system of the paper's tables: near those of its own code.

Rates, batches, dropout and epochs of CRA and the MMIN family are their code's for IEMOCAP;
`MSP_IMPROV` holds what the code sets otherwise for that corpus. DiCMoR's code knows neither corpus:
its numbers are of MOSI and MOSEI, put together, and its 20 epochs and its dropout are ours.
`PUBLISHED` holds the rest of each code's recipe, for the argument "mmin,published"; what stays
different even then, and why, is one table in docs/systems.md.

An argument after the config file names a system: `--config configs/iemocap.py:mmin`. Fields
called `faithful_to` choose where a system's code and paper disagree, see its file.
"""

import functools
import operator
from collections.abc import Mapping

from ml_collections import ConfigDict


def training(**fields: object) -> ConfigDict:
    """How a stage is trained; `fields` depart from the defaults."""
    c = ConfigDict()
    c.epochs = 30  # passes over the training part
    c.batch_size = 64  # utterances a step
    c.accumulate = 1  # parts that a step's batch is computed in, one after another: less memory
    c.eval_batch_size = 128  # utterances at once in validation and test
    c.learning_rate = 1e-3  # (#29)
    c.schedule = "cosine"  # "constant"; "linear": constant, then linear to 0
    c.linear_from = 0.5  # share of all steps after which "linear" falls
    c.warmup = 0.1  # share of all steps
    c.weight_decay = 0.01  # AdamW, on matrices only
    c.beta1 = 0.9  # Adam's
    c.clip_norm = 1.0  # norm that the gradient is cut to; 0 = off
    c.averaging = 0.0  # decay of the running mean of the weights that is tested; 0 = off
    c.balance_classes = False  # weights inverse to class counts (#28)
    c.update(fields)
    return c


def encoder() -> ConfigDict:
    """What of a published encoder is trained with a system, see docs/finetuning.md."""
    c = ConfigDict()
    c.model = ""  # folder or name of the model whose upper layers are trained; "" = none are
    c.from_layer = -1  # hidden state that the pack holds, above which they begin; -1 = as it says
    c.mix = False  # True, of a pack with several states: one learned weight for each
    c.max_positions = 512  # tokens or frames after which an utterance is cut
    c.learning_rate = 1e-4  # of the upper layers; a mix has the system's
    c.weight_decay = 0.01  # on their matrices
    c.warmup = 0.1  # share of all steps
    c.layer_decay = 1.0  # factor of the learning rate from a layer to the one below
    c.recompute = False  # True: less memory, a third more time
    return c


# The MMIN family: what its codes share.
_NETWORK = {"width": 128, "num_blocks": 5, "dropout": 0.5, "teacher_dropout": 0.3}
_OPTIMISER = {"learning_rate": 2e-4, "schedule": "linear", "warmup": 0.0, "weight_decay": 0.0}
_TEACHER = _OPTIMISER | {"epochs": 20, "batch_size": 128, "clip_norm": 0.5}
_STUDENT = _OPTIMISER | {"epochs": 40, "batch_size": 128, "beta1": 0.5}

_DICMOR = {
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
}

# Of CM-ARR's own settings, those that the baseline's network has.
_BASELINE = {"model": ("width", "input_dropout", "conv_kernel", "fusion", "classifier")}

# What each system sets, as `set_fields` reads it.
PRESETS = {
    "cmarr": {},  # the defaults are CM-ARR's
    "cmarr_plus": {  # chosen on IEMOCAP's validation sessions (MiniLM text + functionals)
        "model.heads": {
            "width": 1024,
            "periodic": ("text",),  # modalities whose head is periodic; the others' is rectified
            "dropout": 0.3,
            "distillation": 0.5,  # share of a head's target that is the joint posterior
            "fusion": "several",  # available modalities for CM-ARR to count; "always", "never"
        },
        "data.quantiles": True,
    },
    "full_modality": _BASELINE,
    "augmented": _BASELINE,
    "cra": {
        "masking.patterns": "missing",
        # Its code sums over a batch of 256 and weighs by 0.02; ours is a mean over the batch.
        "model": {"width": 128, "num_blocks": 2, "dropout": 0.5, "rec_weight": 5.0},
        "pretrain": {"balance_classes": False},  # it has no teacher
        "train": _STUDENT
        | {"epochs": 100, "batch_size": 256, "learning_rate": 1e-3, "clip_norm": 5.0},
    },
    "mmin": {
        "masking.patterns": "missing",
        "model": _NETWORK | {"share_weights": False, "forward_weight": 4.0, "backward_weight": 2.0},
        "pretrain": _TEACHER,
        "train": _STUDENT | {"epochs": 60},
    },
    "if_mmin": {
        "masking.patterns": "missing",
        "model": _NETWORK | {"faithful_to": "paper"},
        "pretrain": _TEACHER | {"batch_size": 64},
        "train": _STUDENT,
    },
    "cif_mmin": {
        "masking.patterns": "missing",
        "model": _NETWORK | {"faithful_to": "code"},
        "pretrain": _TEACHER | {"epochs": 40, "batch_size": 64},
        "train": _STUDENT | {"batch_size": 64},
    },
    "dicmor": {
        "masking.patterns": "all",
        "model": {
            "width": 64,
            "conv_kernel": 5,
            "num_layers": 4,
            "num_heads": 8,
            "dropout": 0.1,  # after attention and in the feed-forward layers
            "attention_dropout": 0.1,  # of attention's weights over text, and of self-attention's
            "attention_dropout_speech": 0.1,  # over speech
            "attention_dropout_video": 0.1,  # over video
            "embed_dropout": 0.0,  # of the stacks' inputs
            "text_dropout": 0.5,  # of the text features
            "out_dropout": 0.5,
            "num_blocks": 20,
            "recovery_weight": 0.1,
            "faithful_to": "paper",
            # The code's "none" lets half of the channels pass through every flow untouched.
            "flow": {"num_couplings": 32, "hidden": 64, "permute": "swap"},
        },
        "pretrain": _DICMOR,
        "train": _DICMOR,
    },
    "nmer": {
        "masking.patterns": "missing",
        "model": {
            "width": 128,
            "dropout": 0.1,
            "teacher_dropout": 0.2,
            "num_layers": 5,
            "num_heads": 8,
            "kl_weight": 1e-3,
            "kl_reduce": "mean",  # over the batch; "sum", as its code
        },
        "pretrain": _TEACHER,
        "train": _STUDENT | {"epochs": 80},
    },
}

# Besides, where each modality is one vector (data.length = 1). Chosen as CM-ARR+'s preset is.
ONE_VECTOR = {
    "cmarr_plus": {
        "data.statistics": "mean_max",
        "model.width": 64,
        "model.flow.hidden": 64,
        "model.classifier.hidden": 128,
        "train.epochs": 20,
        "train.batch_size": 128,
        "train.learning_rate": 1e-3,
        "train.schedule": "cosine",
        "train.averaging": 0.99,
        "train.weight_decay": 1.0,
    },
}

# Besides, with the variant "published": the code's recipe as far as this program can follow it.
_UNWEIGHTED = {"train.balance_classes": False, "pretrain.balance_classes": False}
_FAMILY_PUBLISHED = _UNWEIGHTED | {"data.normalised": ("speech",)}
PUBLISHED = {
    "cra": _UNWEIGHTED | {"train.linear_from": 0.2},  # 20 + 80 epochs
    "mmin": _FAMILY_PUBLISHED,
    "if_mmin": _FAMILY_PUBLISHED | {"model.faithful_to": "code"},
    "cif_mmin": _FAMILY_PUBLISHED
    | {"model.faithful_to": "code", "pretrain.linear_from": 0.75},  # 30 + 10 epochs
    "dicmor": _UNWEIGHTED
    | {  # for MOSI, the smaller of its two corpora; 4 utterances a batch, 8 batches a step
        "model.faithful_to": "code",
        "model.flow.permute": "none",
        "model.width": 32,
        "model.dropout": 0.0,
        "model.attention_dropout": 0.3,
        "model.attention_dropout_speech": 0.2,
        "model.attention_dropout_video": 0.0,
        "model.embed_dropout": 0.2,
        # There until ten epochs pass without gain; here the best of as many as that could be.
        "pretrain.epochs": 100,
        "train.epochs": 100,
    },
    "nmer": _FAMILY_PUBLISHED
    | {"model.kl_reduce": "sum", "model.kl_weight": 1.0, "pretrain.batch_size": 64},
}

# Besides, for MSP-IMPROV: what the MMIN family's codes set otherwise for it. IF-MMIN's and NMER's
# have no script for it; they take MMIN's.
_FAMILY_MSP_IMPROV = {
    "pretrain.learning_rate": 5e-4,
    "train.learning_rate": 5e-4,
    "pretrain.batch_size": 64,
}
MSP_IMPROV = {
    "mmin": _FAMILY_MSP_IMPROV
    | {"model.share_weights": True, "model.forward_weight": 2.0, "model.backward_weight": 0.5},
    "if_mmin": _FAMILY_MSP_IMPROV,
    "cif_mmin": _FAMILY_MSP_IMPROV,
    "nmer": _FAMILY_MSP_IMPROV,
}


def set_preset(config: ConfigDict, system: str) -> None:
    """Makes `config` one of `system`; one without a preset takes the settings as they are."""
    set_fields(config, {"system": system} | PRESETS.get(system, {}))
    if config.data.length == 1:
        set_fields(config, ONE_VECTOR.get(system, {}))


def set_fields(config: ConfigDict, fields: Mapping[str, object]) -> None:
    """Sets `fields` of a config, "section.field" -> value, in their order.

    A dictionary takes the place of a whole section; a tuple of names keeps these fields of a
    section. A dictionary for `train` or `pretrain` holds what departs from `training`; classes
    stay balanced, or not, as they are in `train`.
    """
    for field, value in fields.items():
        *sections, name = field.split(".")
        section = functools.reduce(operator.getitem, sections, config)
        if field in ("train", "pretrain"):
            balance = {"balance_classes": config.train.balance_classes}
            value = training(**(balance | value))
        elif isinstance(value, dict):
            value = ConfigDict(value)
        elif isinstance(section.get(name), ConfigDict):
            value = ConfigDict({kept: section[name][kept] for kept in value})
        section[name] = value
