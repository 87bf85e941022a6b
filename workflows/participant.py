"""One scan: raw DWI -> corrected DWI -> tensor maps -> FA in the common space.

Data that were worked on elsewhere enter at a later step. Steps from outside come after these; they
take what they need of a scan by the names of their fields.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fileformats.generic import File
from fileformats.medimage import Bval, Bvec
from pydra.compose import workflow
from pydra.utils.general import get_fields

from axoloci.environments import StepEnvironment, image_identity
from axoloci.formats import Nifti
from axoloci.scans import RAW
from axoloci.steps import Resources, installed_steps, load_task
from axoloci.tasks.dti.task import FitDti
from axoloci.tasks.normalize.task import RegisterFa
from axoloci.tasks.preprocess.task import PreprocessDwi
from axoloci.tasks.report.task import MakeScanPage

STEPS = ("preprocess", "dti", "normalize")
PAGE = "page"
"""Job of a scan that shows what the others have made; a part of the step report."""
PAGE_RESOURCES = Resources(cpus=1, memory_gb=0.2, minutes=1, gpu=False)
"""What it asks for: what the step report asks for is for the report of a whole study."""

_COMMON = ("fa_template", "template_to_dwi_affine", "template_to_dwi_warp")
AT_HAND = {
    **dict.fromkeys(("preprocess", "dti"), (*RAW, "fa", "md", "ad", "rd", *_COMMON)),
    "normalize": ("fa", *_COMMON),
}
"""What a step from outside can take of a scan, by the step at which the data enter."""


def step_of(job: str) -> str:
    """The installed step of which a job of a scan is a part."""
    return "report" if job == PAGE else job


def resources_of(job: str) -> Resources:
    """What a job of a scan asks of a machine."""
    return PAGE_RESOURCES if job == PAGE else installed_steps()[job].resources


def shared_inputs(
    job: str, prefix: str, out_dir: str, settings: Mapping[str, Mapping[str, Any]], env: str
) -> dict[str, Any]:
    """Inputs that the task of each job has: names, code and the study's settings."""
    return {
        "prefix": prefix,
        "out_dir": out_dir,
        "image": image_identity(env, step_of(job)),
        **settings.get(job, {}),
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
    json: File | None = None,
    reverse_b0: Nifti | None = None,
    reverse_json: File | None = None,
    fa: Nifti | None = None,
    md: Nifti | None = None,
    ad: Nifti | None = None,
    rd: Nifti | None = None,
    template: Nifti | None = None,
    corrected_qc: File | None = None,
    tensor_qc: File | None = None,
    shown_template: Nifti | None = None,
    acquisition: list[str] = [],  # noqa: B006 - Pydra copies defaults
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006
    extra: list[str] = [],  # noqa: B006
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
    json, reverse_b0, reverse_json
        Sidecar of raw DWI, b0 of reverse phase encoding and its sidecar, by which distortion is
        corrected.
    md, ad, rd
        Maps of a tensor that was fitted before, for steps from outside.
    template
        FA template; without it the shipped one.
    corrected_qc, tensor_qc
        Quality figures of the steps before `start`, if there were any.
    shown_template
        FA template beside which the scan's page shows the map; without it no page is made.
    acquisition
        Scanner and sequence for that page, as KEY=VALUE.
    settings
        Settings by step; what is left out, the step decides.
    extra
        Steps from outside; each takes what it needs of `AT_HAND` by the names of its fields.
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
            PreprocessDwi(
                dwi=dwi,
                bval=bval,
                bvec=bvec,
                mask=mask,
                json=json,
                reverse_b0=reverse_b0,
                reverse_json=reverse_json,
                **shared("preprocess"),
            ),
            name="preprocess",
            **runs("preprocess"),
        )
        dwi, mask = corrected.dwi_out, corrected.mask_out
        bval, bvec = corrected.bval_out, corrected.bvec_out
        corrected_qc = corrected.qc
    if start in ("preprocess", "dti"):
        tensor = workflow.add(
            FitDti(dwi=dwi, bval=bval, bvec=bvec, mask=mask, **shared("dti")),
            name="dti",
            **runs("dti"),
        )
        fa, md, ad, rd = tensor.fa, tensor.md, tensor.ad, tensor.rd
        tensor_qc = tensor.qc
    registered = workflow.add(
        RegisterFa(fa=fa, template=template, **shared("normalize")),
        name="normalize",
        **runs("normalize"),
    )
    scan = {
        **{"dwi": dwi, "bval": bval, "bvec": bvec, "mask": mask},
        **{"fa": fa, "md": md, "ad": ad, "rd": rd},
        "fa_template": registered.fa_out,
        "template_to_dwi_affine": registered.affine,
        "template_to_dwi_warp": registered.warp,
    }
    for name in extra:
        task, given = load_task(name), shared(name)
        free = {field.name for field in get_fields(task)} - given.keys()
        files = {key: file for key, file in scan.items() if key in free and file is not None}
        workflow.add(task(**files, **given), name=name, **runs(name))
    if shown_template is not None:
        workflow.add(
            MakeScanPage(
                corrected_qc=corrected_qc,
                tensor_qc=tensor_qc,
                registered_qc=registered.qc,
                template=shown_template,
                acquisition=acquisition,
                **shared(PAGE),
            ),
            name=PAGE,
            **runs(PAGE),
        )
    return registered.qc
