"""The fields that every config shares, with their defaults, and the named variants.

The section `model` holds one field for each point that the paper leaves open: a mark such as (#17)
is the point's number in docs/open_points.md. Where a default departs from the paper's own reading,
the comment says so. An argument after the config file picks variants, joined by commas:
`--config configs/iemocap.py:paper,no_udcl`.
"""

import ast
import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from configs import systems


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.system = "cmarr"  # its name in configs/systems.py; set by the config's argument
    c.variant = "default"  # set by the config's argument; stands in every results file
    c.members = ()  # set by table2, table3, fig4: (folder, argument) of each sweep
    c.fold = 0  # a fold's number, from 1; 0 = all folds
    c.seed = 0  # of the first run of each fold
    c.num_seeds = 1  # runs of each fold, with consecutive seeds
    c.teachers = ""  # folder where teachers are kept and looked for; "" = in the work directory
    c.precision = "auto"  # "float32"; "tf32" (a GPU's default); "bf16" (a TPU's)
    c.layout = "auto"  # local runs "vmap" (accelerators) or "map" (CPU)
    c.checkpoint_seconds = 30.0  # least time between two checkpoints; the last epoch always saves

    c.data = ConfigDict()
    c.data.pack = ""  # folder of the feature pack
    c.data.data_dir = ""  # prepared TFDS datasets, may be gs://...; "" = PACK/tfds
    c.data.loader = "tfds"  # or "numpy": no TensorFlow needed
    c.data.stream = ""  # folder on a local disk: features are read from there, not kept in memory
    c.data.align = "pool"  # "interp", or "none" for packs that are aligned already (#17)
    c.data.length = 32  # positions that every modality is pooled to; 1 = one vector (#17)
    c.data.statistics = "mean"  # of a position's frames; "mean_max", two, where length is 1
    c.data.normalise = True  # per fold, by the training part's mean and deviation
    c.data.normalised = ()  # modalities that are; () = all; ("speech",) as the MMIN family's code
    c.data.quantiles = False  # True: to normal scores by the training part's quantiles instead

    c.protocol = ConfigDict()
    c.protocol.scheme = "auto"  # the first that the pack admits of "split", "session", "speaker"
    c.protocol.validation = "random"  # (#30); also "speaker", "rotate", "none"
    c.protocol.val_fraction = 0.1  # share of the training utterances that validates
    c.protocol.val_seed = 0  # of the choice of the validation part
    c.protocol.select_on_test = False  # optimistic, as some published code; printed in tables
    c.protocol.shuffled_labels = False  # the control that must score chance; printed in tables
    c.protocol.complete = False  # True: only utterances with every modality; printed in tables
    c.protocol.train_missing = ""  # "0.3", "t0.1+s0.5": dropped before training; printed in tables
    c.protocol.train_missing_seed = 0  # of what is dropped, for all folds, runs and systems

    c.masking = ConfigDict()
    c.masking.patterns = "all"  # "missing" (as MMIN), "full", or names such as "t,s,svt" (#21)
    c.masking.probabilities = ()  # one a pattern; () = uniform
    c.masking.per_sample = True  # False: one pattern a batch
    c.masking.rates = ""  # "0.3", "t0.1+s0.5": independent losses instead of patterns
    c.masking.frame_rate = 0.0  # share of the frames of what is available that are lost
    c.masking.span_rate = 0.0  # the same, as one span in each modality

    c.encoders = ConfigDict()  # trained before the system, on a pack of a front's hidden states
    c.encoders.text = systems.encoder()
    c.encoders.speech = systems.encoder()
    c.encoders.video = systems.encoder()

    c.train = systems.training()
    c.pretrain = systems.training()  # of a system's earlier stage, a teacher, if any

    c.robustness = ConfigDict()  # further test conditions, beyond the paper
    c.robustness.missing_rates = ()  # each modality is lost with this probability, 0 to below 1
    c.robustness.rates = ""  # "t0.1+s0.5": a probability for each; several with commas
    c.robustness.frame_rates = ()  # share of the frames that is lost within each modality
    c.robustness.span_rates = ()  # the same, as one span
    c.robustness.noise_levels = ()  # share of the features' variance that is noise, up to 1

    c.model = m = ConfigDict()
    m.width = 128  # D, shared by all modalities (#2); 1-D convolution's output (#18)
    m.input_dropout = 0.0  # of the features
    m.conv_kernel = 3  # (#18); DiCMoR: 5
    m.umc = ConfigDict()
    m.umc.variant = "pde"  # MAP's encoder; "mlp" leaves the attention out (#1)
    m.umc.num_heads = 8  # of its attention
    m.umc.mlp_ratio = 4  # its hidden layer, in widths
    m.umc.dropout = 0.1  # within the encoder
    m.umc.pool = "mean"  # one Gaussian an utterance: "mean", "first" (MAP), "attn" (#3)
    m.umc.log_sigma_range = (-7.0, 4.0)  # bounds of log sigma; () = none, as MAP (#5)
    m.umc.entropy_weight = 0.0  # MAP's guard against collapse, off (#9)
    m.umc.entropy_margin = 300.0  # that the guard holds the entropy above (#9)
    m.udcl = ConfigDict()
    m.udcl.weight = 1.0  # alpha
    m.udcl.on = "distribution"  # "point": means only, the paper's "w/ Point"
    m.udcl.sigma = "deviation"  # in Eq. 1; "variance": Sigma itself, Eq. 1 to the letter (#5)
    m.udcl.scale = -1 / 200  # a (#6)
    m.udcl.shift = 4.0  # b (#6)
    m.udcl.temperature = 0.07  # tau at the start; learned (#6)
    m.udcl.clip_temperature = True  # tau is kept in [0.01, 1]; False: it is free, as in MAP (#6)
    m.udcl.normalise_by_dim = True  # a * 768 / D, so that a means what it means in MAP (#6)
    m.udcl.reduce = "mean"  # over pairs; "sum" (#7)
    m.udcl.respect_mask = False  # True: simulated missing modalities do not align (#8)
    m.flow = ConfigDict()
    m.flow.input = "mu"  # what X is convolved from: "mu", "sample", "raw" (#4)
    m.flow.num_couplings = 8  # (#10); DiCMoR: 32
    m.flow.hidden = 256  # 2 D (#10); DiCMoR: 64
    m.flow.scale = "tanh"  # "sigmoid" as DiCMoR (#11)
    m.flow.permute = "swap"  # "none" as DiCMoR's code: half the features pass; "glow" (#10)
    m.flow.nll_weight = 0.0  # Eq. 14 has no likelihood; DiCMoR: 0.1 (#12)
    m.flow.prior = "unit"  # "class" as DiCMoR: a Gaussian a class, learned by the likelihood (#12)
    m.flow.detach_inverse = False  # True as DiCMoR, only sensible with nll_weight > 0 (#13)
    m.rec = ConfigDict()
    m.rec.weight = 10.0  # lambda
    m.rec.stop_gradient_target = True  # False: Eq. 9 also moves X towards X^ (#14)
    m.rec.reduce = "mean"  # over elements; "sum" is Eq. 9 to the letter (#15)
    m.rec.num_blocks = 4  # RCABs (#16); DiCMoR: 20
    m.rec.expansion = 2  # a block's inner width, in widths
    m.rec.reduction = 16  # width over the bottleneck's of the channel attention
    m.rec.kernel = 3  # of a block's convolutions
    m.spcl = ConfigDict()
    m.spcl.weight = 0.1  # beta: 0.1 in the paper's set-up, 0.5 in its parameter study
    m.spcl.temperature = 0.1  # (#23)
    m.spcl.on = "fusion_inputs"  # "recovered", "mu" (#24)
    m.fusion = ConfigDict()
    m.fusion.variant = "attention"  # "concat": the paper's "w/o attention" (#27)
    m.fusion.pairs = ()  # text to each other one; ("text<-video", ...); ("each",): every two (#25)
    m.fusion.cross_layers = 1  # (#26)
    m.fusion.self_layers = 1  # layers of self-attention after them (#26)
    m.fusion.num_heads = 8  # of each attention
    m.fusion.dropout = 0.1  # within the fusion
    m.classifier = ConfigDict()
    m.classifier.layers = 1  # hidden layers (#28)
    m.classifier.hidden = 128  # width of a hidden layer
    m.classifier.dropout = 0.3  # after each hidden layer
    return c


# Section 4.2. Its learning rate is for encoders fine-tuned with the rest: on frozen features this
# trains too little, and is here for comparison.
_PAPER = {
    "train.learning_rate": 1e-5,
    "train.batch_size": 16,
    "train.epochs": 100,
    "train.schedule": "constant",
    "train.warmup": 0.0,
    "train.weight_decay": 0.0,
    "train.balance_classes": False,
}

# For encoders' upper layers that are trained with a system, see docs/finetuning.md.
_FINETUNE = {
    "epochs": 4,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "schedule": "linear",
    "linear_from": 0.0,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "averaging": 0.0,
    "balance_classes": True,
}

# What each variant sets, as `systems.set_fields` reads it; those that are not in `OF_ALL` are
# CM-ARR's.
OF_ALL = ("shuffled_labels", "finetune")
VARIANTS = {
    "paper": _PAPER,
    # Besides, every equation to the letter, where the defaults read it as meant: what each of
    # these costs is in docs/open_points.md.
    "printed": _PAPER
    | {
        "train.clip_norm": 0.0,
        "model.umc.log_sigma_range": (),
        "model.udcl.sigma": "variance",
        "model.udcl.clip_temperature": False,
        "model.udcl.normalise_by_dim": False,
        "model.udcl.reduce": "sum",
        "model.rec.reduce": "sum",
        "model.rec.stop_gradient_target": False,
        "model.fusion.pairs": ("each",),
    },
    # One vector a modality, so attention over one key: for packs of pooled features, and no test
    # of the paper's parts. A shallower, wider and strongly regularised model, chosen on IEMOCAP's
    # validation sessions (MiniLM text + functionals).
    "pooled": {
        "data.length": 1,
        "train.epochs": 30,
        "train.weight_decay": 1.0,
        "train.balance_classes": True,
        "train.batch_size": 256,
        "train.learning_rate": 1.4e-3,
        "train.schedule": "constant",
        "train.averaging": 0.99,
        "model.width": 256,
        "model.input_dropout": 0.3,
        "model.conv_kernel": 1,
        "model.umc.mlp_ratio": 2,
        "model.udcl.weight": 0.03,
        "model.rec.weight": 0.3,
        "model.flow.num_couplings": 4,
        "model.flow.hidden": 128,
        "model.rec.num_blocks": 1,
        "model.rec.expansion": 1,
        "model.rec.kernel": 1,
        "model.classifier.hidden": 256,
        "model.classifier.dropout": 0.5,
    },
    "beta05": {"model.spcl.weight": 0.5},
    "no_udcl": {"model.udcl.weight": 0.0},
    "no_spcl": {"model.spcl.weight": 0.0},
    "no_attention": {"model.fusion.variant": "concat"},
    "point": {"model.udcl.on": "point"},
    "paper_nll": {"model.flow.nll_weight": 0.1},
    "flow_glow": {"model.flow.permute": "glow"},
    "flow_dicmor": {
        "model.flow.num_couplings": 32,
        "model.flow.hidden": 64,
        "model.flow.scale": "sigmoid",
        "model.flow.permute": "none",
    },
    "shuffled_labels": {"protocol.shuffled_labels": True},
    "finetune": {"train": _FINETUNE, "pretrain": _FINETUNE},
}

# Named after cmarr_plus, "cmarr_plus,no_fusion": CM-ARR+ less one of its parts.
PLUS_VARIANTS = {
    "fusion_always": {"model.heads.fusion": "always"},
    "no_fusion": {"model.heads.fusion": "never"},
    "no_distillation": {"model.heads.distillation": 0.0},
    "no_periodic": {"model.heads.periodic": ()},
    "no_maximum": {"data.statistics": "mean"},
    "no_quantiles": {"data.quantiles": False},
}

# Named after a system, "mmin,published": its code's recipe, `systems.PUBLISHED`.
_PUBLISHED = "published"

# "alpha=0.5" as an argument; the paper's names of the loss weights.
WEIGHTS = {
    "alpha": "model.udcl.weight",
    "beta": "model.spcl.weight",
    "lambda": "model.rec.weight",
}

# The paper's Figure 4: each loss weight varied alone, around its own set-up.
_FIG4 = {
    "alpha": (0.1, 0.5, 1.0, 2.0, 5.0),
    "beta": (0.05, 0.1, 0.5, 1.0, 2.0),
    "lambda": (1.0, 5.0, 10.0, 20.0, 50.0),
}

# Arguments that stand for several sweeps, each in a folder named as its own argument; `members`
# says which of them there are under other settings than the defaults.
TABLES = {
    "table2": ("cra", "mmin", "if_mmin", "cif_mmin", "dicmor", "nmer", "augmented", "cmarr"),
    "table3": (
        "full_modality",
        "no_udcl",
        "no_spcl",
        "no_attention",
        "point",
        "paper_nll",
        "cmarr",
    ),
    "fig4": tuple(f"{name}={weight}" for name, grid in _FIG4.items() for weight in grid),
}

# Members of a table that mean nothing where each modality is one vector: attention over one key
# has nothing to choose, so there is none to take away. `experiment.run.check` refuses them.
VOID_FOR_ONE_VECTOR = ("no_attention",)

_OUTER_COMMA = re.compile(r",(?![^(]*\))")  # not one within a tuple


def with_variants(
    config: ConfigDict, argument: str | None, recipe: Mapping[str, object] = MappingProxyType({})
) -> ConfigDict:
    """Applies what `argument` names, "a,b": a system, variants, weights ("alpha=0.5"), fields
    ("train.learning_rate=0.001"), a table.

    None or "" applies nothing. Of a table only the list of its members is made. The fields of
    `recipe` take the place of a system's own.

    Raises:
      UserError: a name is unknown, or another system's; a value is not what its field holds.
    """
    names = _OUTER_COMMA.split(argument) if argument else []
    variants, table = [], ""
    for name in names:
        if _is_system(name):
            if others := [n for n in names if _is_system(n) and n != name]:
                raise UserError(f"{name!r} and {others[0]!r}: wanted one system")
            if "finetune" in variants:
                raise UserError(
                    f"variant 'finetune': name it after {name!r}, which sets training too"
                )
            systems.set_preset(config, name)
            systems.set_fields(config, recipe)
        elif name in TABLES:
            table = name
        else:
            _set_variant(config, name)
            variants.append(name)
    config.variant = ",".join(variants) or "default"
    if table:
        rest = [n for n in names if n != table]
        config.members = tuple((m, ",".join([*rest, m])) for m in members(table, config))
    return config


def members(table: str, config: ConfigDict) -> tuple[str, ...]:
    """The members of one of `TABLES` under the settings of `config`.

    Figure 4's grids are the paper's multiples of each weight as it stands in `config`, so that
    they hold the point that the others are compared with; what is void for one vector a modality
    is left out.
    """
    if table != "fig4":
        void = VOID_FOR_ONE_VECTOR if config.data.length == 1 else ()
        return tuple(m for m in TABLES[table] if m not in void)
    defaults, own = (dict(leaves(c.to_dict())) for c in (get_config(), config))
    found = []
    for name, grid in _FIG4.items():
        weight, default = (x[WEIGHTS[name]] for x in (own, defaults))
        scaled = [float(f"{x * weight / default:.6g}") for x in grid]
        found += [f"{name}={x}" for x in (scaled if weight else (0.0, *grid))]
    return tuple(found)


def _is_system(name: str) -> bool:
    ours = {*VARIANTS, *PLUS_VARIANTS, *TABLES, _PUBLISHED}
    if name in systems.PRESETS or name in ours or "=" in name:
        return name in systems.PRESETS
    from cmarr_jax.systems import SYSTEMS  # seconds to import, so for an unknown name alone

    return name in SYSTEMS


def _set_variant(config: ConfigDict, name: str) -> None:
    field, _, value = name.partition("=")
    if name in PLUS_VARIANTS:
        if config.system != "cmarr_plus":
            raise UserError(f"variant {name!r} is CM-ARR+'s: name it after 'cmarr_plus'")
        systems.set_fields(config, PLUS_VARIANTS[name])
    elif name == _PUBLISHED:
        if config.system not in systems.PUBLISHED:
            known = ", ".join(systems.PUBLISHED)
            raise UserError(f"variant {name!r}: name it after a system that has code, of {known}")
        systems.set_fields(config, systems.PUBLISHED[config.system])
    elif name in VARIANTS or field in WEIGHTS:
        if config.system != "cmarr" and name not in OF_ALL:
            raise UserError(f"variant {name!r} is CM-ARR's: name it before {config.system!r}")
        try:
            fields = VARIANTS.get(name) or {WEIGHTS[field]: float(value)}
        except ValueError:
            raise UserError(f"{name!r}: wanted a number, such as {field}=0.5") from None
        systems.set_fields(config, fields)
    elif value and (field == "system" or "." in field):
        _set_field(config, field, value)
    else:
        known = [*VARIANTS, *PLUS_VARIANTS, _PUBLISHED, *systems.PRESETS, *TABLES]
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise UserError(f"variant {name!r}: no such one; did you mean {near[0]!r}?")
        wanted = f"{', '.join(known)}, alpha=, beta=, lambda=, FIELD="
        raise UserError(f"variant {name!r}: wanted some of {wanted}")


def _set_field(config: ConfigDict, field: str, text: str) -> None:
    known = dict(leaves(config.to_dict()))
    if field not in known:
        raise UserError(f"'{field}={text}': no such field; see configs/common.py")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    try:
        systems.set_fields(config, {field: value})
    except (TypeError, ValueError):
        kind = type(known[field]).__name__
        raise UserError(f"'{field}={text}': wanted a value of type {kind}") from None
