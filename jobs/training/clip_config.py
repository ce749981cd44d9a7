"""The section of a run that says which frames of videos make its samples."""

from dataclasses import replace
from typing import Any, cast

import torch
from pydantic import Field

from augment.frozen import Frozen, other_of
from augment.recipe import Views
from jobs.setup.failures import InputError
from jobs.setup.inputs import index_command
from jobs.setup.sections import PER_VIDEO
from models.motion.raft import RAFTS, Raft, RaftKind
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.motion.curve_files import Curves
from pipelines.motion.flow import WithFlow
from pipelines.motion.optical_flow import FlowKind, lacking
from pipelines.motion.windows import Motion, MotionBy, Rule
from pipelines.stream.shapes import Crops, Shape

# what was so before it was a setting
CLIP_BEFORE = {
    "per_sample": 1,
    "max_gap_s": None,
    "motion": "any",
    "motion_by": "change",
    "cross_cuts": True,
    "crop_bars": False,
    "flow": None,
    "flow_weights": None,
}
# what asks how videos change
_LOOKED_AT = ("motion", "cross_cuts", "crop_bars")


class ClipConfig(Frozen):
    """What is taken of videos."""

    num_frames: int = Field(
        16, ge=1, description="frames of a clip; a shorter video's last frame is repeated"
    )
    frame_stride: int = Field(
        4, ge=1, description="frames of the video from one frame of a clip to the next"
    )
    fps: float | None = Field(
        None, gt=0, description="frames per second of a clip; null: by frame_stride"
    )
    per_video: int | None = PER_VIDEO
    per_sample: int = Field(
        1,
        ge=1,
        description=(
            "clips of a sample, at instants of their own: its views are cut from them in turn"
            " (arXiv:2104.14558)"
        ),
    )
    max_gap_s: float | None = Field(
        None,
        gt=0,
        description=(
            "per_sample: the other clips begin at most so much before or after the first, seconds;"
            " null: anywhere in the video"
        ),
    )
    motion: Motion = Field(
        "any",
        description=(
            "where clips begin. any: anywhere; weighted: as likely as the clip moves; moving:"
            " anywhere but where the video stands still beside its other parts"
        ),
    )
    motion_by: MotionBy = Field(
        "change",
        description=(
            "what motion is. change: how much values change; dis, farneback: how far places move by"
            " that optical flow, found with clip.flow of jobs.index"
        ),
    )
    cross_cuts: bool = Field(
        True,
        description=(
            "whether a clip may show more than one scene; false: in a scene that is too short its"
            " last frame stays"
        ),
    )
    crop_bars: bool = Field(
        False, description="cut away what is dark at a side of the video all the time"
    )
    flow: FlowKind | RaftKind | None = Field(
        None,
        description=(
            "optical flow between the frames of each view, for methods that take it: dis or"
            " farneback, found in the data tasks; raft_small or raft_large, by the training"
            " device; null: none"
        ),
    )
    flow_weights: str | None = Field(
        None,
        min_length=1,
        description="file of torchvision's weights of that network, local or s3://",
    )
    as_frames: bool = Field(
        False, description="single frames instead of clips, for methods that take images"
    )

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return what a way to space a clip's frames leaves of the other way."""
        return other_of(("fps", "frame_stride"), key, values)

    def idle(self) -> dict[str, str]:
        """Return what single frames, or one clip a sample, leave without effect."""
        gap = {"max_gap_s": "per_sample"} if self.per_sample == 1 else {}
        clip = (
            *("num_frames", "frame_stride", "fps", "per_sample", "max_gap_s"),
            *("motion", "motion_by", "cross_cuts", "flow"),
        )
        if self.motion == "any":
            gap["motion_by"] = "motion"
        if self.flow not in RAFTS:
            gap["flow_weights"] = "flow"
        return gap | (dict.fromkeys(clip, "as_frames") if self.as_frames else {})

    def taking(self) -> dict[str, Any]:
        """Return which frames make a clip: fields of `models.preprocess.Preprocess`."""
        spacing = {"frame_stride": self.frame_stride} if self.fps is None else {"fps": self.fps}
        return {"num_frames": self.num_frames, **spacing}

    @property
    def looked_at(self) -> list[str]:
        """Return the keys for which the videos must have been looked at."""
        return [f"clip.{name}" for name in _LOOKED_AT if not self._is_default(name)]

    @property
    def rule(self) -> Rule:
        """Return which windows of a video are taken."""
        return Rule(self.motion, self.cross_cuts, self.crop_bars, self.motion_by)

    def check(self, manifest: Manifest | None) -> None:
        """Refuse a corpus whose videos were not looked at, where that is asked for.

        Args:
            manifest: The corpus; None: samples with labels, whose videos nobody looks at.

        Raises:
            InputError: with what helps.
        """
        if not (asked := self.looked_at):
            return
        if manifest is None:
            raise InputError(f"{asked[0]} is for unlabelled videos: leave it out")
        if schema.VIDEO in manifest.media and not self._curves(manifest).exist():
            of_flow = [f"clip.flow={flow}"] if (flow := self.rule.flow) else []
            command = index_command(manifest, "clip.curves=true", *of_flow)
            raise InputError(
                f"{asked[0]} needs to know how the videos of {manifest.uri} version"
                f" {manifest.version} change: have them looked at, once, with {command}"
            )

    def check_flow(self, method: str, views: Views, *, takes_flow: bool) -> None:
        """Refuse flow where a method takes none, or where it would not be that of the views.

        Args:
            method: Its name.
            views: Which views it is fed.
            takes_flow: Whether it takes flow.

        Raises:
            InputError: with what helps.
        """
        by_network = self.flow in RAFTS
        if self.flow is None and takes_flow:
            raise InputError(f"method.name={method} takes optical flow: set clip.flow=dis")
        if self.flow is None:
            return
        if not takes_flow:
            raise InputError(
                f"clip.flow {self.flow}: method.name={method} takes none, leave it out"
            )
        if self.num_frames < 2:
            raise InputError(f"clip.flow {self.flow} needs clip.num_frames of 2 or more")
        if not by_network and (problem := lacking()):
            raise InputError(f"clip.flow {self.flow} needs {problem}")
        group, crops = next(iter(views.groups.items()))
        if by_network and crops.changes() and views.placement != "worker":
            raise InputError(
                f"clip.flow {self.flow} is found on colours as they are in the video, and"
                f" views.groups.{group} changes them: set views.placement=worker"
            )
        self.flow_network()
        if turn := crops.turning():
            raise InputError(
                f"views.groups.{group}.{turn} would turn the views and not their flow: leave it out"
            )

    @property
    def flow_of_tasks(self) -> FlowKind | None:
        """Return which flow the data tasks find; None: they find none."""
        return None if self.flow is None or self.flow in RAFTS else cast(FlowKind, self.flow)

    def with_flow(self, clips: Shape, crops: Crops) -> Shape:
        """Add the flow that data tasks are asked for to a shape of clips of crops."""
        kind = self.flow_of_tasks
        return clips if kind is None else WithFlow(clips, crops, self.num_frames, kind)

    def flow_network(self, device: str | torch.device = "cpu") -> Raft | None:
        """Return the network that finds flow where views are; None where data tasks do, or nobody.

        Raises:
            InputError: there are no weights, or they are of another network.
        """
        if self.flow not in RAFTS:
            return None
        if self.flow_weights is None:
            raise InputError(
                f"clip.flow {self.flow} needs clip.flow_weights: the file of torchvision's weights"
                " of it, which is not downloaded"
            )
        try:
            return Raft(self.flow, self.flow_weights, device)
        except ValueError as error:
            raise InputError(str(error)) from None

    def _curves(self, manifest: Manifest) -> Curves:
        """Return what must be known of how the videos of a corpus change."""
        if (flow := self.rule.flow) is not None:
            return Curves(manifest.home, manifest.version, flow)
        return Curves.of_any(manifest.home, manifest.version)

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    def sampling_of(self, manifest: Manifest, seed: int) -> Sampling:
        """Return how samples are drawn from the videos of a corpus."""
        drawn = self.sampling(manifest.per_video, seed)
        if self.rule.plain or schema.VIDEO not in manifest.media:
            return drawn
        return replace(drawn, rule=self.rule, curves=self._curves(manifest))

    def sampling(self, per_video: int, seed: int) -> Sampling:
        """Return how samples are drawn from videos that are listed so often, by nothing but their
        length."""
        return Sampling(
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            fps=self.fps,
            per_video=per_video,
            as_frames=self.as_frames,
            seed=seed,
            per_sample=1 if self.as_frames else self.per_sample,  # one frame is looked at
            max_gap_s=self.max_gap_s,
        )
