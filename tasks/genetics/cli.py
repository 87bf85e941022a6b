"""`axoloci-genetics`: joint test of all traits, loci, replication, voxels."""

from __future__ import annotations

from axoloci.command import step_group
from axoloci.tasks.genetics.commands.clusters import clusters
from axoloci.tasks.genetics.commands.heritability import heritability_command
from axoloci.tasks.genetics.commands.joint import joint
from axoloci.tasks.genetics.commands.loci import loci
from axoloci.tasks.genetics.commands.replicate import replicate
from axoloci.tasks.genetics.commands.voxel_genetics import voxel_h2, voxel_rg
from axoloci.tasks.genetics.commands.voxel_scan import voxel_scan
from axoloci.tasks.genetics.commands.voxels import voxels

main = step_group(__name__, "From associations to genetics: joint test of all traits, loci.")
for command in (
    *(joint, loci, replicate, heritability_command),
    *(voxels, voxel_scan, voxel_h2, voxel_rg, clusters),
):
    main.add_command(command)

if __name__ == "__main__":
    main()
