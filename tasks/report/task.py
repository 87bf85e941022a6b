"""The Pydra tasks of the step report."""

from fileformats.generic import File
from pydra.compose import shell

from axoloci.formats import Nifti
from axoloci.pydra_task import IMAGE_HELP, PREFIX_HELP, made


@shell.define
class MakeReport(shell.Task["MakeReport.Outputs"]):
    """One page of what went in, what failed and what was found."""

    executable = ["axoloci-report", "make"]

    inputs_file: File = shell.arg(argstr="--inputs", help="JSON that names what to show")
    out: str = shell.arg(argstr="--out", default="report.html", help="the page")
    shareable: bool = shell.arg(
        argstr="--shareable", default=False, help="group results only, nothing of a single person"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The page."""

        report: File = shell.out(callable=made("{out}"), help="self-contained HTML")


@shell.define
class MakeScanPage(shell.Task["MakeScanPage.Outputs"]):
    """One page of a scan: what was done, quality figures and the pictures to judge it by.

    The descriptions of the steps stand for all that these have made: each names its inputs by their
    checksums, and its code.
    """

    executable = ["axoloci-report", "scan"]

    corrected_qc: File | None = shell.arg(
        argstr=None, default=None, help="description of the correction, found by its name"
    )
    tensor_qc: File | None = shell.arg(
        argstr=None, default=None, help="description of the tensor fit, found by its name"
    )
    registered_qc: File | None = shell.arg(
        argstr=None, default=None, help="description of the registration, found by its name"
    )
    template: Nifti | None = shell.arg(
        argstr="--template", default=None, help="FA template to show beside the registered map"
    )
    acquisition: list[str] = shell.arg(
        argstr="--acquisition...", default=[], help="scanner and sequence, as KEY=VALUE"
    )
    prefix: str = shell.arg(argstr="--prefix", help=PREFIX_HELP)
    out_dir: str = shell.arg(argstr="--folder", default=".", help="folder of the derivatives")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The page."""

        page: File = shell.out(
            callable=made("{out_dir}/{prefix}_desc-qc_dwi.html"), help="self-contained HTML"
        )


@shell.define
class MakeQcPage(shell.Task["MakeQcPage.Outputs"]):
    """The quality of all scans of a cohort on one page."""

    executable = ["axoloci-report", "group"]

    qc: File = shell.arg(argstr="--qc", help="table of quality figures, one row a scan")
    scans: File | None = shell.arg(
        argstr="--scans", default=None, help="table of scans, with those that are left out"
    )
    pages: bool = shell.arg(
        argstr="--pages", default=False, help="link the pages of the scans, which lie beside it"
    )
    title: str | None = shell.arg(argstr="--title", default=None, help="name of the study")
    out: str = shell.arg(argstr="--out", default="qc.html", help="the page")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The page."""

        page: File = shell.out(callable=made("{out}"), help="self-contained HTML")
