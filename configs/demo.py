"""The synthetic demo corpus: everything at once, small enough for a laptop.

    make demo

About three minutes on two CPU cores, compile included; 62 to 65 WAR / 61 to 63 UAR averaged over
the missing conditions, by processor. The corpus is made up (cmarr_jax/data/demo.py): the numbers
show that the software works, not how well emotion is recognised.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    c = common.get_config()
    c.data.length = 8
    c.train.epochs, c.train.batch_size, c.train.eval_batch_size = 12, 32, 60
    c.train.learning_rate = 2e-3
    c.model.width, c.model.input_dropout = 64, 0.3
    c.model.flow.hidden = 128
    c.model.classifier.hidden = 64
    return common.with_variants(c, argument)
