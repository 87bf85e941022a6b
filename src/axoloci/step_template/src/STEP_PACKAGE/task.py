"""The Pydra task of the step STEP_NAME."""

from axoloci.formats import Nifti
from axoloci.pydra_task import IMAGE_HELP, OUT_HELP, PREFIX_HELP, made
from fileformats.generic import File
from pydra.compose import shell


@shell.define
class STEP_TASK(shell.Task["STEP_TASK.Outputs"]):
    """Mean of an FA map above a threshold."""

    executable = ["axoloci-STEP_NAME", "measure"]

    # taken of the scan by its name
    fa: Nifti = shell.arg(argstr="--fa", help="FA map in the scan's space")
    # a key of [extra.STEP_NAME] in a study file
    threshold: float | None = shell.arg(
        argstr="--threshold", default=None, help="FA above which a voxel counts"
    )
    # filled in by axoloci
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """What the step writes."""

        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-STEP_LABEL_figures.json"),
            help="numbers of one scan, for qc.tsv",
        )
