"""The Pydra task of the step preprocess."""

from fileformats.generic import File
from fileformats.medimage import Bval, Bvec, NiftiGz
from pydra.compose import shell

from axoloci.formats import Nifti
from axoloci.pydra_task import IMAGE_HELP, OUT_HELP, PREFIX_HELP, made


@shell.define
class PreprocessDwi(shell.Task["PreprocessDwi.Outputs"]):
    """Raw DWI to motion-corrected DWI with rotated b-vectors, and a brain mask."""

    executable = ["axoloci-preprocess", "run"]

    dwi: Nifti = shell.arg(argstr="--dwi", help="raw DWI, 4D")
    bval: Bval | File = shell.arg(argstr="--bval", help="b-values, s/mm²")
    bvec: Bvec | File = shell.arg(argstr="--bvec", help="b-vectors in the image's frame (FSL)")
    mask: Nifti | None = shell.arg(
        argstr="--mask", default=None, help="brain mask; without it one is made"
    )
    json: File | None = shell.arg(
        argstr="--json", default=None, help="sidecar with the phase encoding (BIDS)"
    )
    reverse_b0: Nifti | None = shell.arg(
        argstr="--reverse-b0",
        default=None,
        help="image of reverse phase encoding that begins with a b0: distortion is corrected",
    )
    reverse_json: File | None = shell.arg(argstr="--reverse-json", default=None, help="its sidecar")
    denoise: bool = shell.arg(
        default=False,
        formatter=lambda denoise: "--denoise" if denoise else "--no-denoise",
        help="take out thermal noise",
    )
    unring: bool = shell.arg(
        default=True,
        formatter=lambda unring: "--unring" if unring else "--no-unring",
        help="take out Gibbs ringing",
    )
    motion: bool = shell.arg(
        default=True,
        formatter=lambda motion: "--motion" if motion else "--no-motion",
        help="correct head motion and eddy currents, replace slices that lost signal",
    )
    already_preprocessed: bool = shell.arg(
        argstr="--already-preprocessed",
        default=False,
        help="keep the volumes as they are: only check them and find the brain",
    )
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Files of one scan."""

        dwi_out: NiftiGz = shell.out(
            callable=made("{out_dir}/{prefix}_desc-preproc_dwi.nii.gz"), help="corrected DWI"
        )
        bval_out: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-preproc_dwi.bval"), help="b-values, s/mm²"
        )
        bvec_out: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-preproc_dwi.bvec"), help="rotated b-vectors"
        )
        mask_out: NiftiGz = shell.out(
            callable=made("{out_dir}/{prefix}_desc-brain_mask.nii.gz"), help="brain mask"
        )
        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-preproc_dwi.json"),
            help="settings and quality figures",
        )
