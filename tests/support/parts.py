"""A folder of each kind that users download, and the loader of each."""

import shutil

from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation.judge import Judge
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import FacePack
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.encoders import load_encoder

LOADERS = {
    "ast": lambda folder: load_encoder("ast", folder),
    "ecapa": lambda folder: load_encoder("ecapa", folder),
    "ge2e": lambda folder: load_encoder("ge2e", folder),
    "judge": Judge.from_folder,
    "aligner": Aligner.from_pretrained,
    "posterior": lambda folder: IdentityPosterior.from_pretrained(
        folder, Aligner.from_pretrained(MINI_ASSETS / "aligner")
    ),
    "faces": lambda folder: (FacePack.from_folder(folder), differentiable_arcface(next(folder.glob("arcface*.onnx")))),
    "prior": Prior.from_folder,
    "pipeline": Vox2FacePipeline.from_pretrained,
}


def write_parts(root, tiny_profile):
    for part in ("ecapa", "ge2e", "judge", "faces", "posterior", "aligner"):
        shutil.copytree(MINI_ASSETS / part, root / part)
    for part in ("ast", "prior"):
        shutil.copytree(getattr(tiny_profile, part), root / part)
    Vox2FacePipeline.from_profile(tiny_profile).save_pretrained(root / "pipeline")
    return root
