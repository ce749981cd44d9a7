"""Configuration of the probes that compare images with texts: classes by their names, and
captions."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from augment.frozen import Frozen
from jobs.adaptation.label_sections import LabelledConfig
from jobs.corpora.paired_source import CaptionPlace, idle_column
from jobs.probing.probe_sections import Counts
from jobs.setup.sections import TRAINING, ClusterConfig, JobConfig, PerVideoConfig
from pipelines.labels.label_tables import Columns

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a close-up of a {}.",
    "a {} in the distance.",
    "there is a {} in the photo.",
    "{}.",
)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _have_a_place(templates: tuple[str, ...]) -> tuple[str, ...]:
    for one in templates:
        if one.count("{}") != 1:
            raise ValueError(f"must hold {{}} once, where the class's name goes, got {one!r}")
    return templates


class ComparedConfig(JobConfig):
    """What every such probe is told."""

    ignored: ClassVar[tuple[str, ...]] = TRAINING

    artifact: str = Field(
        min_length=1,
        description=(
            "the encoder and its text tower: a path or s3:// prefix, or NAME@ALIAS in a registry"
        ),
    )
    compare: str | None = Field(
        None, min_length=1, description="another artifact, judged on the same samples beside it"
    )
    out: str | None = Field(
        None, min_length=1, description="folder of adaptation.json and its page"
    )
    cluster: ClusterConfig = ClusterConfig()


class ZeroShotProbeConfig(Frozen):
    """How classes are told by their names."""

    name: Literal["zero_shot"] = Field(
        description=(
            "zero_shot: the class whose name, in sentences, is most alike; nothing is trained"
        )
    )
    templates: Annotated[
        tuple[str, ...], BeforeValidator(_listed), AfterValidator(_have_a_place)
    ] = Field(
        TEMPLATES,
        min_length=1,
        description="sentences about a class, {} its name; what is made of them is averaged",
        examples=['["a photo of a {}.","a {}."]'],
    )
    class_names: str | None = Field(
        None,
        min_length=1,
        description=(
            "table (.csv, .jsonl, .parquet) of class,name: what each class of the labels is called,"
            " a row or several; null: as its folder, with spaces for _ and -"
        ),
        examples=["TABLE"],
    )


class SplitConfig(LabelledConfig):
    """Labelled samples to judge by."""

    split: Literal["train", "val", "test"] = Field(
        "test", description="of a table with a column of splits: which is judged"
    )


class ZeroShotConfig(ComparedConfig):
    """A probe of an artifact by the names of classes."""

    example: ClassVar[str] = "artifact=runs/a/artifact test.uri=labelled/test probe.name=zero_shot"
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "test.uri",
        "probe.name",
        "probe.templates",
        "probe.class_names",
        "compare",
        "out",
        "cluster.num_workers",
        "cluster.use_gpu",
    )

    probe: ZeroShotProbeConfig
    test: SplitConfig
    columns: Columns = Columns()
    clip: PerVideoConfig = PerVideoConfig()


class CaptionProbeConfig(Frozen):
    """How images and captions look for each other."""

    name: Literal["retrieve_captions"] = Field(
        description=(
            "retrieve_captions: each image looks for its captions, and each caption for its image"
        )
    )
    recall_at: Counts = Field((1, 5, 10), description="lengths of the answers")


class CaptionedConfig(Frozen):
    """Images and their captions to judge by."""

    uri: str = Field(
        min_length=1, description="images: a folder, glob, s3:// prefix, shards or a manifest"
    )
    captions: CaptionPlace = Field(
        description=(
            "their captions, as source.captions has them: ./{stem}.txt, or a table of file names"
            " and captions; what has none is left out"
        ),
        examples=["RULE", "TABLE"],
    )
    caption_column: str | None = Field(
        None, min_length=1, description="the table's column of captions; null: as source's"
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="rows of the table whose column split says this; null: all",
    )

    def idle(self) -> dict[str, str]:
        """Return what files have no use for."""
        return dict.fromkeys(idle_column(self.captions, "caption_column", "split"), "captions")


class CaptionedTrainConfig(Frozen):
    """Images and captions that the baseline learns from: words told by colours alone."""

    uri: str | None = Field(None, min_length=1, description="as test.uri; null: no such baseline")
    captions: CaptionPlace | None = Field(
        None, description="as test.captions; null: those", examples=["RULE", "TABLE"]
    )
    caption_column: str | None = Field(None, min_length=1, description="as test.caption_column")
    split: str | None = Field(None, min_length=1, description="as test.split")

    def idle(self) -> dict[str, str]:
        """Return what no training set has no use for."""
        of_set = ("captions", "caption_column", "split")
        return dict.fromkeys(of_set, "uri") if self.uri is None else {}


class RetrieveCaptionsConfig(ComparedConfig):
    """A probe of an artifact by captions."""

    example: ClassVar[str] = (
        "artifact=runs/a/artifact test.uri=pairs/test test.captions=pairs/captions.csv"
        " probe.name=retrieve_captions"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "test.uri",
        "test.captions",
        "test.split",
        "train.uri",
        "probe.name",
        "compare",
        "out",
        "cluster.num_workers",
        "cluster.use_gpu",
    )

    probe: CaptionProbeConfig
    test: CaptionedConfig
    train: CaptionedTrainConfig = CaptionedTrainConfig()

    def learnt_from(self) -> CaptionedConfig | None:
        """Return the training set, with what it takes of the test set's settings; None without."""
        if self.train.uri is None:
            return None
        given: dict[str, Any] = self.train.model_dump(exclude_none=True)
        if "captions" not in given:
            given = {
                "captions": self.test.captions,
                "caption_column": self.test.caption_column,
            } | given
        return CaptionedConfig.model_validate(given)


TextProbeConfig = ZeroShotConfig | RetrieveCaptionsConfig
