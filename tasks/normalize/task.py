"""The Pydra tasks of the step normalize."""

from fileformats.generic import File
from fileformats.medimage import NiftiGz
from pydra.compose import shell

from axoloci.formats import CohortStore, Nifti
from axoloci.pydra_task import IMAGE_HELP, OUT_HELP, PREFIX_HELP, made


@shell.define
class RegisterFa(shell.Task["RegisterFa.Outputs"]):
    """An FA map to the common space: affine, then nonlinear, one interpolation."""

    executable = ["axoloci-normalize", "register"]

    fa: Nifti = shell.arg(argstr="--fa", help="FA map in the scan's space")
    template: Nifti | None = shell.arg(
        argstr="--template", default=None, help="FA template; without it the shipped one"
    )
    voxel_size: float | None = shell.arg(
        argstr="--voxel-size", default=None, help="voxel size of the common space, mm"
    )
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--out", default=".", help=OUT_HELP)
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """FA of one scan in the common space, and how it came there."""

        fa_out: NiftiGz = shell.out(
            callable=made("{out_dir}/{prefix}_space-template_model-tensor_param-fa_dwimap.nii.gz"),
            help="FA in the common space",
        )
        affine: File = shell.out(
            callable=made("{out_dir}/{prefix}_from-template_to-dwi_xfm.txt"),
            help="4×4 affine, mm to mm",
        )
        warp: NiftiGz = shell.out(
            callable=made("{out_dir}/{prefix}_from-template_to-dwi_warp.nii.gz"),
            help="for each voxel of the common space, its place in the scan, mm",
        )
        qc: File = shell.out(
            callable=made("{out_dir}/{prefix}_space-template_registration.json"),
            help="settings and similarity",
        )


@shell.define
class PackCohort(shell.Task["PackCohort.Outputs"]):
    """FA maps of all people to one cohort store."""

    executable = ["axoloci-normalize", "store"]

    maps: File = shell.arg(
        argstr="--maps", help="table sample_id, path, sha256 of the maps, one row a person"
    )
    template: Nifti | None = shell.arg(
        argstr="--template", default=None, help="FA template; without it the shipped one"
    )
    mask: Nifti | None = shell.arg(
        argstr="--mask", default=None, help="voxels to keep, instead of the template's brain"
    )
    like: CohortStore | None = shell.arg(
        argstr="--like", default=None, help="store whose voxels are kept"
    )
    dtype: str | None = shell.arg(
        argstr="--dtype", default=None, help="how maps are stored: float16 or uint8"
    )
    out: str = shell.arg(argstr="--out", default="cohort.zarr", help="the store's folder")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The store."""

        cohort: CohortStore = shell.out(callable=made("{out}"), help="cohort store")
