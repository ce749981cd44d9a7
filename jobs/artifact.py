"""Make an artifact of a checkpoint of a run, the newest or a step that is kept; or of weights that
were trained elsewhere, as by timm, torchvision or a common self-supervised codebase."""

import json
import sys
from typing import Any, ClassVar

from pydantic import Field

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD, Positive
from jobs.cluster import launch
from jobs.setup import run_artifact, run_start
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.sections import JobConfig
from jobs.training.run_dir import open_run
from models import artifact
from models.encoders.factory import EncoderConfig
from models.preprocess import Preprocess
from pipelines.storage import uris


class MakeArtifactConfig(JobConfig):
    """An artifact of a checkpoint."""

    example: ClassVar[str] = "run=runs/a out=runs/a/artifact"
    most_used: ClassVar[tuple[str, ...]] = ("run", "step", "out")

    run: str = Field(min_length=1, description="the run directory: a path or s3:// prefix")
    step: int | None = Field(
        None, ge=1, description="of a checkpoint that is kept; null: the newest"
    )
    out: str = Field(
        min_length=1, description="folder of the artifact; new, or holding the same step's"
    )


class AdoptedPreprocess(Preprocess):
    """How the weights want their images: as most that were trained on ImageNet do."""

    image_size: int = Field(224, ge=1, description="side of the input, px")
    mean: tuple[float, float, float] = Field(
        IMAGENET_MEAN, description="subtracted from RGB in [0, 1]"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        IMAGENET_STD, description="divides RGB in [0, 1] after the mean is subtracted"
    )


class AdoptConfig(JobConfig):
    """An artifact of weights that were trained elsewhere."""

    example: ClassVar[str] = (
        "encoder.name=vit_small_patch16_224 encoder.weights=dino.pth out=artifacts/dino"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "encoder.name",
        "encoder.weights",
        "preprocess.image_size",
        "out",
    )

    encoder: EncoderConfig
    preprocess: AdoptedPreprocess = AdoptedPreprocess()
    seed: int = Field(0, ge=0, lt=2**31, description="of what the weights do not hold")
    out: str = Field(
        min_length=1, description="folder of the artifact; new, or holding the same weights'"
    )


def complete(
    values: dict[str, Any],
) -> tuple[type[MakeArtifactConfig | AdoptConfig], dict[str, Any]]:
    """Choose the configuration class: weights of an encoder, or a run."""
    return (AdoptConfig if "encoder" in values else MakeArtifactConfig), values


def make(config: MakeArtifactConfig | AdoptConfig) -> dict[str, Any]:
    """Write the artifact.

    Returns:
        `artifact`, `artifact_digest` and `step`; of other weights `weights`, as
        `models.starting.fitting.Fit.as_dict` has it, in place of the step.

    Raises:
        InputError: there is no run, no such checkpoint or no such weights, too little of them fits,
            or `out` holds something else.
    """
    return adopt(config) if isinstance(config, AdoptConfig) else _of_run(config)


def _of_run(config: MakeArtifactConfig) -> dict[str, Any]:
    uri = launch.user_uri("run", config.run)
    out = launch.absolute_out(config.out)
    launch.check_reachable("run", uri)
    run, recipe = open_run(uri)
    check_writable("out", out)
    _check_free(out, {"fingerprint": recipe.fingerprint()}, config.step)
    digest, step = run_artifact.write_from_checkpoint(run, recipe, config.step, out)
    return {"artifact": out, "artifact_digest": digest, "step": step, "result": out}


def adopt(config: AdoptConfig) -> dict[str, Any]:
    """Write an artifact of weights that were trained elsewhere; returns and raises as `make`."""
    encoder, taken = config.encoder, config.preprocess
    if encoder.weights is None:
        raise InputError("encoder.weights is missing: give the file or artifact of the weights")
    if encoder.media not in ("image", "clip"):
        raise InputError(f"encoder.name={encoder.name} sees no images: only such are taken over")
    if encoder.time in ("tubelets", "divided") and taken.num_frames % encoder.tubelet:
        raise InputError(
            f"preprocess.num_frames={taken.num_frames} must be a multiple of"
            f" encoder.tubelet={encoder.tubelet}"
        )
    out = launch.absolute_out(config.out)
    check_writable("out", out)
    start = run_start.read(encoder, taken.image_size, config.seed)
    _check_free(out, {"weights": start.fit.weights}, None)
    digest = artifact.save(
        out,
        start.encoder,
        config=config.model_dump(mode="json", include={"encoder", "seed"}),
        preprocess=taken.model_dump(mode="json"),
        provenance={"weights": start.fit.weights, "layout": start.fit.layout, "num_steps": 0},
    )
    fit = start.fit.as_dict()
    return {"artifact": out, "artifact_digest": digest, "weights": fit, "result": out}


def _check_free(out: str, made_of: dict[str, str], step: int | None) -> None:
    """Refuse a folder that holds anything but the same artifact.

    Args:
        out: The folder.
        made_of: What the artifact's provenance says of it.
        step: Of the run; None: any.

    Raises:
        InputError: it does.
    """
    names = uris.list_names(out)
    if not names:
        return
    if run_artifact.DESCRIPTION not in names:
        raise InputError(
            f"out {out} is no artifact and not empty ({names[0]}, ...): choose another"
        )
    before = json.loads(uris.read_bytes(uris.join(out, run_artifact.DESCRIPTION)))["provenance"]
    same_step = step is None or before.get("num_steps") == step
    if any(before.get(key) != value for key, value in made_of.items()) or not same_step:
        raise InputError(
            f"out {out} holds an artifact of step {before.get('num_steps')} of "
            f"{before.get('source', before.get('weights'))}: choose another out"
        )


if __name__ == "__main__":
    sys.exit(main("artifact", __doc__ or "", complete, make))
