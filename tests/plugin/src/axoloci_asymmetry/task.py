"""The Pydra task of the step asymmetry."""

from axoloci.formats import Nifti
from axoloci.pydra_task import IMAGE_HELP, OUT_HELP, PREFIX_HELP, made
from fileformats.generic import File
from pydra.compose import shell


@shell.define
class MeasureAsymmetry(shell.Task["MeasureAsymmetry.Outputs"]):
    """FA map in the common space to the asymmetry of its sides."""

    executable = ["axoloci-asymmetry", "measure"]

    # taken of the scan by its name
    fa_template: Nifti = shell.arg(argstr="--fa", help="FA map in the common space")
    # a key of [extra.asymmetry] in a study file
    threshold: float | None = shell.arg(
        argstr="--threshold", default=None, help="FA above which a voxel counts as white matter"
    )
    # filled in by axoloci
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """What the step writes."""

        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-asymmetry_figures.json"),
            help="numbers of one scan, for qc.tsv",
        )
