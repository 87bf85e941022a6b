"""What the template of the study's page shows, filled section by section."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.report.document import Picture, Table

MAX_ROWS = 1000  # of one table; the files that the page is made of have all
UNFINISHED = "The group stage has not finished."  # where it lacks a part
TITLES = {"autoencoder": "Autoencoder", "linear": "Linear representation"}


@dataclass
class Part:
    """Results of one representation; of a study without any, all of its results."""

    title: str
    loci: Table | None = None
    replication: Table | None = None
    traits: Table | None = None
    signals: Table | None = None
    heritability: Table | None = None
    correlations: Table | None = None
    regions: list[Picture] = field(default_factory=list)  # one a locus
    voxels: list[Picture] = field(default_factory=list)  # one a variant
    pictures: dict[str, Picture] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=lambda: defaultdict(str))

    def of(self, what: str) -> str:
        """What a tile is about, with the representation where there are several."""
        return f"{what}, {self.title.lower()}" if self.title else what

    @property
    def genetics(self) -> bool:
        """Whether heritability or genetic correlations are known."""
        return bool(self.heritability or self.correlations)

    @property
    def maps(self) -> bool:
        """Whether any map of voxels is there."""
        return bool(self.voxels) or "voxel_h2" in self.pictures


@dataclass
class Page:
    """All that the template shows."""

    title: str
    shareable: bool
    out_dir: str | None
    images: bool = True  # whether the study has any
    measure: str = "FA"  # of the maps
    word: str = "trait"  # what was tested
    # mean map [float32, shape: (x, y, z)] and its affine, behind maps of the same grid
    background: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None
    tiles: list[tuple[str, str, str]] = field(default_factory=list)  # figure, name, remark
    failed: Table | None = None
    excluded: Table | None = None
    reasons: Table | None = None
    qc: Table | None = None
    qc_rule: str = ""
    qc_page: str = ""
    methods: str = ""
    parts: dict[str, Part] = field(default_factory=dict)
    comparison: Table | None = None
    seconds: Table | None = None
    settings: Table | None = None
    versions: Table | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=lambda: defaultdict(str))

    def has(self, what: str) -> bool:
        """Whether any representation has this: `genetics` or `maps`."""
        return any(getattr(part, what) for part in self.parts.values())
