"""Every senseless config is one line that names its flag, before anything is written or trained."""

import os

import jax
import pytest

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import limits, run
from cmarr_jax.training import loop as training
from cmarr_jax.workdir.ownership import WorkDir
from configs import common, systems
from tests import tiny

NAN, INF = float("nan"), float("inf")
CASES = [  # (argument, fields, what the line must say)
    (None, {"train.epochs": 0}, "--config.train.epochs=0: wanted at least 1"),
    (None, {"train.epochs": -3}, "--config.train.epochs=-3: wanted at least 1"),
    (None, {"train.batch_size": 0}, "--config.train.batch_size=0: wanted at least 1"),
    (None, {"train.batch_size": 50}, "--config.train.batch_size=50: wanted 1 to"),
    (None, {"train.eval_batch_size": -1}, "--config.train.eval_batch_size=-1"),
    (None, {"train.learning_rate": NAN}, "--config.train.learning_rate=nan: wanted above 0"),
    (None, {"train.learning_rate": INF}, "--config.train.learning_rate=inf"),
    (None, {"train.learning_rate": 0.0}, "--config.train.learning_rate=0.0: wanted above 0"),
    (None, {"train.learning_rate": -1e-3}, "--config.train.learning_rate=-0.001"),
    (None, {"train.schedule": "step"}, "--config.train.schedule=step: wanted one of constant"),
    (None, {"train.warmup": 1.5}, "--config.train.warmup=1.5: wanted 0 to 1"),
    (None, {"train.linear_from": 1.0}, "--config.train.linear_from=1.0: wanted 0 to below 1"),
    (None, {"train.weight_decay": -0.1}, "--config.train.weight_decay=-0.1"),
    (None, {"train.beta1": 1.0}, "--config.train.beta1=1.0: wanted 0 to below 1"),
    (None, {"train.clip_norm": -1.0}, "--config.train.clip_norm=-1.0"),
    (None, {"train.averaging": 1.0}, "--config.train.averaging=1.0"),
    ("mmin", {"pretrain.epochs": 0}, "--config.pretrain.epochs=0"),
    ("mmin", {"pretrain.schedule": "x"}, "--config.pretrain.schedule=x"),
    (None, {"seed": -1}, "--config.seed=-1: wanted 0 to 2,147,483,647"),
    (None, {"seed": 2**40}, "--config.seed=1099511627776"),
    (None, {"num_seeds": 0}, "--config.num_seeds=0: wanted at least 1"),
    (None, {"fold": -1}, "--config.fold=-1"),
    (None, {"fold": 9}, "--config.fold=9: wanted 1 to 3, or 0 for all"),
    (None, {"layout": "grid"}, "--config.layout=grid: wanted auto, vmap or map"),
    (None, {"checkpoint_seconds": NAN}, "--config.checkpoint_seconds=nan"),
    (None, {"system": "transformer"}, "--config.system=transformer: wanted one of"),
    (None, {"system": "mmin"}, "--config.system=mmin: its settings are another system's"),
    (None, {"data.pack": ""}, "--config.data.pack: missing"),
    (None, {"data.length": 0}, "--config.data.length=0: wanted at least 1"),
    (None, {"data.normalised": ("audio",)}, "data.normalised=('audio',): 'audio' is none of"),
    (
        None,
        {"data.normalised": ("text",), "data.quantiles": True},
        "data.normalised=('text',): wanted data.normalise=True",
    ),
    (
        None,
        {"data.length": 1, "model.fusion.variant": "concat"},
        "model.fusion.variant=concat (no_attention) with data.length=1",
    ),
    (None, {"model.udcl.sigma": "std"}, "--config.model.udcl.sigma=std: wanted one of deviation"),
    (None, {"data.align": "cut"}, "--config.data.align=cut: wanted pool, interp or none"),
    (None, {"data.align": "none"}, "--config.data.align=none: utterance 'u00"),
    (None, {"data.loader": "torch"}, "--config.data.loader=torch: wanted tfds or numpy"),
    (None, {"protocol.scheme": "dialogue"}, "protocol.scheme=dialogue: wanted session"),
    (None, {"protocol.scheme": "split"}, "no split column"),
    (None, {"protocol.validation": "test"}, "protocol.validation=test: wanted random, rotate, "),
    (None, {"protocol.validation": "none", "protocol.select_on_test": True}, "without select_on_t"),
    (None, {"protocol.val_fraction": 0.0}, "--config.protocol.val_fraction=0.0: wanted above 0"),
    (None, {"protocol.val_fraction": 1.0}, "--config.protocol.val_fraction=1.0"),
    (None, {"protocol.val_seed": -1}, "--config.protocol.val_seed=-1"),
    (
        "shuffled_labels",
        {"protocol.select_on_test": True},
        "--config.protocol.shuffled_labels: wanted without select_on_test",
    ),
    (None, {"masking.patterns": "t,x"}, "--config.masking.patterns=t,x: wanted all"),
    (None, {"masking.patterns": "t,t"}, "--config.masking.patterns=t,t"),
    (None, {"masking.probabilities": (0.5, 0.5)}, "wanted 7 numbers that sum to 1"),
    (None, {"masking.probabilities": (0.5,) * 7}, "wanted 7 numbers that sum to 1"),
    (
        None,
        {"masking.probabilities": (2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0)},
        "--config.masking.probabilities=(2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0): wanted numbers 0 to 1",
    ),
    (None, {"masking.probabilities": (NAN,) * 7}, "--config.masking.probabilities=(nan"),
    (None, {"masking.probabilities": ("a",) * 7}, "--config.masking.probabilities=('a'"),
    (
        None,
        {"robustness.missing_rates": (1.0,)},
        "missing_rates=(1.0,): wanted numbers 0 to below 1",
    ),
    (
        None,
        {"robustness.missing_rates": (0.3, 0.3)},
        "missing_rates=(0.3, 0.3): has a number twice",
    ),
    (None, {"robustness.missing_rates": (NAN,)}, "missing_rates=(nan,)"),
    (None, {"robustness.missing_rates": (-0.1,)}, "missing_rates=(-0.1,): wanted numbers 0 to"),
    (None, {"robustness.noise_levels": (1.5,)}, "noise_levels=(1.5,): wanted numbers above 0"),
    (None, {"robustness.noise_levels": (0.0,)}, "noise_levels=(0.0,): wanted numbers above 0"),
    (None, {"robustness.noise_levels": ("loud",)}, "noise_levels=('loud',)"),
    (None, {"robustness.frame_rates": (1.0,)}, "frame_rates=(1.0,): wanted numbers 0 to below 1"),
    (None, {"robustness.span_rates": (0.5, 0.5)}, "span_rates=(0.5, 0.5): has a number twice"),
    (None, {"robustness.rates": "x0.5"}, "--config.robustness.rates=x0.5: wanted a rate"),
    (None, {"robustness.rates": "t0.5,t0.5"}, "rates=t0.5,t0.5: has the same rates twice"),
    (
        None,
        {"robustness.frame_rates": (0.5,), "data.length": 1},
        "--config.robustness.frame_rates=(0.5,): one vector has no frames to lose",
    ),
    (
        None,
        {"masking.span_rate": 0.5, "data.length": 1},
        "--config.masking.span_rate=0.5: one vector has no frames to lose",
    ),
    (None, {"masking.frame_rate": 1.0}, "--config.masking.frame_rate=1.0: wanted 0 to below 1"),
    (None, {"masking.span_rate": NAN}, "--config.masking.span_rate=nan"),
    (None, {"masking.rates": "t2"}, "--config.masking.rates=t2: wanted a rate, 0 to below 1"),
    (
        None,
        {"masking.rates": "0.5", "masking.probabilities": (1 / 7,) * 7},
        "--config.masking.rates=0.5: wanted without masking.probabilities",
    ),
    (None, {"protocol.train_missing": "1"}, "--config.protocol.train_missing=1: wanted a rate"),
    (None, {"protocol.train_missing_seed": -1}, "--config.protocol.train_missing_seed=-1"),
    (
        "mmin",
        {"protocol.train_missing": "0.8"},
        "complete utterances to the teacher of fold",
    ),
    (None, {"model.width": 0}, "--config.model.width=0: wanted at least 1"),
    (None, {"model.width": 18}, "--config.model.width=18: wanted a multiple of 4"),
    (None, {"model.umc.num_heads": 3}, "which are an even number"),
    (None, {"model.umc.num_heads": 0}, "--config.model.umc.num_heads=0: wanted at least 1"),
    (None, {"model.umc.variant": "x"}, "--config.model.umc.variant=x: wanted one of pde, mlp"),
    (None, {"model.umc.dropout": 1.5}, "--config.model.umc.dropout=1.5: wanted 0 to below 1"),
    (None, {"model.umc.log_sigma_range": (4.0, -7.0)}, "log_sigma_range=(4.0, -7.0): wanted two"),
    (None, {"model.umc.log_sigma_range": (1.0,)}, "log_sigma_range=(1.0,): wanted two"),
    (None, {"model.input_dropout": -0.1}, "--config.model.input_dropout=-0.1"),
    (None, {"model.conv_kernel": 4}, "--config.model.conv_kernel=4: wanted an odd number"),
    (None, {"model.udcl.scale": 0.1}, "--config.model.udcl.scale=0.1: wanted a negative number"),
    (
        None,
        {"model.udcl.temperature": 0.0},
        "--config.model.udcl.temperature=0.0: wanted 0.01 to 1",
    ),
    (None, {"model.udcl.weight": NAN}, "--config.model.udcl.weight=nan"),
    (None, {"model.rec.weight": -1.0}, "--config.model.rec.weight=-1.0: wanted 0 or more"),
    (None, {"model.rec.kernel": 2}, "--config.model.rec.kernel=2: wanted an odd number"),
    (None, {"model.flow.num_couplings": 0}, "--config.model.flow.num_couplings=0"),
    (None, {"model.flow.permute": "mix"}, "--config.model.flow.permute=mix: wanted one of swap"),
    (None, {"model.spcl.temperature": 0.0}, "--config.model.spcl.temperature=0.0: wanted above 0"),
    (None, {"model.fusion.pairs": ("text<-audio",)}, "fusion.pairs=('text<-audio',): wanted"),
    (None, {"model.fusion.variant": "sum"}, "--config.model.fusion.variant=sum: wanted one of"),
    ("if_mmin", {"model.faithful_to": "x"}, "--config.model.faithful_to=x: wanted code or paper"),
    ("nmer", {"model.width": 10}, "--config.model.width=10: wanted twice the width"),
    ("dicmor", {"model.width": 20}, "--config.model.width=20, conv_kernel=5: wanted a multiple"),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: ",".join([c[0] or "cmarr", *(f"{k}={v}" for k, v in c[1].items())])
)
def test_a_senseless_config_is_one_line_and_nothing_is_written(
    case, tiny_pack, tmp_path, monkeypatch
):
    argument, fields, wanted = case
    monkeypatch.setattr(training, "train", lambda **_: pytest.fail("it began to train"))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the devices are there already
    config = tiny.config(argument, **{"data.pack": tiny_pack.path} | fields)
    out = str(tmp_path / "out")

    def check_and_train():
        run.check(config)
        run.train_group([WorkDir(out, config)], f"{out}/teachers", lambda: False)

    with pytest.raises(UserError) as error:
        check_and_train()
    assert wanted in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("argument", [None, *common.VARIANTS, *systems.PRESETS])
def test_every_preset_is_within_limits_and_every_number_has_one(argument):
    config = common.with_variants(common.get_config(), argument)
    limits.check(config)
    for field, value in leaves(config.to_dict()):
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert field in limits.LIMITS or field.rpartition(".")[2] in limits.LIMITS, field
