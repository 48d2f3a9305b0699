"""Read the numbers in speechbrain's hyperparams.yaml.

speechbrain imports whatever class a YAML tag names, so that a downloaded folder could run any program. Here a tag
imports nothing: it is compared with a short list, and `ECAPAEncoder` builds its nets from the numbers below it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

MOST_BYTES, DEEPEST = 32_000, 6  # the published file has 2 kB and three levels
MOST_ITEMS, LARGEST = 16, 16_384  # of a list and of a number; the published net has lists of 5 and 3,072 channels
RATE = 16_000
TAGS = (
    "!new:speechbrain.lobes.features.Fbank",
    "!new:speechbrain.processing.features.InputNormalization",
    "!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
    "!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier",
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
    "!ref",
)
# the settings of each net, and their types; lists hold whole numbers
NETS: dict[str, dict[str, type]] = {
    "compute_features": dict.fromkeys(
        ("n_mels", "n_fft", "sample_rate", "f_min", "f_max", "win_length", "hop_length"), int
    ),
    "mean_var_norm": {"norm_type": str, "std_norm": bool},
    "embedding_model": {
        **dict.fromkeys(("input_size", "lin_neurons", "attention_channels", "res2net_scale", "se_channels"), int),
        **dict.fromkeys(("channels", "kernel_sizes", "dilations", "groups"), list),
        "global_context": bool,
    },
}


def read_hyperparams(path: str | Path) -> dict[str, dict[str, Any]]:
    """The settings of an ECAPA's three nets: keyword arguments of speechbrain's classes. Nothing is imported or run.

    Raises:
        InputError: the file is no YAML, is too large or too deep, uses anchors, names a class that is no part of an
            ECAPA, or gives a net a setting that it does not have.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "hyperparams.yaml"
        >>> _ = path.write_text("embedding_model: !new:subprocess.Popen [ls]")
        >>> read_hyperparams(path)
        Traceback (most recent call last):
        v2f_core.errors.InputError: ...hyperparams.yaml: !new:subprocess.Popen refused; an ECAPA has no such part
    """
    with refusing(path, "an ECAPA's settings"):
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if len(text) > MOST_BYTES or depth > DEEPEST or getattr(event, "anchor", None):
                raise ValueError(f"expected at most {MOST_BYTES} bytes and {DEEPEST} levels, and no anchors")
            if (tag := getattr(event, "tag", None)) and tag not in TAGS:
                raise InputError(f"{tag} refused; an ECAPA has no such part")
        top = yaml.load(text, _Loader)
        nets = {name: _settings(name, top) for name in NETS}
        features, model = nets["compute_features"], nets["embedding_model"]
        if features.get("sample_rate", RATE) != RATE or features.get("n_mels") != model.get("input_size"):
            raise ValueError(f"expected {RATE} samples a second, and n_mels features to be input_size")
        return nets


class _Loader(yaml.SafeLoader):
    """Reads numbers, words, lists and what lies below a tag, but not the tag."""

    def content(self, node: yaml.Node) -> Any:
        return self.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else node.value


_Loader.add_constructor(None, _Loader.content)


def _settings(name: str, top: Any) -> dict[str, Any]:
    """The settings of one net, with ``<name>`` replaced by the number or word of that name, and types checked."""
    settings = {}
    for key, value in top[name].items():
        reference = re.fullmatch(r"<(\w+)>", value) if isinstance(value, str) else None
        resolved = top.get(reference[1]) if reference else value
        kind = NETS[name].get(key)
        numbers = resolved if isinstance(resolved, list) else [resolved] if kind is int else []
        whole = all(type(number) is int and 0 <= number <= LARGEST for number in numbers)
        if type(resolved) is not kind or len(numbers) > MOST_ITEMS or not whole:
            raise ValueError(f"{key}: {resolved!r} is no setting of {name}")
        settings[key] = resolved
    return settings
