"""The Pydra task of the step dti."""

from fileformats.generic import File
from fileformats.medimage import NiftiGz
from pydra.compose import shell

from axoloci.formats import Nifti
from axoloci.pydra_task import IMAGE_HELP, OUT_HELP, PREFIX_HELP, made

MAP = "{out_dir}/{prefix}_model-tensor_param-%s_dwimap.nii.gz"


@shell.define
class FitDti(shell.Task["FitDti.Outputs"]):
    """Corrected DWI to maps of the diffusion tensor."""

    executable = ["axoloci-dti", "fit"]

    dwi: Nifti = shell.arg(argstr="--dwi", help="corrected DWI, 4D")
    bval: File = shell.arg(argstr="--bval", help="b-values, s/mm²")
    bvec: File = shell.arg(argstr="--bvec", help="b-vectors in the image's frame (FSL)")
    mask: Nifti | None = shell.arg(
        argstr="--mask", default=None, help="brain mask; without it every voxel is fitted"
    )
    max_bval: float | None = shell.arg(
        argstr="--max-bval", default=None, help="largest b-value fitted, s/mm²"
    )
    method: str | None = shell.arg(argstr="--method", default=None, help="WLS or OLS")
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Maps of one scan, float32."""

        fa: NiftiGz = shell.out(callable=made(MAP % "fa"), help="fractional anisotropy")
        md: NiftiGz = shell.out(callable=made(MAP % "md"), help="mean diffusivity, mm²/s")
        ad: NiftiGz = shell.out(callable=made(MAP % "ad"), help="axial diffusivity, mm²/s")
        rd: NiftiGz = shell.out(callable=made(MAP % "rd"), help="radial diffusivity, mm²/s")
        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_model-tensor_dwimap.json"),
            help="settings and quality figures",
        )
