"""speechbrain's hyperparams.yaml, of which only plain numbers and words are read.

speechbrain builds a model by importing whatever class a YAML tag names, so that a downloaded folder could run any
program. Here no tag decides what is imported: a tag is compared with a short list, and the nets are built by
:class:`~v2f_core.speech.encoders.ECAPAEncoder` from the numbers that stand below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
SCALAR = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
TAGS = (
    *(*SCALAR, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"),
    *("!ref", FBANK, NORM, ECAPA),
    "!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier",
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
)
SIZES = ("channels", "kernel_sizes", "dilations", "groups")  # lists of numbers
# what each net may be told, and by which kind of value
SETTINGS: dict[str, tuple[str, dict[str, type]]] = {
    "compute_features": (
        FBANK,
        dict.fromkeys(("n_mels", "n_fft", "sample_rate", "f_min", "f_max", "win_length", "hop_length"), int),
    ),
    "mean_var_norm": (NORM, {"norm_type": str, "std_norm": bool}),
    "embedding_model": (
        ECAPA,
        {
            **dict.fromkeys(("input_size", "lin_neurons", "attention_channels", "res2net_scale", "se_channels"), int),
            **dict.fromkeys(SIZES, list),
            "global_context": bool,
        },
    ),
}


class EcapaSettings(NamedTuple):
    """What an ECAPA's three nets are built with: keyword arguments of speechbrain's classes.

    Attributes:
        compute_features: of ``Fbank``.
        mean_var_norm: of ``InputNormalization``.
        embedding_model: of ``ECAPA_TDNN``.
    """

    compute_features: dict[str, Any]
    mean_var_norm: dict[str, Any]
    embedding_model: dict[str, Any]


def read_hyperparams(path: str | Path) -> EcapaSettings:
    """The numbers of an ECAPA's ``hyperparams.yaml``. Nothing is imported and nothing is run.

    Raises:
        InputError: the file is no YAML, is too large or too deep, repeats itself by anchors, names a class that is no
            part of an ECAPA, or gives a net a setting that it does not have.

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
        root = _compose(path)
        for node in _walk(root):
            if node.tag not in TAGS:
                raise InputError(f"{path}: {node.tag} refused; an ECAPA has no such part")
        top = _children(root)
        known = {name: _plain(node, {}) for name, node in top.items() if node.tag.startswith(SCALAR)}
        settings = EcapaSettings(**{name: _settings(name, top, known) for name in SETTINGS})
        features, model = settings.compute_features, settings.embedding_model
        if features.get("sample_rate", RATE) != RATE or features.get("n_mels") != model.get("input_size"):
            raise ValueError(f"expected {RATE} samples a second, and n_mels features to be input_size")
        return settings
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as an ECAPA's settings ({reason}); get it again") from error


def _compose(path: Path) -> yaml.Node:
    """The file as a tree of nodes, once it is known to be small and not to repeat itself."""
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
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("expected names with values")
    return root


def _walk(node: yaml.Node) -> Iterator[yaml.Node]:
    yield node
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for one in child if isinstance(child, tuple) else (child,):
                yield from _walk(one)


def _children(node: yaml.Node) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{node.tag} without named settings")
    return {str(key.value): value for key, value in node.value}


def _plain(node: yaml.Node, known: Mapping[str, Any]) -> Any:
    """A number, a word or a list of them; ``!ref <name>`` is what ``known`` has under that name."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, known) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("settings within a setting")
    if node.tag == "!ref":
        reference = re.fullmatch(r"<(\w+)>", node.value)
        return known.get(reference[1]) if reference else node.value
    return yaml.constructor.SafeConstructor().construct_object(node)


def _settings(name: str, top: Mapping[str, yaml.Node], known: Mapping[str, Any]) -> dict[str, Any]:
    tag, kinds = SETTINGS[name]
    if name not in top or top[name].tag != tag:
        raise ValueError(f"{name} is not {tag}")
    settings = {key: _plain(node, known) for key, node in _children(top[name]).items()}
    for key, value in settings.items():
        numbers = value if isinstance(value, list) else [value] if kinds.get(key) is int else []
        fits = key in kinds and type(value) is kinds[key] and len(numbers) <= MOST_ITEMS
        if not fits or not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
            raise ValueError(f"{key}: {value!r} is no setting of {name}")
    return settings
