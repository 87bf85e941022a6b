"""The Pydra task of the step report."""

from fileformats.generic import File
from pydra.compose import shell

from axoloci.pydra_task import IMAGE_HELP, made


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
