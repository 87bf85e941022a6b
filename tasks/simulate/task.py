"""The Pydra task of the step simulate."""

from fileformats.generic import Directory
from pydra.compose import shell

from axoloci.pydra_task import IMAGE_HELP, made


@shell.define
class SimulateCohort(shell.Task["SimulateCohort.Outputs"]):
    """A cohort with a known truth: raw DWI, genotypes, covariates."""

    executable = ["axoloci-simulate", "cohort"]

    out: str = shell.arg(argstr="", position=1, default="cohort", help="folder of the cohort")
    n_subjects: int | None = shell.arg(argstr="--n-subjects", default=None, help="people")
    n_variants: int | None = shell.arg(argstr="--n-variants", default=None, help="variants")
    n_loci: int | None = shell.arg(argstr="--n-loci", default=None, help="planted variants")
    n_procs: int | None = shell.arg(argstr="--n-procs", default=None, help="processes")
    seed: int | None = shell.arg(argstr="--seed", default=None, help="seed of everything")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The cohort."""

        cohort: Directory = shell.out(callable=made("{out}"), help="BIDS, PLINK, truth.json")
