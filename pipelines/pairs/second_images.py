"""Second images of samples: depth, infrared, another season. Found by name, fetched and decoded
beside the first."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from augment.picture import Picture
from augment.recipe import PairKind
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.pairs.files_beside import FilesBeside
from pipelines.stream.payload import Payload
from pipelines.stream.stage_times import Stopwatch


@dataclass(frozen=True)
class SecondImages:
    """What a decode task needs to know of second images.

    Attributes:
        files: Where they are.
        kind: What is made of them.
        camera: fx, fy, cx, cy of `augment.scenes.hha`, px of whole images; of kind `hha`.
        unit_m: Metres that a step of the files' values is; of kind `hha`.
    """

    files: FilesBeside
    kind: PairKind = "colours"
    camera: tuple[float, float, float, float] | None = None
    unit_m: float = 0.001

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that `columns` gives."""
        return self.files.named

    def columns(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return what else is known of each row and its second image, a column a name."""
        return self.files.columns(rows)

    def payloads(
        self, blocks: Iterator[pa.Table], limits: Limits, clock: Stopwatch
    ) -> Iterator[Payload]:
        """Fetch the second image of each row of blocks of manifest rows, in order; a `BadSample` of
        reason `pair` where there is none."""
        return self.files.payloads(blocks, limits, clock, _missing)

    def reads(self, blocks: Iterator[pa.Table], limits: Limits) -> tuple[int, int]:
        """Return the requests and the bytes of `payloads` for blocks."""
        return self.files.reads(blocks, limits)

    def decode(self, payload: Payload, first: Picture, decoder: Decoder) -> np.ndarray:
        """Decode the second image of a picture.

        Returns:
            (H, W, 3) uint8, the height and width of the first; of kind `depth` (H, W) int32, the
            values of the file as they are.

        Raises:
            BadSample: `pair`: it cannot be used, or is of another size.
        """
        if isinstance(payload, BadSample):
            raise payload if payload.reason == "pair" else _of_pair(str(payload))
        assert isinstance(payload, bytes)
        try:
            if self.kind == "colours":
                return _of_size(decoder.image(payload).pixels, first)
            depth = _of_size(decoder.depth(payload), first)
        except BadSample as problem:
            raise problem if problem.reason == "pair" else _of_pair(problem.message) from None
        return self._hha(depth) if self.kind == "hha" else depth.astype(np.int32)

    def _hha(self, depth: np.ndarray) -> np.ndarray:
        """Turn depth (H, W) into the three channels of HHA, (H, W, 3) uint8."""
        import torch  # here, as few recipes need it

        from augment.scenes.hha import hha, hha_image

        assert self.camera is not None
        metres = torch.from_numpy(depth.astype(np.float32) * self.unit_m).unsqueeze(0)
        image = hha_image(hha(metres, torch.tensor([self.camera])))[0]
        levels = (image * 255).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def _missing(sought: str) -> BadSample:
    if not sought:
        return BadSample(
            "pair", "no pose of its frame, or none of another near by: check source.poses"
        )
    return BadSample(
        "pair",
        f"no second image {sought}, or an empty one: check source.pair, and leave second images in"
        " shards out of the samples with source.members",
    )


def _of_pair(message: str) -> BadSample:
    return BadSample("pair", f"its second image: {message}")


def _of_size(pixels: np.ndarray, first: Picture) -> np.ndarray:
    """Return pixels as they are.

    Raises:
        BadSample: they are not as many as the first image's.
    """
    height, width = pixels.shape[:2]
    if (height, width) != (first.height, first.width):
        raise BadSample(
            "pair",
            f"its second image is {width} x {height}, the first {first.width} x {first.height}:"
            " both must show the same, at the same size",
        )
    return pixels
