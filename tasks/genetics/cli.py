"""`axoloci-genetics`: from associations to loci, heritability, correlations and maps."""

from __future__ import annotations

from axoloci.command import step_group
from axoloci.tasks.genetics.commands.clusters import clusters
from axoloci.tasks.genetics.commands.heritability import heritability_command
from axoloci.tasks.genetics.commands.joint import joint
from axoloci.tasks.genetics.commands.ld_scores import ld_scores
from axoloci.tasks.genetics.commands.ldsc import ldsc
from axoloci.tasks.genetics.commands.loci import loci
from axoloci.tasks.genetics.commands.meta import meta
from axoloci.tasks.genetics.commands.replicate import replicate
from axoloci.tasks.genetics.commands.voxel_genetics import voxel_h2, voxel_rg
from axoloci.tasks.genetics.commands.voxel_scan import voxel_scan
from axoloci.tasks.genetics.commands.voxels import voxels

main = step_group(
    __name__,
    "From associations to genetics: joint tests, loci, heritability, genetic correlations, maps of "
    "voxels, replication, meta-analysis.",
)
for command in (
    joint,
    loci,
    replicate,
    meta,
    heritability_command,
    ld_scores,
    ldsc,
    voxels,
    voxel_scan,
    voxel_h2,
    voxel_rg,
    clusters,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
