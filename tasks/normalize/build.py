"""The rounds of `axoloci-normalize build-template`.

What was made of each person in a round lies in a work folder, whole or not there, until the round
is averaged: a killed run goes on from there.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axoloci import registration
from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.files import leftovers, whole_file, write_json
from axoloci.tasks.normalize import kernel, template
from axoloci.tasks.normalize.inputs import read_fa

log = logging.getLogger("axoloci")

LEAST_SIMILARITY = 0.35
"""Correlation with the anchor, after the affine, below which a map is left out: brains reach 0.55
and more, noise 0.03."""

MIN_MAPS = 3
"""Fewest maps of a template."""

Task = Callable[[], NDArray[Any]]


@dataclass
class Stage:
    """What the maps came to: by affines alone, or after a round.

    Attributes
    ----------
    image, coverage
        [float32, shape: (x, y, z)] FA; share of the people who have a voxel.
    figures
        `sharpness`, mean `similarity`, and of a round `mean_displacement_mm`, what was taken off
        (median and 95th percentile in the brain).
    similarity
        Correlation of each person's map with the image.
    left_out
        By person, why.
    """

    image: NDArray[np.float32]
    coverage: NDArray[np.float32]
    figures: dict[str, Any] = field(default_factory=dict)
    similarity: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class TemplateBuilder:
    """Makes the template of a cohort, stage after stage.

    Parameters
    ----------
    maps
        FA maps in the scans' own spaces, by person.
    anchor, affine
        (x, y, z) FA template that gives grid, place and direction; (4, 4) voxel to world, mm.
    work
        Folder for what a killed run goes on with.
    settings
        All that the results depend on but for the number of rounds.
    n_procs
        People at a time.

    Raises
    ------
    InputError
        The folder holds the work of other maps or settings.
    """

    def __init__(
        self,
        maps: Mapping[str, Path],
        anchor: NDArray[np.float32],
        affine: NDArray[np.float64],
        work: Path,
        settings: Mapping[str, Any],
        n_procs: int,
    ) -> None:
        self.maps, self.anchor, self.affine, self.work = maps, anchor, affine, work
        self.n_procs = n_procs
        self.left_out: dict[str, str] = {}
        self._file = {name: f"{number:05d}.npy" for number, name in enumerate(maps)}
        known = work / "settings.json"
        if not known.exists():
            write_json(known, settings)
        elif json.loads(known.read_text(encoding="utf-8")) != settings:
            raise InputError(
                f"{work}: holds the unfinished template of other maps or settings; remove it, or "
                "name another --out"
            )

    def stages(self, rounds: int) -> Iterator[Stage]:
        """The affine average, then the template after each nonlinear round.

        Raises
        ------
        InputError
            Fewer than `MIN_MAPS` maps can be used.
        """
        start = {
            name: partial(_align, path, self.anchor, self.affine)
            for name, path in self.maps.items()
        }
        affines = self._centred(self._each("affine", start))
        stage = self._affine_average("average", affines)
        again = {
            name: partial(_align, self.maps[name], stage.image, self.affine, affine)
            for name, affine in affines.items()
        }
        affines = self._centred(self._each("affine-again", again))
        stage = self._affine_average("average-again", affines)
        yield stage
        for number in range(1, rounds + 1):
            stage = self._round(f"round-{number}", affines, stage.image)
            yield stage

    def _each(self, stage: str, tasks: Mapping[str, Task]) -> dict[str, Path]:
        """Files with the results of the tasks that succeed, by person; the others are left out."""
        folder = self.work / stage
        folder.mkdir(exist_ok=True)
        for path in leftovers(folder):
            path.unlink()
        files = {name: folder / self._file[name] for name in tasks if name not in self.left_out}
        todo = {name: path for name, path in files.items() if not path.exists()}
        for name, reason in progress(self._run(tasks, todo), stage, len(todo)):
            if reason:
                self.left_out[name] = reason
                log.warning("%s is left out: %s", name, reason)
        files = {name: path for name, path in files.items() if name not in self.left_out}
        if len(files) < MIN_MAPS:
            told = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise InputError(
                f"a template needs {MIN_MAPS} maps or more, {len(files)} can be used: {told}"
            )
        return files

    def _run(
        self, tasks: Mapping[str, Task], todo: Mapping[str, Path]
    ) -> Iterator[tuple[str, str]]:
        """Each person with the reason of a failure, or "", as they end."""
        if self.n_procs == 1:
            for name, path in todo.items():
                yield name, _attempt(tasks[name], path)
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.n_procs, context)
        jobs = {pool.submit(_attempt, tasks[name], path): name for name, path in todo.items()}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process was killed, perhaps for want of memory; run the same command again, "
                "with fewer --n-procs"
            ) from error
        finally:  # who interrupts does not wait for the others
            pool.shutdown(cancel_futures=True)

    def _centred(self, files: Mapping[str, Path]) -> dict[str, NDArray[np.float64]]:
        """Affines by person, the mean of their stretches taken off."""
        brain = np.argwhere(self.anchor > kernel.TEMPLATE_MIN_FA).mean(axis=0)
        centre = self.affine[:3, :3] @ brain + self.affine[:3, 3]
        affines = [np.load(path) for path in files.values()]
        return dict(zip(files, template.without_mean_stretch(affines, centre), strict=True))

    def _affine_average(self, name: str, affines: Mapping[str, NDArray[np.float64]]) -> Stage:
        still = np.zeros((*self.anchor.shape, 3), dtype=np.float32)
        tasks = {
            person: partial(_moved, self.maps[person], self.affine, affine, still)
            for person, affine in affines.items()
        }
        return self._stored(name) or self._averaged(name, self._each(name, tasks))

    def _round(
        self, name: str, affines: Mapping[str, NDArray[np.float64]], image: NDArray[np.float32]
    ) -> Stage:
        """All maps to the template, and the template anew in the mean of their shapes."""
        if stored := self._stored(name):
            return stored
        tasks = {
            person: partial(_deform, self.maps[person], self.affine, affine, image)
            for person, affine in affines.items()
        }
        warps = self._each(f"{name}-warps", tasks)
        total = np.zeros((*image.shape, 3))
        for path in warps.values():
            total += np.load(path)
        mean = (total / len(warps)).astype(np.float32)  # (x, y, z, 3) mm
        shift = np.linalg.norm(mean, axis=-1)[image > kernel.TEMPLATE_MIN_FA]
        to_old = template.inverse(mean, self.affine)
        moving = {
            person: partial(
                _unbiased, self.maps[person], self.affine, affines[person], warp, to_old
            )
            for person, warp in warps.items()
        }
        median, high = (round(float(mm), 4) for mm in np.percentile(shift, [50, 95]))
        figures = {"mean_displacement_mm": {"median": median, "p95": high}}
        stage = self._averaged(name, self._each(name, moving), figures)
        shutil.rmtree(self.work / f"{name}-warps")
        return stage

    def _averaged(
        self, name: str, files: Mapping[str, Path], figures: Mapping[str, Any] | None = None
    ) -> Stage:
        """The average of the maps in files, stored; the files are removed."""
        maps = {person: np.load(path, mmap_mode="r") for person, path in files.items()}
        image, coverage = template.average(list(maps.values()))
        inner = kernel.core(image, self.affine) > kernel.TEMPLATE_MIN_FA  # no step towards air
        similarity = {
            person: round(kernel.similarity_to(image, own), 5) for person, own in maps.items()
        }
        figures = {
            "sharpness": round(template.sharpness(image, self.affine, inner), 8),
            "similarity": round(float(np.mean(list(similarity.values()))), 5),
            **(figures or {}),
        }
        stage = Stage(image, coverage, figures, similarity, dict(self.left_out))
        about = asdict(stage)
        arrays = {key: about.pop(key) for key in ("image", "coverage")}
        with whole_file(self.work / f"{name}.npz") as temporary:
            np.savez(temporary, about=json.dumps(about), **arrays)
        shutil.rmtree(self.work / name)
        return stage

    def _stored(self, name: str) -> Stage | None:
        """A stage that was finished before."""
        path = self.work / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
            stage = Stage(stored["image"], stored["coverage"], **about)
        self.left_out |= stage.left_out
        return stage


def _attempt(task: Task, path: Path) -> str:
    """Write what a task makes; why it cannot, or ""."""
    try:
        made = task()
    except InputError as error:
        return str(error)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return f"{type(error).__name__}: {error}"
    with whole_file(path) as temporary:
        np.save(temporary, made)
    return ""


def _align(
    path: Path,
    fixed: NDArray[np.float32],
    fixed_affine: NDArray[np.float64],
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    fa, affine = read_fa(path)
    matrix = kernel.align_affine(fa, affine, fixed, fixed_affine, start)
    moved = registration.resample(fa, affine, matrix, fixed.shape, fixed_affine, 1)
    found = kernel.similarity_to(fixed, moved)
    if found < LEAST_SIMILARITY:
        raise InputError(
            f"{path}: correlation with the template is only {found:.2f} after the affine; is it FA "
            "of a brain?"
        )
    return matrix


def _moved(
    path: Path,
    template_affine: NDArray[np.float64],
    matrix: NDArray[np.float64],
    displacement: NDArray[np.float32],
) -> NDArray[np.float32]:
    fa, affine = read_fa(path)
    return kernel.sample_brain(fa, affine, kernel.place(displacement, matrix, template_affine))


def _deform(
    path: Path,
    template_affine: NDArray[np.float64],
    matrix: NDArray[np.float64],
    image: NDArray[np.float32],
) -> NDArray[np.float32]:
    return kernel.deform_map(*read_fa(path), matrix, image, template_affine)


def _unbiased(
    path: Path,
    template_affine: NDArray[np.float64],
    matrix: NDArray[np.float64],
    warp: Path,
    to_old: NDArray[np.float32],
) -> NDArray[np.float32]:
    displacement = template.from_mean_shape(np.load(warp), to_old, template_affine)
    return _moved(path, template_affine, matrix, displacement)


def mosaic(images: Sequence[NDArray[np.float32]], affine: NDArray[np.float64]) -> Image.Image:
    """A picture with a row an image: an axial, a coronal and a sagittal section; left is left.

    Parameters
    ----------
    images
        (x, y, z) FA each, of one grid.
    affine
        (4, 4) voxel to world, mm.
    """
    to_ras = nib.orientations.io_orientation(affine)
    images = [nib.orientations.apply_orientation(image, to_ras) for image in images]
    i, j, k = np.argwhere(images[0] > kernel.TEMPLATE_MIN_FA).mean(axis=0).astype(int)
    rows = []
    for image in images:
        sections = [section.T[::-1] for section in (image[:, :, k], image[:, j], image[i])]
        height = max(len(section) for section in sections)
        rows.append(np.hstack([np.pad(s, ((0, height - len(s)), (0, 0))) for s in sections]))
    grey = (np.vstack(rows) * 255).clip(0, 255).astype(np.uint8)  # (height, width)
    return Image.fromarray(grey)
