"""The whole way as one diffusers pipeline: a recording in, faces out (Eq. 5); it is saved and shared like others."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.loading import one_line, quiet, read_json, refusing
from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.artefacts.weights import write_card
from v2f_core.diffusion.lora import fuse_lora
from v2f_core.diffusion.prior import PARTS, Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior, check_truncation
from v2f_core.speech.audio import CLIP_SECONDS, Voice, hear
from v2f_core.speech.encoders import SpeechEncoder, embed_windows, load_encoder

logger = logging.getLogger(__name__)
IMAGES_AT_ONCE = 8  # bounds the memory of a request for many faces
# the classes that model_index.json may ask for; a scheduler may be any of diffusers'
CLASSES = {
    "_class_name": "Vox2FacePipeline",
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}


@dataclass
class Vox2FaceOutput(BaseOutput):
    """Faces of a voice."""

    images: list[Image]  # RGB
    identity: Float32[Tensor, 512]  # ẑ, the predicted point on the sphere of faces
    identities: Float32[Tensor, "images 512"]  # whom each image shows: draws from p(z | v), or ẑ for all
    truncation: float  # 0 where all images show ẑ, 1 where each shows an honest draw
    windows: int  # how many windows of the recording were heard


class Vox2FacePipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """a → v_spk → z ~ p(z | v) → P(z) → DPM-Solver++ → VAE decode (Eq. 5, where z is ẑ: truncation 0).

    The diffusers and transformers parts are registered as usual: another ``pipe.scheduler``, adapters and
    ``save_pretrained`` work. Beside them stand the speech encoder and the aligner, in folders of their own.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: of a :class:`~v2f_core.diffusion.prior.Prior`.
        speech_encoder, aligner: what hears a window and gives v_spk; g_φ.
        guidance: classifier-free guidance scale, 3.0 in Arc2Face's sampler; the paper gives none.
        num_steps: of DPM-Solver++, 25 in the paper.
        clip_seconds: length of a window.
        profile: name of the profile that the parts are of; the README states their terms by it.
        posterior: p(z | v), trained with this aligner; without one every face is of ẑ.

    Example:
        >>> pipe = Vox2FacePipeline.from_profile("mini")  # doctest: +SKIP
        >>> pipe("voice.wav", generator=torch.Generator().manual_seed(0)).images[0].size  # doctest: +SKIP
        (128, 128)
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        # both are needed; but what has no default diffusers takes for a part that it saves itself
        speech_encoder: SpeechEncoder | None = None,
        aligner: Aligner | None = None,
        guidance: float = 3.0,
        num_steps: int = 25,
        clip_seconds: float = CLIP_SECONDS,
        profile: str | None = None,
        posterior: IdentityPosterior | None = None,
    ) -> None:
        super().__init__()
        if speech_encoder is None or aligner is None:
            raise InputError("speech_encoder and aligner: expected both; from_profile gives a whole pipeline")
        if speech_encoder.dim != aligner.speaker_width:
            widths = f"speech encoder of width {speech_encoder.dim}, aligner for {aligner.speaker_width}"
            raise InputError(f"{widths}: expected an aligner that was trained on this encoder")
        if posterior is not None and posterior.aligner is not aligner:
            raise InputError("posterior: it holds another aligner than the pipeline; expected one for both")
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(guidance=guidance, num_steps=num_steps, clip_seconds=clip_seconds, profile=profile)
        self.register_to_config(encoder=speech_encoder.kind, ast_frames=speech_encoder.max_frames)
        self.speech_encoder, self.aligner, self.posterior = speech_encoder, aligner, posterior

    @classmethod
    def from_profile(
        cls, profile: str | Profile | None = None, device: str = "cpu", stage: int | None = None
    ) -> Vox2FacePipeline:
        """The pipeline of a profile's parts: after Stage II where it was trained, or after the ``stage``, 1 or 2.

        Raises:
            InputError: no such profile, or a part of it is missing or damaged.
        """
        chosen = profile if isinstance(profile, Profile) else load_profile(profile)
        chosen.must_draw()
        prior = Prior.from_folder(chosen.part("prior"))
        last = {None: chosen.last_stage, 1: "aligner", 2: "adapted"}[stage]
        folder = chosen.part(last)
        if (folder / "lora").is_dir():
            fuse_lora(prior, folder / "lora")
        aligner = Aligner.from_pretrained(folder / "aligner" if last == "adapted" else folder)
        posterior = chosen.posterior_of(last)
        parts = {
            **{name: getattr(prior, name) for name in PARTS},
            "speech_encoder": load_encoder(chosen.encoder, chosen.part(chosen.encoder), chosen.ast_frames),
            "aligner": aligner,
            "posterior": posterior and IdentityPosterior.from_pretrained(posterior, aligner, made_from(chosen)),
        }
        length, steps = chosen.clip_seconds, chosen.steps
        pipe = cls(**parts, guidance=chosen.guidance, num_steps=steps, clip_seconds=length, profile=chosen.name)
        return pipe.to(device)

    def to(self, *args: Any, **kwargs: Any) -> Vox2FacePipeline:
        """Move every part to a device; a dtype holds for the diffusion parts, sound and identity stay float32."""
        super().to(*args, **kwargs)
        self.speech_encoder.to(self.unet.device)
        self.aligner.to(self.unet.device)
        return self

    @property
    def components(self) -> dict[str, Any]:
        """All parts by name, for building another pipeline from them."""
        return {name: getattr(self, name) for name in (*PARTS, "speech_encoder", "aligner")}

    @property
    def prior(self) -> Prior:
        """The registered diffusion parts as a prior."""
        return Prior(**{name: getattr(self, name) for name in PARTS}).to(self.unet.device)

    @torch.no_grad()
    def speaker(self, windows: Float32[Tensor, "windows clip"]) -> Float32[Tensor, " speaker"]:
        """v_spk: the mean of the windows' embeddings."""
        return embed_windows(self.speech_encoder, [windows])[0].mean(dim=0)

    @torch.no_grad()
    def identify(self, voice: Voice) -> tuple[Float32[Tensor, 512], int]:
        """ẑ of a voice (see :func:`hear`), and how many windows were heard."""
        windows, _ = hear(voice, self.config["clip_seconds"])
        return self.aligner(self.speaker(windows)).cpu(), len(windows)

    @torch.no_grad()
    def identities(
        self,
        speaker: Float32[Tensor, " speaker"],
        num_images: int,
        truncation: float | int = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Float32[Tensor, "images 512"]:
        """The identity that each image is drawn under: a draw from p(z | v) each, or ẑ = g_φ(v_spk) (Eq. 4) for all."""
        if self.posterior is None or truncation == 0:
            return self.aligner(speaker).cpu().expand(num_images, -1)
        return self.posterior.sample(speaker, num_images, truncation, generator).cpu()

    @torch.no_grad()
    def __call__(
        self,
        voice: Voice,
        num_images: int = 4,
        truncation: float | int = 1.0,
        guidance: float | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Vox2FaceOutput:
        """Draw ``num_images`` faces for a voice: a recording's path, its samples, or windows (see :func:`hear`).

        Args:
            truncation: 1 draws an identity from p(z | v) for each face; 0 shows the point estimate ẑ on all, as the
                paper does; between them the way from ẑ to the draw. Without a posterior all show ẑ, which is logged.
            guidance, num_steps: in place of the pipeline's own.
            generator: source of all noise; a list gives each image its own, so that one can be drawn again alone.
        Raises:
            InputError: the recording cannot be used, or a number makes no sense.
        """
        if num_images < 1 or (isinstance(generator, list) and len(generator) != num_images):
            raise InputError(f"num_images={num_images}: expected at least 1, and one generator or a list of as many")
        check_truncation(truncation)
        windows, _ = hear(voice, self.config["clip_seconds"])
        speaker, prior = self.speaker(windows), self.prior
        if self.posterior is None and truncation > 0:
            logger.warning("no posterior: all faces are of the point estimate (make one: python -m v2f_core posterior)")
            truncation = 0.0
        # the picture's noise first: with another truncation the same seed keeps pose and light
        noise = randn_tensor((num_images, *prior.latent_shape), generator=generator, device=prior.device)
        identities = self.identities(speaker, num_images, truncation, generator)
        steps = self.config["num_steps"] if num_steps is None else num_steps
        scale, faces = self.config["guidance"] if guidance is None else guidance, []
        for start in range(0, num_images, IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            own = generator[part] if isinstance(generator, list) else generator
            faces.append(prior.sample(identities[part], steps, scale, own, noise[part]))
        images = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(torch.cat(faces).float() / 2 + 0.5))
        return Vox2FaceOutput(images, self.aligner(speaker).cpu(), identities, float(truncation), len(windows))

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> None:
        """Write the diffusion parts in Stable Diffusion's layout, ``aligner`` and ``speech_encoder`` beside them, and a
        README.md of what it is and by whose terms. ``hf upload owner/name FOLDER`` passes it on.

        Raises:
            InputError: the speech encoder came from no folder, or adapters are loaded that are not part of the weights.
        """
        if kwargs.pop("push_to_hub", False):
            self.push_to_hub()
        if self.speech_encoder.folder is None:
            raise InputError("the speech encoder has no folder to copy; load it with load_encoder")
        if loaded := self.get_list_adapters():
            ways_out = "pipe.unload_lora_weights() takes them off, after pipe.fuse_lora() they are part of the weights"
            raise InputError(f"adapters are loaded ({loaded}): {ways_out}")
        folder = Path(save_directory)
        super().save_pretrained(folder, *args, **kwargs)
        self.aligner.save_pretrained(folder / "aligner")
        if self.posterior is not None:
            self.posterior.save_pretrained(folder / "posterior")
        shutil.copytree(self.speech_encoder.folder, folder / "speech_encoder", dirs_exist_ok=True)
        write_card(folder, self.config.profile, self.config.encoder)

    def push_to_hub(self, *_: Any, **__: Any) -> str:
        """Refused: diffusers would upload another model card in place of the one that states the terms."""
        raise InputError("push_to_hub: save_pretrained(FOLDER) first, and upload it whole: hf upload owner/name FOLDER")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[Any],
        torch_dtype: torch.dtype = torch.float32,
        **hub: Any,
    ) -> Vox2FacePipeline:
        """Load what :meth:`save_pretrained` wrote: a folder, or ``owner/name`` of the hub (cache or download).

        ``hub`` are options of ``huggingface_hub.snapshot_download``, such as ``revision``.

        Raises:
            InputError: the folder is missing, not a pipeline's, or asks for other classes; the hub cannot give it.
        """
        folder = _saved_folder(pretrained_model_name_or_path, hub)
        index = _read_index(folder / "model_index.json")
        if index.get("ast_frames") and index.get("ast_positions", "cut") != "cut":  # an option of version 0.1
            raise InputError(f"{folder}: its AST has interpolated positions, which are gone; save it with cut ones")
        aligner, posterior = Aligner.from_pretrained(folder / "aligner"), None
        if (folder / "posterior").is_dir():
            posterior = IdentityPosterior.from_pretrained(folder / "posterior", aligner)
        encoder = load_encoder(index.get("encoder", "ast"), folder / "speech_encoder", index.get("ast_frames"))
        prior = Prior.from_folder(folder, dtype=torch_dtype)
        with quiet(), refusing(folder, "a saved Vox2FacePipeline", "save or download it again"):
            kind = getattr(diffusers, index["scheduler"][1])  # any of diffusers', see _read_index
            prior.scheduler = kind.from_pretrained(folder / "scheduler", local_files_only=True)
            parts = {name: getattr(prior, name) for name in PARTS}
            parts |= {"speech_encoder": encoder, "aligner": aligner, "posterior": posterior}
            settings = {"guidance", "num_steps", "clip_seconds", "profile"} & index.keys()
            return cls(**parts, **{name: index[name] for name in settings})


def made_from(profile: Profile) -> dict[str, str]:
    """The hashes of the profile's speech encoder and face net, by the names that provenance has for them."""
    return {f"{part}_sha256": folder_hash(profile.part(part)) for part in (profile.encoder, "faces")}


def _read_index(path: Path) -> dict[str, Any]:
    """model_index.json, in which only the classes of such a pipeline may stand."""
    config = read_json(path, "give a saved pipeline's folder, or download it again")
    for name, value in config.items():
        known = value == CLASSES.get(name) or not (isinstance(value, list) or name == "_class_name")
        if name == "scheduler" and isinstance(value, list) and value[:1] == ["diffusers"] and len(value) == 2:
            scheduler = getattr(diffusers, str(value[1]), None)
            known = isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)
        if not known:
            raise InputError(f"{path}: {name} is {value!r}, refused; no Vox2FacePipeline was saved with such a part")
    return config


def _saved_folder(name: str | os.PathLike[Any], options: dict[str, Any]) -> Path:
    """The folder itself, or that of the hub's cache where the repository ``owner/name`` is or now comes to lie."""
    folder = Path(name)
    if folder.exists() or not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "~", "/")):
        return folder
    try:
        return Path(huggingface_hub.snapshot_download(name, **options))
    except Exception as error:  # the hub's own, and those of the HTTP library that it uses
        missing = f"{name}: no such folder, and not to be had from the Hugging Face Hub ({one_line(error)})"
        private = "for a private or gated repository that you are logged in (hf auth login)"
        raise InputError(f"{missing}; check the name, the network, HF_HUB_OFFLINE, and {private}") from error
