"""What the template of the study's page shows, filled section by section."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from axoloci.tasks.report.document import Picture, Table

MAX_ROWS = 1000  # of one table; the files that the page is made of have all
TITLES = {"autoencoder": "Autoencoder", "linear": "Linear representation"}


@dataclass
class Part:
    """Results of one representation; of a study without any, all of its results."""

    title: str
    loci: Table | None = None
    replication: Table | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=lambda: defaultdict(str))

    def of(self, what: str) -> str:
        """What a tile is about, with the representation where there are several."""
        return f"{what}, {self.title.lower()}" if self.title else what


@dataclass
class Page:
    """All that the template shows."""

    title: str
    shareable: bool
    out_dir: str | None
    images: bool = True  # whether the study has any
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
