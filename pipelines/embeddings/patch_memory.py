"""Labelled patches of images: remembered with their classes, then asked for those of others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import ray
import ray.data
import torch
from torch import Tensor

from models.probing.mask_scores import confusions
from models.probing.patch_votes import choose_patches, colour_maps, patch_scores, shares_of
from pipelines import schema
from pipelines.embeddings.embed import BLOCK_ROWS
from pipelines.embeddings.features import Extractor, Features
from pipelines.ray_tasks import Placed, map_in_networks

SHARES = "shares"  # (B, m, C) float32, of each remembered patch
COUNT = "count"  # (B,) int64, of remembered patches
_AT_ONCE = 8  # images whose pixels are scored


@dataclass(frozen=True)
class Patches:
    """Which features of patches.

    Attributes:
        columns: Name to description, of one artifact; those of colours take the grid of the
            others.
        num_classes: C.
        placed: Where the actors run.
        most: Patches of an image that are remembered.
        seed: Of their choice.
    """

    columns: Mapping[str, Features]
    num_classes: int
    placed: Placed
    most: int
    seed: int


@dataclass(frozen=True)
class Memory:
    """Remembered patches.

    Attributes:
        patches: How they were made.
        held: Column name to a reference of their features (P, D), float32.
        shares: A reference of the classes of each, (P, C) float32.
        ks: Neighbours that vote.
        temperature: Of the vote.
    """

    patches: Patches
    held: Mapping[str, "ray.ObjectRef[np.ndarray]"]
    shares: "ray.ObjectRef[np.ndarray]"
    ks: tuple[int, ...]
    temperature: float


class _Maps:
    """Makes the maps of all columns."""

    def __init__(self, patches: Patches) -> None:
        torch.set_num_threads(patches.placed.threads)
        self.device = torch.device(patches.placed.device)
        networks = {name: one for name, one in patches.columns.items() if one.kind != "colour"}
        self._colours = [name for name in patches.columns if name not in networks]
        self._extract = Extractor(networks, self.device)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, S, S) uint8 as (B, D, h, w) of each column."""
        maps = self._extract({images.shape[2]: images})
        grid = next(iter(maps.values())).shape[2:]
        return maps | {name: colour_maps(images, (grid[0], grid[1])) for name in self._colours}


class Remember:
    """An actor that takes labelled patches of images with masks."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._maps = _Maps(patches)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take the patches of one block, filled up with zeros."""
        device = self._maps.device
        maps = self._maps(torch.from_numpy(np.array(batch.pop(schema.IMAGE))).to(device))
        grid = next(iter(maps.values())).shape[2:]
        mask = torch.from_numpy(np.array(batch.pop(schema.MASK))).to(device)
        shares = shares_of(mask, (grid[0], grid[1]), self._patches.num_classes).cpu().numpy()
        labelled = (shares > 0).any(2) & batch[schema.VALID][:, None]
        most = self._patches.most
        chosen = choose_patches(
            labelled, batch[schema.SAMPLE_ID], most=most, seed=self._patches.seed
        )
        count = chosen.sum(1)
        taken = {SHARES: _taken(shares, chosen, most), COUNT: count}
        for name, one in maps.items():
            places = one.flatten(2).transpose(1, 2).float().cpu().numpy()  # (B, N, D)
            taken[name] = _taken(places, chosen, most)
        return batch | taken


def _taken(values: np.ndarray, chosen: np.ndarray, most: int) -> np.ndarray:
    """Move the chosen of (B, N, D) to the front, (B, most, D)."""
    taken = np.zeros((len(values), most, values.shape[2]), np.float32)
    for row, which in enumerate(chosen):
        taken[row, : which.sum()] = values[row, which]
    return taken


class Vote:
    """An actor that tells the pixels of images by the nearest remembered patches.

    It gives blocks back with a column a kind of features: how pixels were told, (B, len(ks) * C *
    C).
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._maps = _Maps(memory.patches)
        device = self._maps.device
        self._held = {
            name: torch.tensor(ray.get(one), device=device) for name, one in memory.held.items()
        }
        self._shares = torch.tensor(ray.get(memory.shares), device=device)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tell one block."""
        device = self._maps.device
        images = torch.from_numpy(np.array(batch.pop(schema.IMAGE))).to(device)
        masks = torch.from_numpy(np.array(batch.pop(schema.MASK))).to(device)
        parts: dict[str, list[Tensor]] = {name: [] for name in self._held}
        for image, mask in zip(images.split(_AT_ONCE), masks.split(_AT_ONCE), strict=True):
            for name, maps in self._maps(image).items():
                parts[name].append(self._told(name, maps.float(), mask))
        return batch | {name: torch.cat(one).cpu().numpy() for name, one in parts.items()}

    def _told(self, name: str, maps: Tensor, mask: Tensor) -> Tensor:
        scores = patch_scores(
            self._held[name],
            self._shares,
            maps,
            mask.shape[1],
            ks=self._memory.ks,
            temperature=self._memory.temperature,
        )
        return torch.cat([confusions(mask, of_k) for of_k in scores], 1)


def remember(images: ray.data.Dataset, patches: Patches, *, num_actors: int) -> ray.data.Dataset:
    """Take labelled patches of a stream of `Fitted` blocks with masks, in order."""
    return map_in_networks(
        images, Remember, patches, patches.placed, block_rows=BLOCK_ROWS, num_actors=num_actors
    )


def vote(images: ray.data.Dataset, memory: Memory, *, num_actors: int) -> ray.data.Dataset:
    """Tell the pixels of a stream of `Fitted` blocks with masks, in order."""
    placed = memory.patches.placed
    return map_in_networks(
        images, Vote, memory, placed, block_rows=BLOCK_ROWS, num_actors=num_actors
    )
