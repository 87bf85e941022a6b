"""`axoloci-genetics`: joint test of all traits, loci, replication."""

from __future__ import annotations

from axoloci.command import step_group
from axoloci.tasks.genetics.commands.heritability import heritability_command
from axoloci.tasks.genetics.commands.joint import joint
from axoloci.tasks.genetics.commands.loci import loci
from axoloci.tasks.genetics.commands.replicate import replicate

main = step_group(__name__, "From associations to genetics: joint test of all traits, loci.")
for command in (joint, loci, replicate, heritability_command):
    main.add_command(command)

if __name__ == "__main__":
    main()
