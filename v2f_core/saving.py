"""Saving the whole pipeline, loading it again, from a folder or the Hugging Face Hub, and sharing it there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.model_card import model_card
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.speech.encoders import load_encoder

HUB = ("repo_id", "commit_message", "private", "token", "create_pr")
DOWNLOAD = ("revision", "token", "cache_dir", "force_download", "local_files_only")


class SavedPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """What a diffusers pipeline needs to keep a speech encoder and an aligner beside the diffusion parts.

    Of Stable Diffusion's pipeline it has the adapters: ``load_lora_weights``, ``set_adapters``, ``fuse_lora``.
    """

    aligner: Aligner
    posterior: IdentityPosterior | None
    speech_folder: Path | None

    def save_pretrained(
        self, save_directory: str | os.PathLike[Any], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the diffusion parts in Stable Diffusion's layout, ``aligner`` and ``speech_encoder`` beside them, and a
        model card, in place of one that lies there.

        Args:
            save_directory: made if missing.
            push_to_hub: upload the folder too; ``repo_id`` names the repository, else the folder's name does.
            *args, **kwargs: diffusers' own.
        Raises:
            InputError: the speech encoder was not loaded from a folder, so that there is none to copy; or adapters are
                loaded that are not part of the weights.
        """
        if self.speech_folder is None:
            raise InputError("the speech encoder has no folder to copy; give speech_folder when making the pipeline")
        if self.get_list_adapters():
            raise InputError(
                f"adapters are loaded ({self.get_list_adapters()}); pipe.fuse_lora() and then "
                "pipe.unload_lora_weights() make them part of what is saved, the second alone takes them off"
            )
        hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
        folder = Path(save_directory)
        super().save_pretrained(folder, *args, **kwargs)
        self.aligner.save_pretrained(folder / "aligner")
        if self.posterior is not None:
            self.posterior.save_pretrained(folder / "posterior")
        shutil.copytree(self.speech_folder, folder / "speech_encoder", dirs_exist_ok=True)
        self._write_card(folder, hub.get("repo_id") or str(save_directory))
        if push_to_hub:
            self._upload(folder, hub.pop("repo_id", folder.name), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the pipeline with its model card; a repository that is missing is made.

        Args:
            repo_id: ``owner/name``.
            **kwargs: ``private``, ``token``, ``commit_message``, ``create_pr`` as in diffusers; others go to
                `save_pretrained`.
        Returns:
            the upload's address.
        Raises:
            InputError: see `save_pretrained`.

        Example:
            >>> pipe = Vox2FacePipeline.from_profile("mini")  # doctest: +SKIP
            >>> pipe.push_to_hub("me/vox2face", private=True)  # doctest: +SKIP
        """
        hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id, **kwargs)
            return self._upload(Path(folder), repo_id, **hub)

    def _upload(self, folder: Path, repo_id: str, private: bool | None = None, **options: Any) -> str:
        from huggingface_hub import create_repo, upload_folder

        token = options.get("token")
        whole = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        if whole != repo_id:  # it was given without its owner
            self._write_card(folder, whole)
        options.setdefault("commit_message", f"Upload {type(self).__name__}")
        return str(upload_folder(repo_id=whole, folder_path=folder, **options))

    def _write_card(self, folder: Path, name: str) -> None:
        with atomic_write(folder / "README.md") as temporary:
            temporary.write_text(model_card(folder, name, self.aligner.provenance), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[Any], **kwargs: Any) -> Any:
        """Load what :meth:`save_pretrained` wrote: a folder, or a hub id, which is taken from the cache or downloaded.

        Args:
            pretrained_model_name_or_path: the folder, or ``owner/name``.
            **kwargs: diffusers' own; ``revision``, ``token``, ``cache_dir``, ``local_files_only`` for the hub.
        Raises:
            InputError: the folder is missing or is not such a pipeline's; the hub has no such repository, or cannot be
                reached.
        """
        hub = {key: kwargs.pop(key) for key in DOWNLOAD if key in kwargs}
        folder = saved_folder(pretrained_model_name_or_path, **hub)
        if not (folder / "model_index.json").is_file():
            raise InputError(
                f"{folder}: no pipeline here (model_index.json is missing); give a saved pipeline's folder"
            )
        config = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        shortened = config.get("ast_frames"), config.get("ast_positions", "cut")
        speech = load_encoder(config.get("encoder", "ast"), folder / "speech_encoder", *shortened)
        aligner = Aligner.from_pretrained(folder / "aligner")
        drawn_from = folder / "posterior"
        posterior = IdentityPosterior.from_pretrained(drawn_from, aligner) if drawn_from.is_dir() else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return super().from_pretrained(
                folder,
                speech_encoder=speech,
                aligner=aligner,
                posterior=posterior,
                speech_folder=folder / "speech_encoder",
                local_files_only=True,
                use_safetensors=True,
                **kwargs,
            )


def saved_folder(name: str | os.PathLike[Any], **options: Any) -> Path:
    """The folder itself, or that of the hub's cache where the repository ``owner/name`` is or now comes to lie.

    A download that breaks off is gone on with; HF_HUB_OFFLINE is honoured.

    Raises:
        InputError: there is no such repository, it is not open to this user, or the hub cannot be reached.

    Example:
        >>> saved_folder("a/folder/that/is/missing")
        PosixPath('a/folder/that/is/missing')
    """
    folder = Path(name)
    if folder.exists() or not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "~", "/")):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, **options))
    except Exception as error:  # the hub's own, and those of the HTTP library that it uses
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{name}: no such folder, and not to be had from the Hugging Face Hub ({reason}); check the name, the "
            "network, HF_HUB_OFFLINE, and for a private or gated repository that you are logged in (hf auth login)"
        ) from error
