"""What do more persons give? Stage I and the posterior from MiniVox's 800 training persons, and from MiniVox-L's 2,890.

    python benchmarks/persons.py              # 15 minutes of one core; writes benchmarks/results/persons.csv
    python benchmarks/persons.py --seeds 1    # five minutes

For each speech encoder, by the profile's own settings. All are measured on MiniVox-L's 100 validation persons, who also
stop the training. Each person's first photograph and mean voice are taken.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from minivox import large
from v2f_core.app.train import paired
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import ENCODERS, Profile, load_profile
from v2f_core.evaluation import metrics
from v2f_core.training.pairs import Pairs
from v2f_core.training.posterior import own_log_prob, train_posterior
from v2f_core.training.stage1 import Stage1Settings, train_stage1

RESULTS = Path("benchmarks/results")


def main() -> None:
    """Train, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    profile, rows = load_profile("mini"), []
    for encoder in ENCODERS:
        small = profile.with_encoder(encoder)
        many = replace(small, dataset=large.unpack(), dataset_is_packed=False)
        validation = paired(many, "cpu")[2]
        for trained in (small, many):
            rows += [measured(trained, validation, seed) for seed in range(chosen.seeds)]
            print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    with atomic_write(chosen.out / "persons.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")
    columns = ["cosine", "1:2 matching", "1:2 matching by ratio", "nats"]
    print(table.groupby(["encoder", "persons"], sort=False)[columns].agg(["mean", "min", "max"]).round(3).to_string())


def measured(profile: Profile, validation: Pairs, seed: int) -> dict[str, object]:
    """Train on a profile's training persons, stop and measure on these validation persons."""
    _, training, _ = paired(profile, "cpu")
    settings = Stage1Settings(**{**profile.stage1, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        aligner = train_stage1(training, validation, settings, Path(folder), {})
    posterior = train_posterior(training, validation, aligner, {})
    voices, faces, sexes = validation.pooled_voices(), validation.gallery(), np.array(validation.sexes)
    z = posterior.mean(voices)
    nats = own_log_prob(posterior, validation) - posterior.log_prior(validation.face[:].float())
    scores = {"1:2 matching": z @ faces.T, "1:2 matching by ratio": posterior.log_ratio(faces, voices)}
    matching = {
        name: metrics.within(metrics.matching, score.double().numpy(), sexes).mean() for name, score in scores.items()
    }
    return {
        "encoder": profile.encoder,
        "persons": len(training.persons),
        "seed": seed,
        "cosine": metrics.cosine(z.numpy(), faces.numpy()).mean(),
        **matching,
        "nats": nats.mean().item(),
    }


if __name__ == "__main__":
    main()
