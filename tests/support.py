"""What tests of several folders share and is not a fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


STUDY = """\
out = "{out}"
bids = "{cohort}/bids"
genotypes = "{cohort}/genotypes"
covariates = "{cohort}/covariates.tsv"
min_participants = {min_participants}

[normalize]
template = "{cohort}/template.nii.gz"

[encoder]
n_latents = 2
channels = [4, 8]
epochs = 2
batch_size = 5

[gwas]
n_pcs = 1
export = ["latent_000"]
"""


def axoloci(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `axoloci` command as a user does."""
    done = subprocess.run(
        [str(BIN / "axoloci"), *map(str, arguments)], capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def write_study(folder: Path, cohort: Path, min_participants: int = 10) -> Path:
    """Write a study of `cohort` into `folder`; it puts its output beside itself."""
    path = folder / "study.toml"
    path.write_text(STUDY.format(out="out", cohort=cohort, min_participants=min_participants))
    return path
