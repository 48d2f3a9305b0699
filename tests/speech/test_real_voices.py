"""Real people, as a visitor's recording is heard: whether ẑ is of their sex, and is the same from another file.

The clips, and what is compared, are those of ``benchmarks/real_voices.py``; here the mean faces of the sexes are the
posterior's.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch

from v2f_core.artefacts.profiles import MINI_ASSETS, load_profile
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.identity.sphere import normalise
from v2f_core.speech.audio import hear
from v2f_core.speech.encoders import load_encoder

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "tests" / "data" / "real_voices"
VOICES = pd.read_csv(CLIPS / "voices.csv")


@pytest.fixture(scope="module")
def posterior():
    chosen = load_profile("mini")
    profile = chosen.with_encoder(chosen.own_voices)
    return IdentityPosterior.from_pretrained(
        profile.part("posterior"), Aligner.from_pretrained(profile.part("aligner"))
    )


@pytest.fixture(scope="module")
def identify(posterior):
    """ẑ of a file."""
    encoder = load_encoder("ge2e", MINI_ASSETS / "ge2e")
    return lambda path: posterior.mean(encoder.embed(hear(path)[0]).mean(dim=0))


@pytest.fixture(scope="module")
def estimates(identify):
    return torch.stack([identify(CLIPS / file) for file in VOICES.file])


def test_the_sex_of_the_estimate_is_the_speakers(posterior, estimates):
    means = torch.einsum("sk,ska->sa", posterior.part.exp(), posterior.face_mean) @ posterior.basis.T
    men = (estimates @ normalise(means.float()).T).argmax(dim=1).numpy() == 1
    assert (men == (VOICES.sex == "m")).mean() >= 0.95


@pytest.mark.parametrize(("rate", "least"), [(8_000, 0.7), (48_000, 0.95)])
@pytest.mark.filterwarnings("ignore:.*nothing above 4 kHz")
def test_another_rate_gives_nearly_the_same_estimate(identify, estimates, tmp_path, rate, least):
    cosines = []
    for i in range(0, len(VOICES), 6):
        wave, own = soundfile.read(CLIPS / VOICES.file[i], dtype="float32")
        soundfile.write(tmp_path / "clip.wav", soxr.resample(wave, own, rate), rate, subtype="FLOAT")
        cosines.append(float(identify(tmp_path / "clip.wav") @ estimates[i]))
    assert np.mean(cosines) >= least


def test_the_committed_figures_meet_what_was_asked_or_are_known_to_miss_it():
    table = pd.read_csv(ROOT / "benchmarks" / "results" / "real_voices.csv")
    found = table[table.encoder == "ge2e"].set_index("measure").value
    assert found["sex of ẑ right, clips"] >= 0.95
    asked = {"8 kHz": 0.7, "48 kHz": 0.9, "MP3 of 64 kbit/s": 0.9, "-30 dB": 0.9, "+20 dB": 0.9}
    asked["small room, 0.5 m"] = 0.9
    missed = {"small room, 1 m"}  # as the card says
    cosines = found[found.index.str.startswith("cosine with")].rename(lambda name: name.split(", ", 1)[1])
    assert set(cosines.index) == {*asked, *missed}
    assert all(cosines[change] >= least for change, least in asked.items())
