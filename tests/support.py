"""What tests of several folders share and is not a fixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from axoloci.steps import installed_steps, is_outside

# a developer may have steps of other packages installed as well
STEPS = sorted(name for name in installed_steps() if not is_outside(name))
ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
N_PEOPLE = 14  # of the cohort of the workflows' tests; the fewer, the shorter CI is


STUDY = """\
out = "{out}"
bids = "{cohort}/bids"
genotypes = "{cohort}/genotypes"
covariates = "{cohort}/covariates.tsv"
min_participants = {min_participants}

[normalize]
template = "{cohort}/template.nii.gz"

[encoder]
representations = {representations}
training_people = "keep"
n_latents = 2
channels = [4, 8]
epochs = 2
batch_size = 5

[linear]
n_latents = 2

[gwas]
n_pcs = 1
export = ["latent_000"]

[genetics]
signals = {follows}
heritability = {follows}
voxels = {follows}
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files in a folder, by their paths in it."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def axoloci(
    *arguments: object, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `axoloci` command as a user does; `env` is all of its environment, if given."""
    done = subprocess.run(
        [str(BIN / "axoloci"), *map(str, arguments)], capture_output=True, text=True, env=env
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def install(source: Path, target: Path) -> dict[str, str]:
    """Install a package into a folder of its own; the environment in which it is installed."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install")
    subprocess.run([*pip, *options, "--target", str(target), str(source)], check=True)
    paths = {"PYTHONPATH": target, "PATH": target / "bin"}
    before = {name: os.environ[name] for name in paths if os.environ.get(name)}
    whole = {name: f"{path}{os.pathsep}{before.get(name, '')}" for name, path in paths.items()}
    return {**os.environ, **{name: path.rstrip(os.pathsep) for name, path in whole.items()}}


def write_trait_study(folder: Path, cohort: Path, **traits: Callable[[int], object]) -> Path:
    """Write a study of the people of a cohort and of traits, which depend on a person's number."""
    people = [line.split()[1] for line in (cohort / "genotypes.fam").read_text().splitlines()]
    rows = [[person, *(f(n) for f in traits.values())] for n, person in enumerate(people)]
    lines = ["\t".join(map(str, row)) for row in (["IID", *traits], *rows)]
    (folder / "traits.tsv").write_text("\n".join(lines) + "\n")
    study = folder / "study.toml"
    study.write_text(
        'out = "out"\nmin_participants = 10\ntraits = "traits.tsv"\n'
        f'genotypes = "{cohort}/genotypes"\n'
        f'covariates = "{cohort}/covariates.tsv"\n[gwas]\nn_pcs = 0\n'
    )
    return study


def write_study(
    folder: Path,
    cohort: Path,
    min_participants: int = 10,
    representations: Sequence[str] = ("autoencoder",),
    *,
    follows: bool = False,
) -> Path:
    """Write a study of `cohort` into `folder`; it puts its output beside itself.

    Both representations, and what follows the loci, are for the tests of these: the fewer jobs the
    shorter is CI.
    """
    path = folder / "study.toml"
    given = {"cohort": cohort, "min_participants": min_participants}
    given["follows"] = str(follows).lower()
    path.write_text(STUDY.format(out="out", **given, representations=json.dumps(representations)))
    return path
