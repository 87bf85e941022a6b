"""The images of all steps, built twice from nothing: digests, sizes, time to build and start."""

from __future__ import annotations

import statistics
import subprocess
import time

from axoloci import image_build
from axoloci.images import Image, lock_file, podman, read_lock
from benchmarks.results_file import markdown_table, write_result

MAX_MB = {"dti": 600, "preprocess": 600, "normalize": 600, "encoder": 1200}
MAX_MINUTES = 12  # of all images, one after the other
STARTS = 5


def seconds_to_start(image: Image) -> float:
    """Median time of `--help` in a new container."""
    command = ["podman", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp"]
    command += [image.config_digest, f"axoloci-{image.step}", "--help"]
    seconds = []
    for _ in range(STARTS):
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def main() -> None:
    """Build, compare, write the table."""
    locked = read_lock(lock_file())
    rows, total = [], 0.0
    base: Image | None = None
    recipes = [image_build.base_recipe(), *image_build.recipes().values()]
    for recipe in (recipe for recipe in recipes if recipe.variant == "cpu"):
        digests, seconds = set(), []
        for _ in range(2):
            started = time.monotonic()
            image = image_build.build(recipe, base=base, anew=True)
            seconds.append(time.monotonic() - started)
            digests.add(image.config_digest)
        total += seconds[0]
        # A figure that is written down is one that holds.
        assert digests == {locked[recipe.name].config_digest}, (recipe.name, digests)
        assert image.size / 1e6 < MAX_MB.get(recipe.name, 1200), (recipe.name, image.size)
        if recipe.step == "base":
            base = image
        else:
            image_build.self_test(image)
        rows.append(
            {
                "image": recipe.name,
                "digest": image.config_digest[7:19],
                "MB": f"{image.size / 1e6:.0f}",
                "build, s": " and ".join(f"{s:.0f}" for s in seconds),
                "`--help`, s": "" if recipe.step == "base" else f"{seconds_to_start(image):.2f}",
            }
        )
    assert total < 60 * MAX_MINUTES, total
    version = podman("--version").strip()
    write_result(
        "images",
        "Images built twice from nothing, with equal digests",
        f"{version}; wheels and packages were downloaded before; MB before compression, the base "
        f"included; all once, one after the other: {total / 60:.1f} minutes.\n\n"
        + markdown_table(rows),
    )
