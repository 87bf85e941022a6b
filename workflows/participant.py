"""One scan: raw DWI -> corrected DWI -> tensor maps -> FA in the common space."""

from pathlib import Path
from typing import Any

from fileformats.generic import File
from fileformats.medimage import Bval, Bvec
from pydra.compose import workflow

from axoloci.formats import Nifti
from axoloci.images import environment, image_identity
from axoloci.tasks.dti.task import FitDti
from axoloci.tasks.normalize.task import RegisterFa
from axoloci.tasks.preprocess.task import PreprocessDwi


@workflow.define(outputs=["qc"])
def Participant(
    dwi: Nifti,
    bval: Bval | File,
    bvec: Bvec | File,
    prefix: str,
    out_dir: str,
    log_dir: str,
    mask: Nifti | None = None,
    template: Nifti | None = None,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006 - Pydra copies defaults
    env: str = "native",
) -> File:
    """From the raw DWI of one scan to its FA map in the common space.

    Parameters
    ----------
    dwi, bval, bvec, mask
        The scan; without a mask one is made.
    prefix
        BIDS name of the scan without its suffix.
    out_dir
        Folder of the scan's derivatives.
    log_dir
        Folder for one log and one job record a step.
    template
        FA template; without it the shipped one.
    settings
        Settings by step; what is left out, the step decides.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    File
        Quality figures of the registration. The maps themselves lie in `out_dir`: outputs of a
        workflow are linked and hashed once more, which large files should be spared.
    """

    def runs(step: str) -> dict[str, Any]:
        return {"environment": environment(env, Path(log_dir, f"{step}.log"))}

    def shared(step: str) -> dict[str, Any]:
        return {
            "prefix": prefix,
            "out_dir": out_dir,
            "image": image_identity(env, step),
            **settings.get(step, {}),
        }

    corrected = workflow.add(
        PreprocessDwi(dwi=dwi, bval=bval, bvec=bvec, mask=mask, **shared("preprocess")),
        name="preprocess",
        **runs("preprocess"),
    )
    tensor = workflow.add(
        FitDti(
            dwi=corrected.dwi_out,
            bval=corrected.bval_out,
            bvec=corrected.bvec_out,
            mask=corrected.mask_out,
            **shared("dti"),
        ),
        name="dti",
        **runs("dti"),
    )
    registered = workflow.add(
        RegisterFa(fa=tensor.fa, template=template, **shared("normalize")),
        name="normalize",
        **runs("normalize"),
    )
    return registered.qc
