"""One scan: raw DWI -> corrected DWI -> tensor maps -> FA in the common space.

Data that were worked on elsewhere enter at a later step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fileformats.generic import File
from fileformats.medimage import Bval, Bvec
from pydra.compose import workflow

from axoloci.environments import StepEnvironment, image_identity
from axoloci.formats import Nifti
from axoloci.tasks.dti.task import FitDti
from axoloci.tasks.normalize.task import RegisterFa
from axoloci.tasks.preprocess.task import PreprocessDwi

STEPS = ("preprocess", "dti", "normalize")


def shared_inputs(
    step: str, prefix: str, out_dir: str, settings: Mapping[str, Mapping[str, Any]], env: str
) -> dict[str, Any]:
    """Inputs that the task of each step has: names, code and the study's settings."""
    return {
        "prefix": prefix,
        "out_dir": out_dir,
        "image": image_identity(env, step),
        **settings.get(step, {}),
    }


@workflow.define(outputs=["qc"])
def Participant(
    start: str,
    prefix: str,
    out_dir: str,
    log_dir: str,
    dwi: Nifti | None = None,
    bval: Bval | File | None = None,
    bvec: Bvec | File | None = None,
    mask: Nifti | None = None,
    fa: Nifti | None = None,
    template: Nifti | None = None,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006 - Pydra copies defaults
    env: str = "native",
) -> File:
    """From the raw DWI of one scan to its FA map in the common space.

    Parameters
    ----------
    start
        First step: "preprocess" (raw DWI), "dti" (corrected DWI with a mask) or "normalize" (FA).
    prefix
        BIDS name of the scan without its suffix.
    out_dir
        Folder of the scan's derivatives.
    log_dir
        Folder for one log and one job record a step.
    dwi, bval, bvec, mask, fa
        The scan, as `start` needs it; raw DWI may come without a mask.
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
        log = Path(log_dir, f"{step}.log")
        return {"environment": StepEnvironment(env, log, writable=[out_dir])}

    def shared(step: str) -> dict[str, Any]:
        return shared_inputs(step, prefix, out_dir, settings, env)

    if start == "preprocess":
        corrected = workflow.add(
            PreprocessDwi(dwi=dwi, bval=bval, bvec=bvec, mask=mask, **shared("preprocess")),
            name="preprocess",
            **runs("preprocess"),
        )
        dwi, mask = corrected.dwi_out, corrected.mask_out
        bval, bvec = corrected.bval_out, corrected.bvec_out
    if start in ("preprocess", "dti"):
        tensor = workflow.add(
            FitDti(dwi=dwi, bval=bval, bvec=bvec, mask=mask, **shared("dti")),
            name="dti",
            **runs("dti"),
        )
        fa = tensor.fa
    registered = workflow.add(
        RegisterFa(fa=fa, template=template, **shared("normalize")),
        name="normalize",
        **runs("normalize"),
    )
    return registered.qc
