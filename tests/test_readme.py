"""What the README shows is true of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from support import ROOT

from axoloci.care import COMMANDS
from axoloci.cli import main
from axoloci.covariates import formula_variables
from axoloci.image_commands import images
from axoloci.new_step import new_step
from axoloci.slurm_profile import Profile
from axoloci.steps import installed_steps
from axoloci.study import parse_settings, validated
from axoloci.tasks.dti.cli import main as dti
from axoloci.tasks.encoder.cli import main as encoder
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas
from axoloci.tasks.normalize.cli import main as normalize
from axoloci.tasks.preprocess.cli import main as preprocess

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme__study_file_is_valid() -> None:
    study, cohorts, profile, outside = map(tomllib.loads, blocks("toml"))
    assert validated(Profile, profile, "README.md").slurm.retries == 2
    several = parse_settings({"out": "out", "bids": "bids", **cohorts}, "README.md", Path("/"))
    assert list(several.cohorts()) == ["train", "discovery", "replication"]
    extra = parse_settings({**study, **outside}, "README.md", Path("/")).extra
    assert extra == {"asymmetry": {"threshold": 0.25}}
    settings = parse_settings(study, "README.md", Path("/"))
    assert settings.encoder.n_latents == 128
    assert settings.gwas.export == ("latent_000",)
    assert settings.gwas.mixed_model
    (formula,) = re.findall(r'`model = "(.+?)"`', README)
    assert formula_variables(formula)[:4] == ["PC1", "PC10", "PC2", "PC3"]


def test_readme__options_exist() -> None:
    commands = [
        *(main.commands[name] for name in ("run", "check", *(one.name for one in COMMANDS))),
        *images.commands.values(),
        new_step,
        dti,
        *dti.commands.values(),
        *encoder.commands.values(),
        *gwas.commands.values(),
        *genetics.commands.values(),
        *preprocess.commands.values(),
        *normalize.commands.values(),
    ]
    params = [param for command in commands for param in command.params]
    known = {option for param in params for option in (*param.opts, *param.secondary_opts)}
    ours = re.sub(r"^pip .*$|torchrun --\S+", "", README, flags=re.MULTILINE)
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours)) - {"--help"}
    assert shown <= known


def test_readme__lists_every_step() -> None:
    ours = [name for name in installed_steps() if (ROOT / "tasks" / name).is_dir()]
    for name in ours:
        assert f"| `{name}` | `axoloci-{name}` |" in README


def test_readme__python_examples_compile() -> None:
    for example in blocks("python"):
        compile(example, "README.md", "exec")


def test_readme__make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make (\w+)", README)) <= targets
