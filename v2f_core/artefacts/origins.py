"""Where the full profile's weights are published: files, sizes, licences, and where each file belongs.

A list only; :mod:`v2f_core.artefacts.weights` brings them. What is known of each, its training data and its leaks,
stands in ``data_cards/weights.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# how a published file becomes ours: as it is, or a pickle read safely and written as safetensors
Conversion = Literal["", "bin", "vggface2"]
ANTELOPE, BUFFALO = "antelopev2", "buffalo_l"
INSIGHTFACE = "https://github.com/deepinsight/insightface/releases/download/v0.7"
# Face nets in Caffe's manner: pixels 0 to 255 in BGR less these means, nothing else
VGGFACE2_JUDGE = {
    "architecture": "resnet50_caffe",
    "n_classes": 8631,
    "size": 224,
    "channels": "BGR",
    "mean": [91.4953, 103.8827, 131.0912],
    "scale": 1.0,
}


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        path: in its repository or archive.
        megabytes: its size as its publisher shows it, rounded; 0 for text.
        convert: how it is rewritten on the way.
    """

    path: str
    megabytes: float | int = 0
    convert: Conversion = ""


@dataclass(frozen=True)
class Origin:
    """A publisher's repository, archive or form, and what of it belongs into a part's folder.

    Attributes:
        name: the hub's id; else the archive's or file's own name.
        licence: as its publisher states it.
        files: path in our folder → what is published.
        consent: what has to be agreed to before a download; "" if nothing.
        archive: address of a zip that holds the files.
        form: page of those who give it out by hand; it cannot be downloaded by a program.
        archive_megabytes: the zip's size.
    """

    name: str
    licence: str
    files: Mapping[str, Published]
    consent: str = ""
    archive: str = ""
    form: str = ""
    archive_megabytes: float | int = 0

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        return self.form or self.archive or f"https://huggingface.co/{self.name}"

    @property
    def megabytes(self) -> float | int:
        """What a whole download of it weighs."""
        return self.archive_megabytes or sum(file.megabytes for file in self.files.values())


_ARC2FACE = "FoivosPar/Arc2Face"
_STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_RESEARCH = "non-commercial research only"
_INSIGHTFACE = f"InsightFace's models are for {_RESEARCH}"
_WEBFACE = (
    "Arc2Face states MIT; its face nets were trained on WebFace42M, which is given out for non-commercial research"
)
_OPENRAIL = "CreativeML Open RAIL-M forbids some uses, impersonation without consent among them"

ORIGINS: Mapping[str, tuple[Origin, ...]] = {
    "ast": (
        Origin(
            "MIT/ast-finetuned-audioset-10-10-0.4593",
            "BSD-3-Clause",
            {
                "config.json": Published("config.json"),
                "preprocessor_config.json": Published("preprocessor_config.json"),
                "model.safetensors": Published("model.safetensors", 346),
            },
        ),
    ),
    "ecapa": (
        Origin(
            "speechbrain/spkrec-ecapa-voxceleb",
            "Apache-2.0",
            {
                "hyperparams.yaml": Published("hyperparams.yaml"),
                "label_encoder.txt": Published("label_encoder.txt", 0.1),
                "embedding_model.ckpt": Published("embedding_model.ckpt", 83.3),
                "mean_var_norm_emb.ckpt": Published("mean_var_norm_emb.ckpt"),
                "classifier.ckpt": Published("classifier.ckpt", 5.5),
            },
        ),
    ),
    "faces": (
        Origin(
            ANTELOPE,
            _RESEARCH,
            {"scrfd_10g_bnkps.onnx": Published("scrfd_10g_bnkps.onnx", 17)},
            consent=_INSIGHTFACE,
            archive=f"{INSIGHTFACE}/{ANTELOPE}.zip",
            archive_megabytes=361,
        ),
        # Arc2Face was conditioned on this net, not on antelopev2's own glintr100
        Origin(_ARC2FACE, "MIT as stated", {"arcface.onnx": Published("arcface.onnx", 261)}, consent=_WEBFACE),
    ),
    "prior": (
        Origin(
            _ARC2FACE,
            "MIT as stated",
            {
                "unet/config.json": Published("arc2face/config.json"),
                "unet/diffusion_pytorch_model.safetensors": Published(
                    "arc2face/diffusion_pytorch_model.safetensors", 3440
                ),
                "text_encoder/config.json": Published("encoder/config.json"),
                "text_encoder/model.safetensors": Published("encoder/pytorch_model.bin", 492, "bin"),
            },
            consent=_WEBFACE,
        ),
        Origin(
            _STABLE_DIFFUSION,
            "CreativeML Open RAIL-M",
            {
                "model_index.json": Published("model_index.json"),
                "vae/config.json": Published("vae/config.json"),
                "vae/diffusion_pytorch_model.safetensors": Published("vae/diffusion_pytorch_model.safetensors", 335),
                "tokenizer/vocab.json": Published("tokenizer/vocab.json", 1.1),
                "tokenizer/merges.txt": Published("tokenizer/merges.txt", 0.5),
                "tokenizer/tokenizer_config.json": Published("tokenizer/tokenizer_config.json"),
                "tokenizer/special_tokens_map.json": Published("tokenizer/special_tokens_map.json"),
                "scheduler/scheduler_config.json": Published("scheduler/scheduler_config.json"),
            },
            consent=_OPENRAIL,
        ),
    ),
    "judge": (
        Origin(
            "resnet50_ft_weight.pkl",
            "not stated",
            {"model.safetensors": Published("resnet50_ft_weight.pkl", 164, "vggface2")},
            form="https://github.com/cydonia999/VGGFace2-pytorch",
        ),
    ),
    # a face net that the generator was not conditioned on
    "scorer": (
        Origin(
            BUFFALO,
            _RESEARCH,
            {"det_10g.onnx": Published("det_10g.onnx", 17), "w600k_r50.onnx": Published("w600k_r50.onnx", 174)},
            consent=_INSIGHTFACE,
            archive=f"{INSIGHTFACE}/{BUFFALO}.zip",
            archive_megabytes=326,
        ),
    ),
}
