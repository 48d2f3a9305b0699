"""The identity-conditioned prior: a latent diffusion model that draws faces of an identity.

The folder has Stable Diffusion's layout (``model_index.json``, ``unet``, ``vae``, ``text_encoder``, ``tokenizer``,
``scheduler``). The interface P(·) from identity to cross-attention tokens is Arc2Face's (Papantoniou et al., ECCV 2024;
Eq. 3 and 11 of the paper). At full size it is Stable Diffusion 1.5 with Arc2Face's ``arc2face`` as ``unet`` and its
``encoder`` as ``text_encoder``; the miniature has the same classes with narrow layers.
"""

from __future__ import annotations

import math
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from v2f_core.artefacts.loading import check_config, check_finite, quiet, refusing
from v2f_core.errors import InputError
from v2f_core.identity.sphere import check_unit

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

PROMPT, PLACEHOLDER = "photo of a id person", "id"  # the identity takes the place of the placeholder's embedding
IDENTITY_DIM = 512
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
MOST_SIDE, MOST_TIMESTEPS = 512, 100_000  # of latents and of a noise schedule
AGAIN = "copy the folder again"
Identities = Float[Tensor, "batch 512"]
Images = Float[Tensor, "batch 3 height width"]  # RGB in [-1, 1]
Latents = Float[Tensor, "batch 4 h w"]
Timesteps = Int[Tensor, " batch"]
Tokens = Float[Tensor, "batch tokens dim"]  # for the UNet's cross-attention
Generators = torch.Generator | list[torch.Generator] | None  # one for the batch, one an image, torch's global one


class Prior(nn.Module):
    """Text encoder, UNet and VAE of one folder, with the noise schedule of their training.

    Example:
        >>> prior = Prior.from_folder(load_profile().part("prior"))  # doctest: +SKIP
        >>> faces = prior.sample(identity, generator=torch.Generator().manual_seed(0))  # doctest: +SKIP
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        side, steps = unet.config.sample_size, scheduler.config.num_train_timesteps
        width, positions = text_encoder.config.hidden_size, text_encoder.config.max_position_embeddings
        token, longest = tokenizer.encode(PLACEHOLDER, add_special_tokens=False), tokenizer.model_max_length
        fits = {
            f"unet: sample_size {side}, expected a number such as 64": isinstance(side, int) and 1 <= side <= MOST_SIDE,
            f"scheduler: num_train_timesteps {steps}, expected a number such as 1000": 1 <= steps <= MOST_TIMESTEPS,
            f"text_encoder: {width} wide, expected at least {IDENTITY_DIM}, an identity's": width >= IDENTITY_DIM,
            f"tokenizer: '{PLACEHOLDER}' makes {len(token)} tokens, expected one, as in CLIP's": len(token) == 1,
            f"tokenizer: prompts of {longest} tokens, expected 1 to {positions}": 1 <= longest <= positions,
        }
        if misfit := next((what for what, fit in fits.items() if not fit), ""):
            raise InputError(f"{misfit}; {AGAIN}")
        self.placeholder = int(token[0])
        self._prompt: Tensor
        self.register_buffer("_prompt", self._tokens(PROMPT), persistent=False)
        self.register_buffer("_empty", self._tokens(""), persistent=False)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.float(), persistent=False)

    @classmethod
    def from_folder(cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Prior:
        """Load a folder in Stable Diffusion's layout, offline and in evaluation mode.

        Of the scheduler's file only the betas are used. Weights are cast to ``dtype``.

        Raises:
            InputError: the folder or a part of it is missing, lacks weights, or cannot be read.
        """
        from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        folder, expected = Path(folder), ("model_index.json", *PARTS)
        if missing := [part for part in expected if not (folder / part).exists()]:
            raise InputError(f"{folder / missing[0]}: missing; a Stable Diffusion folder holds {', '.join(expected)}")
        nets: dict[str, tuple[Any, dict[str, Any]]] = {
            "unet": (UNet2DConditionModel, {"torch_dtype": dtype}),
            "vae": (AutoencoderKL, {"torch_dtype": dtype}),
            "text_encoder": (CLIPTextModel, {"dtype": dtype, "attn_implementation": "sdpa"}),
        }
        parts: dict[str, Any] = {}
        for name, (kind, options) in nets.items():
            options |= {"use_safetensors": True, "output_loading_info": True, "local_files_only": True}
            check_config(folder / name / "config.json")
            with quiet(), refusing(folder / name, f"a {kind.__name__}", AGAIN):
                parts[name], loading = kind.from_pretrained(folder / name, **options)
                # the libraries give missing weights random values and only log it
                if lacking := sorted(loading["missing_keys"]):
                    raise ValueError(f"its weights lack {lacking[0]} and {len(lacking) - 1} more")
        check_config(folder / "scheduler" / "scheduler_config.json")
        for name, kind in {"tokenizer": CLIPTokenizer, "scheduler": DPMSolverMultistepScheduler}.items():
            with quiet(), refusing(folder / name, f"a {kind.__name__}", AGAIN):
                parts[name] = kind.from_pretrained(folder / name, local_files_only=True)
        with refusing(folder, "a prior", AGAIN):
            prior = cls(**parts).eval().to(device)
        prior._try(folder)
        return prior

    @torch.no_grad()
    def _try(self, folder: Path) -> None:
        """Check all weights, and try a first step and a picture at a small size."""
        for name in ("unet", "vae", "text_encoder"):
            check_finite(getattr(self, name), folder / name, AGAIN)
        a = self.alphas_cumprod
        check_finite({"the noise schedule": (a * (1 - a)).sqrt()}, folder / "scheduler", AGAIN)
        if self.unet.dtype != torch.float32 and self.device.type == "cpu":
            return  # not every CPU computes in half precision; it is meant for another device
        with refusing(folder, "nets that fit each other", AGAIN):
            channels, side, _ = self.latent_shape
            noise = torch.ones(1, channels, min(side, 8), min(side, 8), device=self.device, dtype=self.unet.dtype)
            tokens = self.condition(torch.eye(1, IDENTITY_DIM, device=self.device))
            step = self.predict(noise, len(a) - 1, tokens.to(noise))
            check_finite({"a first step": step, "a picture": self.decode(noise.to(self.vae.dtype))}, folder, AGAIN)

    def _tokens(self, prompt: str) -> Int[Tensor, "1 tokens"]:
        length = self.tokenizer.model_max_length
        padded = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(prompt, **padded).input_ids

    @property
    def device(self) -> torch.device:
        """The device of prompts and noise schedule, where the prior computes."""
        return self.alphas_cumprod.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image's latents."""
        side = self.unet.config.sample_size
        return (self.unet.config.in_channels, side, side)

    @property
    def image_side(self) -> int:
        """Height and width of an image in pixels."""
        return self.latent_shape[1] * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def condition(self, identity: Identities) -> Tokens:
        """P(z): the UNet's cross-attention tokens of identities (Eq. 3 and 11), differentiable.

        In the prompt "photo of a id person" the unit vector, padded with zeros from 512 to the text encoder's width,
        takes the place of the token ``id``'s input embedding. The position embedding is added as for any token.

        Raises:
            InputError: an identity is not of unit length.
        """
        table = self.text_encoder.get_input_embeddings()
        padded = F.pad(check_unit(identity), (0, table.embedding_dim - IDENTITY_DIM))

        def replace(_: nn.Module, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
            return torch.where((inputs[0] == self.placeholder)[..., None], padded[:, None].to(embedded), embedded)

        hook = table.register_forward_hook(replace)
        try:
            return self.text_encoder(self._prompt.expand(len(identity), -1)).last_hidden_state
        finally:
            hook.remove()

    def null(self, batch: int) -> Tokens:
        """The tokens of the empty prompt, once for each image: guidance leads away from them."""
        return self.text_encoder(self._empty).last_hidden_state.expand(batch, -1, -1)

    def encode(self, images: Images) -> Latents:
        """Images to latents of about unit variance, an eighth of the size: the VAE's mode."""
        return self.vae.encode(images).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: Latents) -> Images:
        """Latents to RGB images, clipped to [-1, 1] (the last step of Eq. 5)."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def predict(self, z_t: Latents, t: Timesteps | Shaped[Tensor, ""] | int, c: Tokens) -> Latents:
        """ε_θ(z_t, c, t): the UNet's prediction of the noise in z_t."""
        return self.unet(z_t, t, c).sample

    def add_noise(self, z_0: Latents, noise: Latents, t: Timesteps) -> Latents:
        """z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε."""
        a = self._alpha(t)
        return a.sqrt() * z_0 + (1 - a).sqrt() * noise

    def one_step_x0(self, z_t: Latents, t: Timesteps, noise: Latents) -> Latents:
        """ẑ_0 = (z_t − √(1 − ᾱ_t) ε) / √ᾱ_t: the clean latents that a predicted noise implies (for Eq. 13)."""
        a = self._alpha(t)
        return (z_t - (1 - a).sqrt() * noise) / a.sqrt()

    def _alpha(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod[t.to(self.device)].view(-1, 1, 1, 1)

    def denoise(
        self, noise: Latents, c: Tokens, num_steps: int = 25, guidance: float = 3.0, generator: Generators = None
    ) -> Latents:
        """From standard normal latents to clean ones by the prior's scheduler (default DPM-Solver++(2M)).

        Args:
            c: tokens of `condition`.
            num_steps: solver steps, each one pass of the UNet (with guidance, on a batch of twice the size).
            guidance: s in ε(null) + s·(ε(c) − ε(null)); with 1 the null condition is not computed.
            generator: for solvers that add noise at every step.
        """
        most = self.scheduler.config.num_train_timesteps - 1
        if not 1 <= num_steps <= most:
            raise InputError(f"num_steps {num_steps}: expected 1 to {most} solver steps (25 is usual)")
        if not math.isfinite(guidance):
            raise InputError(f"guidance {guidance}: expected a finite number (3 is usual)")
        solver = type(self.scheduler).from_config(self.scheduler.config)  # a new one, since solvers keep a history
        try:
            solver.set_timesteps(num_steps, device=noise.device)
        except ValueError as error:
            raise InputError(f"num_steps {num_steps}: not for {type(solver).__name__} ({error})") from error
        options = {"generator": generator} if "generator" in signature(solver.step).parameters else {}
        tokens = c if guidance == 1.0 else torch.cat([self.null(len(c)).to(c), c])
        z = noise * solver.init_noise_sigma
        for t in solver.timesteps:
            scaled = solver.scale_model_input(z, t)
            if guidance == 1.0:
                prediction = self.predict(scaled, t, tokens)
            else:
                under_null, under_c = self.predict(torch.cat([scaled, scaled]), t, tokens).chunk(2)
                prediction = under_null + guidance * (under_c - under_null)
            z = solver.step(prediction, t, z, **options).prev_sample
        if not bool(z.isfinite().all()):  # they would be drawn as black
            raise InputError(f"num_steps {num_steps}, guidance {guidance}: not finite; lower the guidance")
        return z

    @torch.no_grad()
    def sample(
        self,
        identity: Identities | Tokens,
        num_steps: int = 25,
        guidance: float = 3.0,
        generator: Generators = None,
        noise: Latents | None = None,
    ) -> Images:
        """Draw one face for each unit identity, or for its tokens (Eq. 5 from P on): RGB in [-1, 1].

        Settings are those of `denoise`. The generator, one for all faces or one for each, draws noise that isn't given.
        """
        from diffusers.utils.torch_utils import randn_tensor

        if noise is None:
            noise = randn_tensor((len(identity), *self.latent_shape), generator=generator, device=self.device)
        weights = self.unet.dtype
        c = (identity if identity.ndim == 3 else self.condition(identity.to(self.device))).to(self.device, weights)
        return self.decode(self.denoise(noise.to(self.device, weights), c, num_steps, guidance, generator))
