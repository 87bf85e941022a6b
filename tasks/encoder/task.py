"""The Pydra tasks of the step encoder."""

from fileformats.generic import File
from pydra.compose import shell

from axoloci.formats import CohortStore, Nifti
from axoloci.pydra_task import IMAGE_HELP, made


@shell.define
class TrainEncoder(shell.Task["TrainEncoder.Outputs"]):
    """Learn latent phenotypes of the cohort's FA maps, without labels."""

    executable = ["axoloci-encoder", "train"]

    cohort: CohortStore = shell.arg(argstr="--cohort", help="cohort store")
    udip_fa: bool = shell.arg(
        argstr="--udip-fa", default=False, help="start from the published network and training"
    )
    n_latents: int | None = shell.arg(argstr="--n-latents", default=None, help="latents")
    channels: str | None = shell.arg(
        argstr="--channels", default=None, help="channels of each level, such as 16,32,64"
    )
    epochs: int | None = shell.arg(argstr="--epochs", default=None, help="passes over the data")
    batch_size: int | None = shell.arg(
        argstr="--batch-size", default=None, help="people a training step"
    )
    learning_rate: float | None = shell.arg(
        argstr="--learning-rate", default=None, help="first step size"
    )
    seed: int | None = shell.arg(argstr="--seed", default=None, help="seed of the training")
    precision: str | None = shell.arg(
        argstr="--precision", default=None, help="of products: float32 or bfloat16"
    )
    recompute: bool = shell.arg(
        argstr="--recompute", default=False, help="keep less in memory and compute it again"
    )
    compile: bool = shell.arg(
        argstr="--compile", default=False, help="let torch.compile fuse operations"
    )
    deterministic: bool = shell.arg(
        argstr="--deterministic", default=False, help="on a GPU, only what repeats to the bit"
    )
    tensorboard: str | None = shell.arg(
        argstr="--tensorboard", default=None, help="folder for the losses as TensorBoard reads them"
    )
    threads: int | None = shell.arg(
        argstr="--threads", default=None, help="CPU threads; they decide the rounding"
    )
    checkpoint: str = shell.arg(
        argstr="--checkpoint",
        default="checkpoint.pt",
        help="state of the training; one that was killed goes on from it",
    )
    out: str = shell.arg(argstr="--out", default="model.safetensors", help="file of the model")
    history: str = shell.arg(argstr="--history", default="history.tsv", help="loss by epoch")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The trained model."""

        model: File = shell.out(callable=made("{out}"), help="weights and configuration")
        history_out: File = shell.out(callable=made("{history}"), help="loss by epoch")


@shell.define
class FitLinear(shell.Task["FitLinear.Outputs"]):
    """Principal components of the cohort's smoothed FA maps, or means of an atlas's labels."""

    executable = ["axoloci-encoder", "fit-linear"]

    cohort: CohortStore = shell.arg(argstr="--cohort", help="cohort store")
    n_latents: int | None = shell.arg(argstr="--n-latents", default=None, help="components")
    variance: float | None = shell.arg(
        argstr="--variance", default=None, help="share of the variance that the components keep"
    )
    bandwidth: float | None = shell.arg(
        argstr="--bandwidth", default=None, help="width of the smoothing, mm"
    )
    atlas: Nifti | None = shell.arg(
        argstr="--atlas",
        default=None,
        help="labels in the maps' space, whose means are the latents instead",
    )
    seed: int | None = shell.arg(argstr="--seed", default=None, help="seed of the decomposition")
    threads: int | None = shell.arg(
        argstr="--threads", default=None, help="CPU threads; they decide the rounding"
    )
    out: str = shell.arg(argstr="--out", default="model.safetensors", help="file of the model")
    history: str = shell.arg(
        argstr="--history", default="history.tsv", help="variance of each component"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The fitted model."""

        model: File = shell.out(callable=made("{out}"), help="bases and configuration")
        history_out: File = shell.out(callable=made("{history}"), help="variance by component")


@shell.define
class EncodeFa(shell.Task["EncodeFa.Outputs"]):
    """FA maps of a cohort to latents, by a trained encoder."""

    executable = ["axoloci-encoder", "encode"]

    cohort: CohortStore = shell.arg(argstr="--cohort", help="cohort store")
    model: File = shell.arg(argstr="--model", help="trained model, of either representation")
    training_people: str | None = shell.arg(
        argstr="--training-people",
        default=None,
        help="people whom the model was trained on: refuse, keep or drop",
    )
    threads: int | None = shell.arg(
        argstr="--threads", default=None, help="CPU threads; they decide the rounding"
    )
    out: str = shell.arg(argstr="--out", default="latents.parquet", help="table of latents")
    quality: str = shell.arg(
        argstr="--quality", default="quality.tsv", help="reconstruction error of each person"
    )
    examples: str = shell.arg(
        argstr="--examples", default="examples.npz", help="a few maps and their reconstructions"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Latents and how well they stand for the maps."""

        latents: File = shell.out(
            callable=made("{out}"), help="sample_id, latent_000, … or component_000, …"
        )
        quality_out: File = shell.out(callable=made("{quality}"), help="reconstruction error")
        examples_out: File = shell.out(callable=made("{examples}"), help="examples")


@shell.define
class LinearizeEncoder(shell.Task["LinearizeEncoder.Outputs"]):
    """The tangent of an autoencoder's decoder, for maps of what is known of its latents."""

    executable = ["axoloci-encoder", "linearise"]

    model: File = shell.arg(argstr="--model", help="trained autoencoder")
    latents: File | None = shell.arg(
        argstr="--latents", default=None, help="latents of people over whom the derivative is meant"
    )
    n_people: int | None = shell.arg(
        argstr="--n-people", default=None, help="people at whom the derivative is taken"
    )
    threads: int | None = shell.arg(
        argstr="--threads", default=None, help="CPU threads; they decide the rounding"
    )
    out: str = shell.arg(
        argstr="--out", default="linearised.safetensors", help="file of the linearisation"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The linearisation."""

        linearised: File = shell.out(callable=made("{out}"), help="mean map and basis")
