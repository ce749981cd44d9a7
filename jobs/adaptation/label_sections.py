"""Configuration of the labelled sets that every job with labels takes."""

from typing import ClassVar, Literal

from pydantic import Field

from augment.frozen import Frozen
from jobs.setup.sections import JobConfig
from pipelines.labels.label_tables import Columns


class LabelledConfig(Frozen):
    """Labelled samples."""

    uri: str = Field(
        min_length=1,
        description=(
            "a folder with a folder per class, tar shards laid out so or with .cls or .json files,"
            " a manifest, a table (.csv, .jsonl, .parquet) of uri,label[,split][,group], or a COCO"
            " file"
        ),
    )


class ValConfig(Frozen):
    """Samples to choose settings by."""

    uri: str | None = Field(
        None, min_length=1, description="as train.uri; null: drawn from train, by group"
    )
    fraction: float = Field(0.1, ge=0, lt=1, description="of train that is drawn")
    seed: int = Field(0, ge=0, description="of the draw")

    def idle(self) -> dict[str, str]:
        """Return what a validation set that is given leaves of drawing one."""
        return dict.fromkeys(("fraction", "seed"), "uri") if self.uri else {}


class TestConfig(Frozen):
    """Samples to judge by."""

    __test__: ClassVar[bool] = False  # or pytest takes it for tests

    uri: str | None = Field(
        None, min_length=1, description="as train.uri; null: those of split test in train.uri"
    )
    split: Literal["val", "test"] = Field(
        "test", description="which split of a table is judged: val where it has no other"
    )
    fraction: float = Field(
        0, ge=0, lt=1, description="of train.uri that is drawn, by group, where it marks no test"
    )
    seed: int = Field(0, ge=0, description="of that draw")

    def idle(self) -> dict[str, str]:
        """Return what a test set that is given leaves of drawing one."""
        return dict.fromkeys(("fraction", "seed"), "uri") if self.uri else {}


class MasksConfig(Frozen):
    """A class for each pixel."""

    uri: str | None = Field(
        None,
        min_length=1,
        description=(
            "folder of PNG masks of class indices, grey or palette, paired with the images by path"
        ),
    )
    ignore: int | None = Field(
        None,
        ge=0,
        le=255,
        description=(
            "value of the pixels that are not judged; null: 255, unless masks have but one other"
            " value"
        ),
    )
    classes: str | None = Field(
        None, min_length=1, description="CSV file of index,name; null: the values are the names"
    )


class BoxesConfig(Frozen):
    """Boxes around objects."""

    uri: str | None = Field(
        None,
        min_length=1,
        description="COCO JSON of the images of train.uri and test.uri: a file, glob or folder",
    )


class LeakConfig(Frozen):
    """Where check_leak looks for test images."""

    corpus: str | None = Field(
        None,
        min_length=1,
        description="manifest of the pretraining corpus; null: the one that the artifact names",
    )
    max_distance: int = Field(
        32,
        ge=0,
        le=96,
        description="bits of 256 in which the perceptual hashes of near duplicates differ at most",
    )


class LabelledJobConfig(JobConfig):
    """A job that is given labels."""

    train: LabelledConfig
    val: ValConfig = ValConfig()
    test: TestConfig = TestConfig()
    columns: Columns = Columns()
    masks: MasksConfig = MasksConfig()
    boxes: BoxesConfig = BoxesConfig()
    check_leak: bool = Field(
        False, description="look for the test images in the corpus that the artifact was made from"
    )
    leak: LeakConfig = LeakConfig()
