"""Shapes of real models, as the text configs of their checkpoints. Sources: the public configs.

Knows no tensors and no values. A shape is data: another one is another file of configs/.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FormatError

Config = dict[str, Any]

EOS_ID = 256  # of the byte-level tokenizer: 256 bytes, then <|im_end|>
GROUP = 64  # columns that share a scale: every width is a multiple of it
MAX_LAYERS = 1 << 12
_SWITCHES = {"norm_topk_prob", "tie_word_embeddings"}  # with which any tensors fit
_LISTS = {"hybrid_override_pattern", "layer_types"}  # fields with a kind a layer

FOLDER = Path(__file__).with_name("configs")
SHAPES: dict[str, Config] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


def shape(name: str, layers: int | None = None, settings: Sequence[str] = ()) -> Config:
    """The text config of a named shape, cut to `layers`, with "key=JSON" `settings` on top.

    Raises:
        FormatError: no such shape, no such key, or no number of layers.
    """
    if name not in SHAPES:
        raise FormatError(f"[synth] expected a shape of {', '.join(SHAPES)}, found {name!r}")
    config = copy.deepcopy(SHAPES[name])
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in config:
            raise FormatError(f"[synth] expected key=value with a key of {', '.join(config)}, "
                              f"found {setting!r}")  # fmt: skip
        try:
            config[key] = json.loads(text)
        except ValueError:
            raise FormatError(f"[synth] expected a JSON value, found {setting!r}") from None
        before = SHAPES[name][key]
        if isinstance(before, bool) and key not in _SWITCHES and config[key] is not before:
            raise FormatError(f"[synth] expected {key} {json.dumps(before)}, as its tensors have "
                              f"it, found {setting!r}")  # fmt: skip
        if isinstance(before, bool) and not isinstance(config[key], bool):
            raise FormatError(f"[synth] expected true or false for {key}, found {setting!r}")
    if layers is not None:
        config["num_hidden_layers"] = layers
    return config | _of_layers(config)


def _of_layers(config: Config) -> Config:
    """The fields of a kind a layer, as long as there are layers: cut, or begun again.

    Raises:
        FormatError: a number of layers that makes no model.
    """
    n_layers = config["num_hidden_layers"]
    if type(n_layers) is not int or not 1 <= n_layers <= MAX_LAYERS:
        raise FormatError(f"[synth] expected num_hidden_layers in 1..{MAX_LAYERS}, "
                          f"found {n_layers!r}")  # fmt: skip
    listed = {key: config[key] for key in _LISTS & config.keys()}
    for key, value in listed.items():
        if not isinstance(value, (list, str)) or not value or len(value) > MAX_LAYERS:
            raise FormatError(f"[synth] expected a kind for each layer in {key}, found {value!r}")
    return {key: (value * -(-n_layers // len(value)))[:n_layers] for key, value in listed.items()}
