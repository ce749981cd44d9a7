"""Configuration of a probe that follows masks or key points through videos."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveFloat

from augment.frozen import Frozen
from jobs.adaptation.label_sections import LeakConfig
from jobs.setup.sections import ONE_OR_MORE, TRAINING, ClusterConfig, JobConfig
from models.probing.propagation import Carrying


def _ascending(alphas: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(alphas))


Shares = Annotated[tuple[PositiveFloat, ...], *ONE_OR_MORE, AfterValidator(_ascending)]


class PropagateProbeConfig(Frozen):
    """How labels are carried from frame to frame by features alone."""

    name: Literal["propagate"] = Field(
        description="propagate: masks or key points carried through a video, nothing trained"
    )
    neighbours: int = Field(10, ge=1, description="most alike places that give theirs")
    context: int = Field(
        20, ge=0, description="frames before the present one looked at, beside the first"
    )
    radius: float = Field(12, ge=0, description="how far a place looks, in places of the map")
    temperature: float = Field(0.05, gt=0, description="cosine similarities are divided by it")
    layer: int | None = Field(
        None,
        description="block or stage whose features are taken, 1 to the last or -1; null: the last",
    )
    size: int | None = Field(
        None, ge=8, description="shorter side at which frames are encoded, px; null: their own"
    )
    tolerance: float = Field(
        0.008,
        gt=0,
        lt=1,
        description="masks: how far apart boundaries agree, as a share of the diagonal",
    )
    alphas: Shares = Field(
        (0.1, 0.2),
        description=(
            "key points: found within these shares of the longer side of the box around a frame's"
            " points; the least is judged by"
        ),
    )

    @property
    def carrying(self) -> Carrying:
        """Return how labels are carried."""
        return Carrying(self.neighbours, self.context, self.radius, self.temperature)


class SequencesConfig(Frozen):
    """Videos to judge by."""

    uri: str = Field(min_length=1, description="folder with a folder of frames for each video")


class SequenceMasksConfig(Frozen):
    """Masks of their frames."""

    uri: str | None = Field(
        None,
        min_length=1,
        description="folder of PNG masks, grey or palette, paired with the frames by path",
    )
    ignore: int | None = Field(
        None,
        ge=1,
        le=255,
        description=(
            "value of the pixels that are not judged; null: 255, unless no object has another value"
        ),
    )


class PointsConfig(Frozen):
    """Key points in their frames."""

    uri: str | None = Field(
        None,
        min_length=1,
        description="CSV file of sequence,frame,point,x,y (px), a row for each point that is seen",
    )


class PropagateConfig(JobConfig):
    """A probe of an artifact by what it follows."""

    example: ClassVar[str] = (
        "artifact=runs/a/artifact test.uri=davis/frames masks.uri=davis/masks probe.name=propagate"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "test.uri",
        "masks.uri",
        "points.uri",
        "probe.name",
        "compare",
        "out",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = TRAINING

    artifact: str = Field(
        min_length=1,
        description="the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry",
    )
    compare: str | None = Field(
        None, min_length=1, description="another artifact, judged on the same videos beside it"
    )
    every_checkpoint: bool = Field(
        False,
        description="probe every checkpoint of the run that artifact is, beside its RankMe",
    )
    out: str | None = Field(
        None,
        min_length=1,
        description=(
            "folder of adaptation.json and its page; every_checkpoint: of its own page, null: in"
            " the run"
        ),
    )
    probe: PropagateProbeConfig
    test: SequencesConfig
    masks: SequenceMasksConfig = SequenceMasksConfig()
    points: PointsConfig = PointsConfig()
    check_leak: bool = Field(
        False, description="look for the frames in the corpus that the artifact was made from"
    )
    leak: LeakConfig = LeakConfig()
    cluster: ClusterConfig = ClusterConfig()

    def idle(self) -> dict[str, str]:
        """Return what the other kind of labels, or a series of checkpoints, has no use for."""
        of_series = {"compare": "every_checkpoint"} if self.every_checkpoint else {}
        if self.points.uri:
            return of_series | {"masks.ignore": "points.uri", "probe.tolerance": "points.uri"}
        return of_series | {"probe.alphas": "masks.uri"}
