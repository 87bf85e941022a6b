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
        argstr="--mask",
        default=None,
        help="brain mask; without it all voxels whose b0 is not 0 are fitted",
    )
    max_bval: float | None = shell.arg(
        argstr="--max-bval", default=None, help="largest b-value fitted, s/mm²"
    )
    method: str | None = shell.arg(
        argstr="--method", default=None, help="OLS, WLS, IWLS, NLLS or RESTORE"
    )
    sigma: float | None = shell.arg(
        argstr="--sigma", default=None, help="standard deviation of the noise, for RESTORE"
    )
    kurtosis: str | None = shell.arg(
        argstr="--kurtosis", default=None, help="msdki, dki or none; needs two shells"
    )
    check: bool = shell.arg(
        argstr="{check}",
        formatter=lambda check: "--check" if check else "--no-check",
        default=True,
        help="check the gradients; off for scans that preprocess has checked",
    )
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Maps of one scan, float32."""

        fa: NiftiGz = shell.out(callable=made(MAP % "fa"), help="fractional anisotropy")
        md: NiftiGz = shell.out(callable=made(MAP % "md"), help="mean diffusivity, mm²/s")
        ad: NiftiGz = shell.out(callable=made(MAP % "ad"), help="axial diffusivity, mm²/s")
        rd: NiftiGz = shell.out(callable=made(MAP % "rd"), help="radial diffusivity, mm²/s")
        mode: NiftiGz = shell.out(callable=made(MAP % "mode"), help="mode of the tensor, -1 to 1")
        decfa: NiftiGz = shell.out(callable=made(MAP % "decfa"), help="colour FA, 3 volumes")
        bzero: NiftiGz = shell.out(callable=made(MAP % "bzero"), help="fitted b0 signal")
        residual: NiftiGz = shell.out(
            callable=made(MAP % "residual"), help="RMS of the fit's residual, relative to bzero"
        )
        implausible: NiftiGz = shell.out(
            callable=made("{out_dir}/{prefix}_model-tensor_desc-implausible_mask.nii.gz"),
            help="voxels with values that no tissue has",
        )
        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_model-tensor_dwimap.json"),
            help="settings and quality figures",
        )
