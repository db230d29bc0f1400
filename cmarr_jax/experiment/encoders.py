"""The encoders that a config puts before its system: read, and checked against the pack.

`--config.encoders.MODALITY.model` trains the layers above the hidden state that the pack holds;
`.mix` learns one weight for each of several states (as the featurizer of SUPERB, Yang et al., 2021,
arXiv:2105.01051), of an encoder that stays as it is.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmarr_jax.cli import config_files
from cmarr_jax.data import provenance
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.errors import UserError
from cmarr_jax.systems.precision import Precision
from cmarr_jax.systems.system import Encoder, Params


def chosen(config: ConfigDict) -> dict[str, ConfigDict]:
    """Modality -> its section of `config.encoders`, of those where something is trained."""
    return {m: own for m, own in config.encoders.items() if own.model or own.mix}


def own_lengths(config: ConfigDict) -> dict[str, int]:
    """Modality -> rows after which it is cut, of those that are read at their own length.

    Raises:
      UserError: the config's fields do not go together.
    """
    _check_used(config)
    whole = {}
    for m, own in chosen(config).items():
        flag = f"--config.encoders.{m}"
        if own.model and own.mix:
            raise UserError(f"{flag}.mix=True: wanted without {flag}.model, or the other way round")
        unfit = {
            "data.align": ("pool", config.data.align),
            "data.statistics": ("mean", config.data.statistics),
            "data.quantiles": (False, config.data.quantiles),
        }
        for field, (wanted, found) in unfit.items():
            if found != wanted:
                raise UserError(
                    f"--config.{field}={found}: wanted {wanted} beside {flag}, whose features move "
                    "while it learns"
                )
        if own.model:
            whole[m] = own.max_positions
    return whole


def _check_used(config: ConfigDict) -> None:
    """Refuses a field that nothing would read."""
    defaults = config_files.get("").encoders
    for m, own in config.encoders.items():
        if own.model:
            continue
        for field, value in own.items():
            if field != "mix" and value != defaults[m][field]:
                why = "a mix has the system's" if own.mix else f"nothing of {m} is trained"
                raise UserError(
                    f"--config.encoders.{m}.{field}={value}: {why}; wanted beside "
                    f"--config.encoders.{m}.model=FOLDER, or left out"
                )


def open_encoders(
    config: ConfigDict, corpus: Corpus, precision: Precision
) -> Callable[[str | None], tuple[Encoder, ...]]:
    """Mapped batch axis or None -> the encoders of `config` for `corpus`.

    Raises:
      UserError: a pack's features are not what the encoder reads, or there is no such encoder.
    """
    makers = []
    for m, own in chosen(config).items():
        made = provenance.encoders(corpus.provenance, corpus.modalities).get(m)
        if own.mix:
            makers.append(_open_mix(m, made, corpus.features[m].shape[-1]))
        else:
            makers.append(_open_upper(m, own, made, precision))
    return lambda axis: tuple(make(axis) for make in makers)


def from_facts(modality: str, facts: Mapping[str, Any], dtype: str = "float32") -> Encoder:
    """An encoder of an exported model, from its `Encoder.facts`; layers compute in `dtype`."""
    if "mix" in facts:
        return _mix(modality, facts["mix"], facts["dim"])
    from cmarr_jax.extract import upper  # only who trains upper layers needs what it imports

    module = upper.upper_module(facts["kind"], facts["config"], dtype=dtype)
    return _encoder(modality, module, facts["start"], {}, facts)


def _open_mix(
    m: str, made: Mapping[str, Any] | None, width: int
) -> Callable[[str | None], Encoder]:
    recipe = made["recipe"] if made else {}
    if recipe.get("layout") != "side by side":
        raise UserError(
            f"--config.encoders.{m}.mix=True: the pack's {m} is not several layers side by side; "
            "wanted one that cmarr_jax.extract made with --layers all, or --layers 0,3,6"
        )
    states = len(recipe["states"])
    return lambda axis: _mix(m, states, width // states)


def _mix(m: str, states: int, dim: int) -> Encoder:
    def encode(params, x, mask, key):
        weights = jax.nn.softmax(params["weights"])
        return jnp.einsum("btsd,s->btd", x.reshape(*x.shape[:2], states, -1), weights)

    return Encoder(
        modality=m,
        dim=dim,
        params={"weights": np.zeros(states, np.float32)},
        encode=encode,
        depths={"weights": 0},
        facts={"mix": states, "dim": dim},
    )


def _open_upper(
    m: str, own: ConfigDict, made: Mapping[str, Any] | None, precision: Precision
) -> Callable[[str | None], Encoder]:
    flag = f"--config.encoders.{m}"
    remedy = f"extract it with --{m}-model {own.model} --layers K"
    if m == "text":
        remedy += " --keep-special-tokens"
    if not made:
        raise UserError(
            f"{flag}.model={own.model}: the pack does not say how its {m} was made; {remedy}"
        )
    recipe = made["recipe"]
    states = recipe.get("states") or []
    if len(states) != 1:
        found = f"states {states}" if states else "the last layer"
        raise UserError(
            f"{flag}.model={own.model}: the pack's {m} holds {found}, wanted one below the last; "
            + remedy
        )
    start = states[0]
    if own.from_layer not in (-1, start):
        raise UserError(
            f"{flag}.from_layer={own.from_layer}: the pack holds state {start}; wanted {start}, or "
            f"-1 for what the pack holds; or {remedy}"
        )
    if m == "text" and not recipe.get("keep_special_tokens"):
        raise UserError(
            f"{flag}.model={own.model}: the pack's text lacks the marks at its ends, which the "
            f"layers above read; {remedy}"
        )
    from cmarr_jax.extract import upper  # only who trains upper layers needs what it imports

    dtype = "bfloat16" if precision.dtype == jnp.bfloat16 else "float32"
    opened = upper.open_upper(own.model, start, dtype=dtype, recompute=own.recompute)
    wanted = {"encoder": opened.kind, "sha256": opened.sha256}
    found = {name: recipe.get(name) for name in wanted}
    if odd := provenance.difference(wanted, found):
        raise UserError(f"{flag}.model={own.model}: not what the pack was made with: {odd}")
    facts = {
        "kind": opened.kind,
        "config": opened.config,
        "start": start,
        "dim": opened.module.features,
        "positions": own.max_positions,
    }

    def make(axis: str | None) -> Encoder:
        module = opened.module.clone(batch_axis=axis)
        encoder = _encoder(m, module, start, opened.params["params"], facts)
        return encoder._replace(
            learning_rate=own.learning_rate,
            weight_decay=own.weight_decay,
            warmup=own.warmup,
            layer_decay=own.layer_decay,
            batch_axis=axis,
        )

    return make


def _encoder(m: str, module: Any, start: int, params: Params, facts: Mapping[str, Any]) -> Encoder:
    def encode(params, x, mask, key):
        rngs = {} if key is None else {"dropout": key}
        return module.apply({"params": params}, x, mask, start=start, rngs=rngs)[-1]

    return Encoder(
        modality=m,
        dim=module.features,
        params=params,
        encode=encode,
        depths=_depths(params, module.num_layers, start),
        facts=facts,
        positions=facts["positions"],
    )


def _depths(params: Params, num_layers: int, start: int) -> Params:
    """How many layers lie above each parameter; what layers share counts as below them all."""
    depths = {}
    for path in flax.traverse_util.flatten_dict(params):
        layers = [int(found[1]) for key in path if (found := re.fullmatch(r"layer_(\d+)", key))]
        shared = 0 if path[0] == "norm" else num_layers - start
        depths[path] = num_layers - 1 - layers[0] if layers else shared
    return flax.traverse_util.unflatten_dict(depths)
