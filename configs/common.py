"""The fields that every config shares, with their defaults, and the named variants.

The `model` part holds one field for each point that the paper leaves open (`#n` counts them);
where a default departs from the paper's own reading, the comment says so. An argument after
the config file picks variants, joined by commas: `--config configs/iemocap.py:paper,no_udcl`.
"""

import ast
import difflib
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from configs import systems


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.system = "cmarr"
    c.variant = "default"  # set by the config's argument; stands in every results file
    c.members = ()  # set by table2, table3, fig4: (folder, argument) of each sweep
    c.fold = 0  # a fold's number, from 1; 0 = all folds
    c.seed = 0  # of the first run of each fold
    c.num_seeds = 1  # runs of each fold, with consecutive seeds
    c.teachers = ""  # folder where teachers are kept and looked for; "" = in the work directory
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
    c.data.quantiles = False  # True: to normal scores by the training part's quantiles instead

    c.protocol = ConfigDict()
    c.protocol.scheme = "session"  # "speaker", or "split" where the pack has that column
    c.protocol.validation = "random"  # (#30); "rotate": next session; "none": last epoch
    c.protocol.val_fraction = 0.1
    c.protocol.val_seed = 0
    c.protocol.select_on_test = False  # optimistic, as some published code; printed in tables
    c.protocol.shuffled_labels = False  # the control that must score chance; printed in tables

    c.masking = ConfigDict()
    c.masking.patterns = "all"  # "missing" (as MMIN), "full", or names such as "t,s,svt" (#21)
    c.masking.probabilities = ()  # one a pattern; () = uniform
    c.masking.per_sample = True  # False: one pattern a batch

    c.train = systems.training()
    c.pretrain = systems.training()  # of a system's earlier stage, a teacher, if any

    c.robustness = ConfigDict()  # further test conditions, beyond the paper
    c.robustness.missing_rates = ()  # each modality is lost with this probability, 0 to below 1
    c.robustness.noise_levels = ()  # share of the features' variance that is noise, up to 1

    c.model = m = ConfigDict()
    m.width = 128  # D, shared by all modalities (#2); 1-D convolution's output (#18)
    m.input_dropout = 0.0
    m.conv_kernel = 3  # (#18); DiCMoR: 5
    m.umc = ConfigDict()
    m.umc.variant = "pde"  # MAP's encoder; "mlp" leaves the attention out (#1)
    m.umc.num_heads = 8
    m.umc.mlp_ratio = 4
    m.umc.dropout = 0.1
    m.umc.pool = "mean"  # one Gaussian an utterance: "mean", "first" (MAP), "attn" (#3)
    m.umc.log_sigma_range = (-7.0, 4.0)  # (#5)
    m.umc.entropy_weight = 0.0  # MAP's guard against collapse, off (#9)
    m.umc.entropy_margin = 300.0
    m.udcl = ConfigDict()
    m.udcl.weight = 1.0  # alpha
    m.udcl.on = "distribution"  # "point": means only, the paper's "w/ Point"
    m.udcl.scale = -1 / 200  # a (#6)
    m.udcl.shift = 4.0  # b (#6)
    m.udcl.temperature = 0.07  # tau at the start; learned, kept in [0.01, 1] (#6)
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
    m.rec.stop_gradient_target = True  # (#14)
    m.rec.reduce = "mean"  # over elements; "sum" is Eq. 9 to the letter (#15)
    m.rec.num_blocks = 4  # RCABs (#16); DiCMoR: 20
    m.rec.expansion = 2
    m.rec.reduction = 16
    m.rec.kernel = 3
    m.spcl = ConfigDict()
    m.spcl.weight = 0.1  # beta: 0.1 in the paper's set-up, 0.5 in its parameter study
    m.spcl.temperature = 0.1  # (#23)
    m.spcl.on = "fusion_inputs"  # "recovered", "mu" (#24)
    m.fusion = ConfigDict()
    m.fusion.variant = "attention"  # "concat": the paper's "w/o attention" (#27)
    m.fusion.pairs = ()  # ("text<-video", ...); () = text attends to every other (#25)
    m.fusion.cross_layers = 1  # (#26)
    m.fusion.self_layers = 1
    m.fusion.num_heads = 8
    m.fusion.dropout = 0.1
    m.classifier = ConfigDict()
    m.classifier.layers = 1  # hidden layers (#28)
    m.classifier.hidden = 128
    m.classifier.dropout = 0.3
    return c


def _paper(c: ConfigDict) -> None:
    """Section 4.2. Its learning rate is for encoders fine-tuned with the rest: on frozen
    features this trains too little, and is here for comparison."""
    c.train.learning_rate, c.train.batch_size, c.train.epochs = 1e-5, 16, 100
    c.train.schedule, c.train.warmup, c.train.weight_decay = "constant", 0.0, 0.0
    c.train.balance_classes = False


def _pooled(c: ConfigDict) -> None:
    """One vector a modality, for packs of pooled features: a shallower, wider and strongly
    regularised model. Chosen on IEMOCAP's validation sessions (MiniLM text + functionals)."""
    c.data.length = 1
    c.train.epochs, c.train.weight_decay, c.train.balance_classes = 30, 1.0, True
    c.train.batch_size, c.train.learning_rate = 256, 1.4e-3
    c.train.schedule, c.train.averaging = "constant", 0.99
    m = c.model
    m.width, m.input_dropout, m.conv_kernel = 256, 0.3, 1
    m.umc.mlp_ratio = 2
    m.udcl.weight, m.rec.weight = 0.03, 0.3
    m.flow.num_couplings, m.flow.hidden = 4, 128
    m.rec.num_blocks, m.rec.expansion, m.rec.kernel = 1, 1, 1
    m.classifier.hidden, m.classifier.dropout = 256, 0.5


def _set(**fields: object) -> Callable[[ConfigDict], None]:
    def apply(c: ConfigDict) -> None:
        c.update_from_flattened_dict(
            {f"model.{k.replace('__', '.')}": v for k, v in fields.items()}
        )

    return apply


def _shuffled_labels(c: ConfigDict) -> None:
    c.protocol.shuffled_labels = True


def _data(**fields: object) -> Callable[[ConfigDict], None]:
    return lambda c: c.data.update(fields)


VARIANTS = {
    "paper": _paper,
    "pooled": _pooled,
    "beta05": _set(spcl__weight=0.5),
    "no_udcl": _set(udcl__weight=0.0),
    "no_spcl": _set(spcl__weight=0.0),
    "no_attention": _set(fusion__variant="concat"),
    "point": _set(udcl__on="point"),
    "paper_nll": _set(flow__nll_weight=0.1),
    "flow_glow": _set(flow__permute="glow"),
    "flow_dicmor": _set(
        flow__num_couplings=32, flow__hidden=64, flow__scale="sigmoid", flow__permute="none"
    ),
    "shuffled_labels": _shuffled_labels,
}

# Named after cmarr_plus, "cmarr_plus,no_fusion": CM-ARR+ less one of its parts.
PLUS_VARIANTS = {
    "fusion_always": _set(heads__fusion="always"),
    "no_fusion": _set(heads__fusion="never"),
    "no_distillation": _set(heads__distillation=0.0),
    "no_periodic": _set(heads__periodic=()),
    "no_maximum": _data(statistics="mean"),
    "no_quantiles": _data(quantiles=False),
}

_OUTER_COMMA = re.compile(r",(?![^(]*\))")  # not one within a tuple

# "alpha=0.5" as an argument; the paper's names of the loss weights.
WEIGHTS = {"alpha": "udcl.weight", "beta": "spcl.weight", "lambda": "rec.weight"}

# Arguments that stand for several sweeps, each in a folder named as its own argument.
TABLES = {
    "table2": ("cra", "mmin", "if_mmin", "cif_mmin", "dicmor", "nmer", "augmented", "cmarr"),
    "table3": (
        "full_modality", "no_udcl", "no_spcl", "no_attention", "point", "paper_nll", "cmarr",
    ),
    "fig4": (
        *(f"alpha={a}" for a in (0.1, 0.5, 1.0, 2.0, 5.0)),
        *(f"beta={b}" for b in (0.05, 0.1, 0.5, 1.0, 2.0)),
        *(f"lambda={x}" for x in (1.0, 5.0, 10.0, 20.0, 50.0)),
    ),
}  # fmt: skip


def with_variants(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Applies what `argument` names, "a,b": a system, variants, weights ("alpha=0.5"), fields
    ("train.learning_rate=0.001"), a table.

    None or "" applies nothing. Of a table only the list of its members is made.
    """
    names = _OUTER_COMMA.split(argument) if argument else []
    variants = []
    for name in names:
        weight, _, value = name.partition("=")
        if name in systems.PRESETS:
            if others := [n for n in names if n in systems.PRESETS and n != name]:
                raise UserError(f"{name!r} and {others[0]!r}: wanted one system")
            systems.PRESETS[name](config)
        elif name in TABLES:
            rest = [n for n in names if n != name]
            config.members = tuple((m, ",".join([*rest, m])) for m in TABLES[name])
        elif name in PLUS_VARIANTS:
            if config.system != "cmarr_plus":
                raise UserError(f"variant {name!r} is CM-ARR+'s: name it after 'cmarr_plus'")
            PLUS_VARIANTS[name](config)
            variants.append(name)
        elif name in VARIANTS:
            if name != "shuffled_labels":  # which is a protocol's, of any system
                _needs_cmarr(config, name)
            VARIANTS[name](config)
            variants.append(name)
        elif weight in WEIGHTS:
            _needs_cmarr(config, name)
            try:
                _set(**{WEIGHTS[weight]: float(value)})(config)
            except ValueError:
                raise UserError(f"{name!r}: wanted a number, such as {weight}=0.5") from None
            variants.append(name)
        elif value and (weight == "system" or "." in weight):
            _set_field(config, weight, value)
            variants.append(name)
        else:
            known = [*VARIANTS, *PLUS_VARIANTS, *systems.PRESETS, *TABLES]
            if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
                raise UserError(f"variant {name!r}: no such one; did you mean {near[0]!r}?")
            known = ", ".join(known)
            raise UserError(
                f"variant {name!r}: wanted some of {known}, alpha=, beta=, lambda=, FIELD="
            )
    config.variant = ",".join(variants) or "default"
    return config


def fits(config: ConfigDict) -> bool:
    """Whether `config.model` has the fields that the preset of `config.system`, if any, makes."""
    if config.system not in systems.PRESETS:
        return True
    wanted = get_config()
    systems.PRESETS[config.system](wanted)
    return set(config.model) == set(wanted.model)


def _set_field(config: ConfigDict, field: str, text: str) -> None:
    known = dict(leaves(config.to_dict()))
    if field not in known:
        raise UserError(f"'{field}={text}': no such field; see configs/common.py")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    try:
        config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError):
        kind = type(known[field]).__name__
        raise UserError(f"'{field}={text}': wanted a value of type {kind}") from None


def _needs_cmarr(config: ConfigDict, name: str) -> None:
    if config.system != "cmarr":
        raise UserError(f"variant {name!r} is CM-ARR's: name it before {config.system!r}")
