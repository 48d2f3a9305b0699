"""Read speechbrain's hyperparams.yaml without running code: only plain numbers and words are read.

speechbrain imports whatever class a YAML tag names, so that a downloaded folder could run any program. Here a tag
imports nothing: it is compared with a short list, and :class:`~v2f_core.speech.encoders.ECAPAEncoder` builds the nets
from the numbers below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from v2f_core.errors import InputError

MOST_BYTES, DEEPEST = 32_000, 6  # the published file has 2 kB and three levels
MOST_ITEMS, LARGEST = 16, 16_384  # of a list and of a number; the published net has lists of 5 and 3,072 channels
RATE = 16_000
FBANK = "!new:speechbrain.lobes.features.Fbank"
NORM = "!new:speechbrain.processing.features.InputNormalization"
ECAPA = "!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN"
UNUSED = (
    "!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier",
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
)
# each net's tag, and the type of each of its settings; lists hold whole numbers
NETS: dict[str, tuple[str, dict[str, type]]] = {
    "compute_features": (
        FBANK,
        dict.fromkeys(("n_mels", "n_fft", "sample_rate", "f_min", "f_max", "win_length", "hop_length"), int),
    ),
    "mean_var_norm": (NORM, {"norm_type": str, "std_norm": bool}),
    "embedding_model": (
        ECAPA,
        {
            **dict.fromkeys(("input_size", "lin_neurons", "attention_channels", "res2net_scale", "se_channels"), int),
            **dict.fromkeys(("channels", "kernel_sizes", "dilations", "groups"), list),
            "global_context": bool,
        },
    ),
}


class EcapaSettings(NamedTuple):
    """Keyword arguments for speechbrain's ``Fbank``, ``InputNormalization`` and ``ECAPA_TDNN``."""

    compute_features: dict[str, Any]
    mean_var_norm: dict[str, Any]
    embedding_model: dict[str, Any]


def read_hyperparams(path: str | Path) -> EcapaSettings:
    """The settings in an ECAPA's ``hyperparams.yaml``. Nothing is imported and nothing is run.

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
    path = Path(path)
    try:
        top = yaml.load(_checked_text(path), _Loader)
        if not isinstance(top, dict):
            raise ValueError("expected names with values")
        settings = EcapaSettings(*(_settings(name, top) for name in NETS))
        features, model = settings.compute_features, settings.embedding_model
        if features.get("sample_rate", RATE) != RATE or features.get("n_mels") != model.get("input_size"):
            raise ValueError(f"expected {RATE} samples a second, and n_mels features to be input_size")
        return settings
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as an ECAPA's settings ({reason}); get it again") from error


def _checked_text(path: Path) -> str:
    """The file's text, if it is small and has no anchors, which could make it large in memory."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    text, depth = content.decode("utf-8"), 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("anchors are refused")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
    return text


class _Part(NamedTuple):
    """A tag with the named settings below it."""

    tag: str
    settings: dict[str, Any]


class _Reference(str):
    """The text after ``!ref``: ``<name>`` stands for the number or word that the file gives that name."""


class _Loader(yaml.SafeLoader):
    """Reads numbers, words, lists and the parts of an ECAPA; refuses every other tag."""

    def part(self, node: yaml.Node) -> _Part:
        if isinstance(node, yaml.ScalarNode) and not node.value:
            return _Part(node.tag, {})
        settings: Any = self.construct_mapping(node, deep=True)  # type: ignore[arg-type]  # refuses other nodes
        return _Part(node.tag, settings)

    def reference(self, node: yaml.ScalarNode) -> _Reference:
        return _Reference(self.construct_scalar(node))

    def refuse(self, node: yaml.Node) -> None:
        raise InputError(f"{node.tag} refused; an ECAPA has no such part")


for _tag in (FBANK, NORM, ECAPA, *UNUSED):
    _Loader.add_constructor(_tag, _Loader.part)
_Loader.add_constructor("!ref", _Loader.reference)
_Loader.add_constructor(None, _Loader.refuse)  # any other tag


def _settings(name: str, top: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one net, references resolved and types checked."""
    (tag, kinds), part = NETS[name], top.get(name)
    if not isinstance(part, _Part) or part.tag != tag:
        raise ValueError(f"{name} is not {tag}")
    settings = {key: _resolve(value, top) for key, value in part.settings.items()}
    for key, value in settings.items():
        numbers = value if isinstance(value, list) else [value] if kinds.get(key) is int else []
        fits = key in kinds and type(value) is kinds[key] and len(numbers) <= MOST_ITEMS
        if not fits or not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
            raise ValueError(f"{key}: {value!r} is no setting of {name}")
    return settings


def _resolve(value: Any, top: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolve(item, top) for item in value]
    reference = re.fullmatch(r"<(\w+)>", value) if isinstance(value, _Reference) else None
    return top.get(reference[1]) if reference else value
