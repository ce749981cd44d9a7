"""Where samples come from together with what belongs to each: a second image, poses, captions."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    PositiveFloat,
    model_validator,
)

from augment.recipe import PairKind
from jobs.setup.failures import InputError
from jobs.setup.sections import SourceConfig
from pipelines.captions.caption_table import CaptionTable
from pipelines.corpus.manifest import Manifest
from pipelines.pairs.files_beside import FilesBeside
from pipelines.pairs.name_rule import check_rule
from pipelines.pairs.posed_frames import PosedFrames, check_poses
from pipelines.pairs.second_images import SecondImages


def _captions(value: str) -> str:
    """Return a table's address or a rule of names as it is.

    Raises:
        ValueError: it is neither.
    """
    return value if CaptionTable.is_named_by(value) else check_rule(value)


CaptionPlace = Annotated[str, AfterValidator(_captions)]


def idle_column(captions: str | None, *keys: str) -> tuple[str, ...]:
    """Return those keys of a table that have no effect where captions are none."""
    return () if captions is not None and CaptionTable.is_named_by(captions) else keys


def place_of(
    captions: str, column: str | None, manifest: Manifest, split: str | None = None
) -> FilesBeside | CaptionTable:
    """Say where the captions of a corpus are.

    Args:
        captions: A rule of names, or a table's address.
        column: The table's column of captions; None: one of the usual.
        manifest: The corpus.
        split: Rows of the table that count; None: all.
    """
    if CaptionTable.is_named_by(captions):
        return CaptionTable(captions, column, manifest.source, split)
    return FilesBeside(captions, manifest.left_out_uri)


class PairedSource(SourceConfig):
    """Where samples come from, each with a second image or captions where they are asked for."""

    pair: Annotated[str, AfterValidator(check_rule)] | None = Field(
        None,
        description=(
            "second image of each sample by its name, from the sample's folder on:"
            " ../depth/{stem}.png; {stem} is the name without its suffix, {name} with it; of a"
            " member of a shard another member, ./{stem}.depth.png. null: none"
        ),
        examples=["RULE"],
    )
    pair_kind: PairKind = Field(
        "colours",
        description=(
            "what is made of second images: RGB; depths as in 16-bit files; or hha, disparity,"
            " height and angle with gravity from depth"
        ),
    )
    pair_camera: tuple[PositiveFloat, PositiveFloat, FiniteFloat, FiniteFloat] | None = Field(
        None,
        description="of hha: focal lengths and principal point of whole images, px",
        examples=["[FX,FY,CX,CY]"],
    )
    pair_unit_m: float = Field(
        0.001, gt=0, description="of hha: metres that a step of the depth files' values is"
    )
    captions: CaptionPlace | None = Field(
        None,
        description=(
            "captions of each sample: in a file of its own, named as source.pair is, ./{stem}.txt"
            " (one a line) or ./{stem}.json; or in one table (.csv, .tsv, .jsonl, .parquet) of"
            " file names and captions, a row or several a sample. null: none"
        ),
        examples=["RULE", "TABLE"],
    )
    caption_column: str | None = Field(
        None,
        min_length=1,
        description="the table's column of captions; null: caption, captions, text or texts",
    )

    poses: str | None = Field(
        None,
        min_length=1,
        description=(
            "CSV file of the camera's pose at each sample, a row a frame: file, r00 to r22 and t0"
            " to t2 (camera to world, m), sequence where there are several; the second image is"
            " then a frame from near by"
        ),
        examples=["URI"],
    )
    pose_gap: int = Field(
        7, ge=1, description="of poses: frames to the second image at most, before or after"
    )

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        if self.poses and self.pair:
            raise ValueError("pair has no effect beside poses, which name second images themselves")
        return self

    @model_validator(mode="after")
    def _camera_where_needed(self) -> Self:
        if self.pair and self.pair_kind == "hha" and self.pair_camera is None:
            raise ValueError("pair_camera is needed for pair_kind=hha: give [FX,FY,CX,CY] in px")
        return self

    def idle(self) -> dict[str, str]:
        """Return what no second image, or one that is no HHA, has no use for."""
        of_hha = ("pair_camera", "pair_unit_m")
        idle = dict.fromkeys(idle_column(self.captions, "caption_column"), "captions")
        idle |= {} if self.poses else {"pose_gap": "poses"}
        if self.pair is None:
            return idle | dict.fromkeys(("pair_kind", *of_hha), "pair")
        return idle if self.pair_kind == "hha" else idle | dict.fromkeys(of_hha, "pair_kind")

    def pairing(self) -> dict[str, Any]:
        """Return the settings that change which second images and captions are seen; none without
        them."""
        idle = self.idle()
        names = ["pair", "pair_kind", "pair_camera", "pair_unit_m"] if self.pair else []
        names += ["poses", "pose_gap"] if self.poses else []
        names += ["captions", "caption_column"] if self.captions else []
        return {
            name: value
            for name, value in self.model_dump(mode="json", include=set(names)).items()
            if name not in idle
        }

    def captions_of(self, manifest: Manifest) -> FilesBeside | CaptionTable | None:
        """Say where the captions of a corpus are; None where none are asked for."""
        if self.captions is None:
            return None
        return place_of(self.captions, self.caption_column, manifest)

    def second_images(self, manifest: Manifest, seed: int) -> SecondImages | None:
        """Say where the second images of a corpus are; None where none are asked for.

        Args:
            manifest: The corpus.
            seed: Of the draws, where second images are drawn.
        """
        if self.poses is not None:
            return SecondImages(PosedFrames(self.poses, max_gap=self.pose_gap, seed=seed))
        if self.pair is None:
            return None
        files = FilesBeside(self.pair, manifest.left_out_uri)
        return SecondImages(files, self.pair_kind, self.pair_camera, self.pair_unit_m)


def check_poses_given(source: PairedSource, method: str, *, posed: bool) -> None:
    """Refuse poses where a method takes none, or their lack where it does.

    Args:
        source: Where samples come from.
        method: Key and value that name the method.
        posed: Whether it takes them.

    Raises:
        InputError: with what helps.
    """
    if posed and source.poses is None:
        raise InputError(
            f"{method} needs the camera's pose at each frame: name a CSV file by source.poses"
        )
    if source.poses is None:
        return
    if not posed:
        raise InputError(f"source.poses {source.poses}: {method} takes no poses, leave it out")
    try:
        check_poses(source.poses, source.pose_gap)
    except (ValueError, OSError) as error:
        raise InputError(f"source.poses {error}") from None
