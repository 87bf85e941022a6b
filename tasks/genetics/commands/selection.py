"""Which store of summary statistics, and which of its traits, a command takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from axoloci.errors import InputError
from axoloci.io.sumstats import Sumstats

log = logging.getLogger("axoloci")

SUMSTATS = click.option(
    "--sumstats",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the summary statistics.",
)


def traits_option(use: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option that names traits; `use` says what for."""
    return click.option(
        "--traits",
        default=None,
        help="Names with commas between them, * for any letters, such as latent_*: the traits "
        f"{use}",
    )


def complete_traits(store: Sumstats, use: str = "the joint test") -> list[str]:
    """The traits that no one lacks, for what is of the same people in all of them: `use`."""
    lacked = store.info.get("traits_with_missing", [])
    names = [name for name in store.traits if name not in lacked]
    if not names:
        raise InputError(
            f"{store.path}: each trait is lacked by someone, and {use} needs traits of the "
            "same people: run the association again with --complete-traits, in a study by "
            "complete_traits = true in [gwas]"
        )
    if lacked:
        log.warning("left out of %s, for some people lack them: %s", use, ", ".join(lacked))
    return names


def warn_of_shared_people(one: Sumstats, other: Sumstats, then: str) -> None:
    """Warn of ids that two studies share; `then` is what is wrong if they are the same people."""
    both = set(one.sample_id) & set(other.sample_id)
    if both:
        log.warning(
            "%s and %s: %d people of the same id, such as %s, are in both; if they are the same "
            "people, %s: leave them out of one study",
            *(one.path, other.path, len(both), min(both), then),
        )


def named_traits(store: Sumstats, traits: str) -> list[str]:
    """The traits of a store that names with commas between them mean, in the order of these.

    Raises
    ------
    InputError
        No trait of the store is like a name with a *.
    """
    names: list[str] = []
    for word in map(str.strip, traits.split(",")):
        matching = [name for name in store.traits if fnmatchcase(name, word)]
        if "*" in word and not matching:
            raise InputError(
                f"{store.path}: no trait is like '{word}'; it has {', '.join(store.traits[:5])}"
                f"{', …' if len(store.traits) > 5 else ''}"
            )
        names += matching if "*" in word else [word]
    return names


def columns_of(store: Sumstats, names: Sequence[str]) -> list[int]:
    """Places of the named traits in the store."""
    unknown = [name for name in names if name not in store.traits]
    if unknown or len(set(names)) < len(names):
        problem = f"no trait {', '.join(unknown)}" if unknown else "a trait is named twice"
        raise InputError(
            f"{store.path}: {problem}; it has {', '.join(store.traits[:5])}"
            f"{', …' if len(store.traits) > 5 else ''}"
        )
    return [store.traits.index(name) for name in names]


def transformed(store: Sumstats) -> str:
    """Options of the association that transformed the traits of a store; "" if none did."""
    path = store.path / "plan.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    plan = content.get("plan", {})
    options = {"winsorize": "--winsorize", "rank_normal": "--rank-normal"}
    return " and ".join(option for setting, option in options.items() if plan.get(setting))
