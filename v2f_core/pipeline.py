"""The whole way as one diffusers pipeline: a recording in, faces out (Eq. 5)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.artefacts.provenance import folder_hash
from v2f_core.diffusion.lora_files import fuse_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior, check_truncation
from v2f_core.saving import SavedPipeline
from v2f_core.speech.activity import read_speech, speech_clips
from v2f_core.speech.audio import CLIP_SECONDS
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, load_encoder

logger = logging.getLogger(__name__)
AT_ONCE = 8  # images denoised together: bounds the memory of a request for many


@dataclass
class Vox2FaceOutput(BaseOutput):
    """What a voice gave.

    Attributes:
        images: PIL images, RGB.
        identity: ẑ, the predicted point on the sphere of faces, float32 of norm 1.
        identities: whom each image shows: draws from p(z | v), or ẑ for all.
        truncation: 0 where all images show ẑ, 1 where each shows an honest draw; see ``Vox2FacePipeline.__call__``.
        windows: how many 1.25 s windows of the recording were heard.
    """

    images: list[Image]
    identity: Float32[Tensor, 512]
    identities: Float32[Tensor, "images 512"]
    truncation: float
    windows: int


class Vox2FacePipeline(SavedPipeline):
    """a → v_spk → z ~ p(z | v) → P(z) → DPM-Solver++ → VAE decode (Eq. 5, where z is ẑ: truncation 0).

    The diffusers and transformers parts are registered as usual, so that ``pipe.unet``, ``pipe.to``, another
    ``pipe.scheduler``, adapters, offloading, attention slicing and ``save_pretrained`` work; beside them stand the
    speech encoder and the aligner, in folders of their own.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: of a :class:`~v2f_core.diffusion.prior.Prior`.
        speech_encoder: hears a window, gives v_spk.
        aligner: g_φ.
        encoder: the speech encoder's kind, "ast" or "ecapa".
        guidance: classifier-free guidance scale, 3.0 in Arc2Face's sampler; the paper gives none.
        num_steps: of DPM-Solver++, 25 in the paper.
        clip_seconds: length of a window.
        speech_folder: where the speech encoder was loaded from; ``save_pretrained`` copies it.
        ast_frames, ast_positions: how the speech encoder was loaded, see ``load_encoder``.
        profile: name of the profile that the parts are of; the model card states their terms by it.
        posterior: p(z | v), trained with this aligner; without one every face is of ẑ.

    Example:
        >>> pipe = Vox2FacePipeline.from_profile("mini")  # doctest: +SKIP
        >>> out = pipe("voice.wav", num_images=4, generator=torch.Generator().manual_seed(0))  # doctest: +SKIP
        >>> out.images[0].size, out.identity.shape  # doctest: +SKIP
        ((128, 128), torch.Size([512]))
    """

    model_cpu_offload_seq = "speech_encoder->aligner->text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        # both are needed; but what has no default diffusers takes for a part that it loads and saves itself
        speech_encoder: ASTEncoder | ECAPAEncoder | None = None,
        aligner: Aligner | None = None,
        encoder: str = "ast",
        guidance: float = 3.0,
        num_steps: int = 25,
        clip_seconds: float = CLIP_SECONDS,
        speech_folder: str | Path | None = None,
        ast_frames: int | None = None,
        ast_positions: str = "cut",
        profile: str | None = None,
        posterior: IdentityPosterior | None = None,
    ) -> None:
        super().__init__()
        if speech_encoder is None or aligner is None:
            raise InputError(
                "speech_encoder and aligner: expected both; Vox2FacePipeline.from_profile gives a whole one"
            )
        if speech_encoder.dim != aligner.speaker_width:
            raise InputError(
                f"speech encoder of width {speech_encoder.dim}, aligner for {aligner.speaker_width}: "
                "expected an aligner that was trained on this encoder"
            )
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(
            encoder=encoder,
            guidance=guidance,
            num_steps=num_steps,
            clip_seconds=clip_seconds,
            ast_frames=ast_frames,
            ast_positions=ast_positions,
            profile=profile,
        )
        if posterior is not None and posterior.aligner is not aligner:
            raise InputError("posterior: it holds another aligner than the pipeline; expected one for both")
        self.speech_encoder, self.aligner, self.posterior = speech_encoder, aligner, posterior
        self.speech_folder = None if speech_folder is None else Path(speech_folder)

    @classmethod
    def from_profile(
        cls, profile: str | Profile | None = None, device: str = "cpu", stage: int | None = None
    ) -> Vox2FacePipeline:
        """The pipeline of a profile's parts.

        Args:
            profile: name of a profile, or a profile.
            device: where to put it.
            stage: 1 for Stage I's aligner and the prior as it is, 2 for what Stage II made of both; without one the
                last that is there.
        Raises:
            InputError: no such profile, or a part of it is missing or damaged.
        """
        chosen = profile if isinstance(profile, Profile) else load_profile(profile)
        prior = Prior.from_folder(chosen.part("prior"))
        which = {None: chosen.last_stage, 1: "aligner", 2: "adapted"}[stage]
        folder = chosen.part(which)
        if which == "adapted":
            if (folder / "lora").is_dir():
                fuse_lora(prior, folder / "lora")
            folder = folder / "aligner"
        aligner, drawn_from = Aligner.from_pretrained(folder), chosen.posterior_of(which)
        speech_folder = chosen.part(chosen.encoder)
        pipe = cls(
            prior.vae,
            prior.text_encoder,
            prior.tokenizer,
            prior.unet,
            prior.scheduler,
            load_encoder(chosen.encoder, speech_folder, chosen.ast_frames, chosen.ast_positions),
            aligner,
            chosen.encoder,
            chosen.guidance,
            chosen.steps,
            chosen.clip_seconds,
            speech_folder,
            chosen.ast_frames,
            chosen.ast_positions,
            chosen.name,
            None if drawn_from is None else IdentityPosterior.from_pretrained(drawn_from, aligner, made_from(chosen)),
        )
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
        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "speech_encoder", "aligner")
        return {name: getattr(self, name) for name in names}

    @property
    def prior(self) -> Prior:
        """The registered diffusion parts as a prior that computes where the pipeline does."""
        prior = Prior(self.unet, self.vae, self.text_encoder, self.tokenizer, self.scheduler)
        return prior.compute_on(self._execution_device)

    def identify(
        self, voice: str | Path | Float32[Tensor, " samples"] | Float32[Tensor, "windows samples"]
    ) -> tuple[Float32[Tensor, 512], int]:
        """ẑ of a voice, and how many windows were heard.

        Args:
            voice: a recording's path or its samples (mono, 16 kHz), of which what lies before and after the speech is
                left out, with an ``AudioWarning`` if they tell little of a voice; or windows already cut.
        Raises:
            InputError: the recording cannot be used.
        """
        speaker, windows = self.hear(voice)
        with torch.no_grad():
            return self.aligner(speaker).cpu(), windows

    @torch.no_grad()
    def hear(
        self, voice: str | Path | Float32[Tensor, " samples"] | Float32[Tensor, "windows samples"]
    ) -> tuple[Float32[Tensor, " speaker"], int]:
        """v_spk of a voice, the mean over its windows, and how many these are; see :meth:`identify`."""
        if not isinstance(voice, Tensor):
            windows, _ = read_speech(voice, self.config["clip_seconds"])
        else:
            windows = speech_clips(voice, self.config["clip_seconds"])[0] if voice.ndim == 1 else voice
        parts = [self.speech_encoder.embed(part.to(self._execution_device)) for part in windows.split(64)]
        return torch.cat(parts).float().mean(dim=0), len(windows)

    @torch.no_grad()
    def __call__(
        self,
        voice: str | Path | Float32[Tensor, " samples"] | Float32[Tensor, "windows samples"],
        num_images: int = 4,
        truncation: float | int = 1.0,
        guidance: float | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Vox2FaceOutput:
        """Draw faces for a voice.

        Args:
            voice: a recording's path, its samples (mono, 16 kHz), or windows already cut.
            num_images: how many faces.
            truncation: 1 draws an identity from p(z | v) for each face; 0 shows the point estimate ẑ on all, as the
                paper does; between them the way from ẑ to the draw. Without a posterior all show ẑ, which is logged,
                and told by the output's truncation of 0.
            guidance, num_steps: in place of the pipeline's own.
            generator: source of all noise; a list gives each image its own, so that one can be drawn again alone.
        Raises:
            InputError: the recording cannot be used, or a number makes no sense.
        """
        from diffusers.image_processor import VaeImageProcessor

        if num_images < 1:
            raise InputError(f"num_images={num_images}: expected at least 1")
        if isinstance(generator, list) and len(generator) != num_images:
            raise InputError(f"{len(generator)} generators for {num_images} images: expected one an image")
        check_truncation(truncation)
        speaker, windows = self.hear(voice)
        prior = self.prior
        # the noise of the picture first: with another truncation the same seed keeps pose and light
        noise = randn_tensor((num_images, *prior.latent_shape), generator=generator, device=prior.device)
        identity, identities, truncation = self._whom(speaker, num_images, truncation, generator)
        faces = [
            prior.sample(
                identities[start : start + AT_ONCE],
                num_steps=self.config["num_steps"] if num_steps is None else num_steps,
                guidance=self.config["guidance"] if guidance is None else guidance,
                generator=generator[start : start + AT_ONCE] if isinstance(generator, list) else generator,
                noise=part,
            )
            for start, part in zip(range(0, num_images, AT_ONCE), noise.split(AT_ONCE), strict=True)
        ]
        self.maybe_free_model_hooks()
        images = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(torch.cat(faces).float() / 2 + 0.5))
        return Vox2FaceOutput(
            images=images, identity=identity, identities=identities, truncation=truncation, windows=windows
        )

    def _whom(
        self,
        speaker: Float32[Tensor, " speaker"],
        count: int,
        truncation: float | int,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> tuple[Float32[Tensor, 512], Float32[Tensor, "images 512"], float]:
        """ẑ, the identities to draw, and the truncation that they really have."""
        identity = self.aligner(speaker).cpu()
        if self.posterior is None and truncation > 0:
            logger.warning(
                "no posterior: all faces are of the point estimate; 'python -m v2f_core posterior' makes one"
            )
        if self.posterior is None or truncation == 0:
            return identity, identity.expand(count, -1), 0.0
        return identity, self.posterior.sample(speaker, count, truncation, generator).cpu(), float(truncation)


def made_from(profile: Profile) -> dict[str, str]:
    """The hashes of the profile's speech encoder and face net, by the names that provenance has for them.

    Raises:
        InputError: one of them is missing or damaged.
    """
    return {f"{part}_sha256": folder_hash(profile.part(part)) for part in (profile.encoder, "faces")}
