"""Pictures of what a run sees and has learnt: views, atlas, neighbours, and what its method
shows."""

import io
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jobs import preview
from jobs.cluster import launch
from jobs.reporting import contact_sheet
from jobs.reporting.contact_sheet import Cell, grid
from jobs.reporting.figures import Drawing
from jobs.reporting.sorted_grid import arrange
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, build
from jobs.training.run_dir import RunDir
from models.artifact import Artifact
from models.clustering.k_means import k_means
from models.method import MEDIA_WORDS
from models.temporal.film import film
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings import embed
from pipelines.embeddings.features import Features
from pipelines.storage import uris
from pipelines.stream import ingest, shapes
from pipelines.stream.first_samples import ORIGINAL, FirstSamples, WithOriginal, joined
from pipelines.stream.plan import Plan

NUM_VIEWED = 12  # fills one, two, three and four blocks evenly
NUM_QUERIES = 8
NUM_NEIGHBOURS = 7
MIN_EMBEDDED = 500  # images of EMBEDDED_PX or more; of smaller ones as many as cost the same
MAX_EMBEDDED = 2000
EMBEDDED_PX = 224
ATLAS_COLUMNS = 24
ATLAS_ASPECT = 12 / 7
ATLAS_PX = 1152  # width
PAGE_COLUMNS = 9


def views(config: PretrainConfig, drawn: preview.Drawn) -> Drawing:
    """Show the first samples of the first epoch with the views that training makes of them."""
    number = config.views.num_views
    each = f"{number} view{'s' * (number > 1)} of {config.views.size} {config.views.unit}"
    finding = f"{each} of each of {len(drawn.names)} {MEDIA_WORDS[config.media]}, first epoch"
    sheet = preview.contact_sheet(drawn, title=finding, page_columns=PAGE_COLUMNS)
    return Drawing("views.png", finding, preview.to_png(sheet))


def alike(
    config: PretrainConfig,
    manifest: Manifest,
    artifact_uri: str,
    encoder: Artifact,
    session: launch.Session,
) -> list[Drawing]:
    """Show what the artifact finds alike: an atlas and nearest neighbours.

    Returns:
        None of them where fewer than two images can be embedded.
    """
    embeddings, originals = _embed(config, manifest, artifact_uri, encoder, session)
    if len(embeddings) < 2:
        return []
    unit = functional.normalize(embeddings, dim=1)
    return [atlas(unit, originals), neighbours(unit, originals)]


def atlas(unit: Tensor, originals: Tensor) -> Drawing:
    """Show as many of the images as fill a page, similar ones side by side.

    Args:
        unit: (N, D) float32, embeddings of length 1; the first ones are shown.
        originals: (N, 3, S, S) uint8, their images.
    """
    num_columns = max(1, min(ATLAS_COLUMNS, round(math.sqrt(len(unit) * ATLAS_ASPECT))))
    num_rows = min(len(unit) // num_columns, round(num_columns / ATLAS_ASPECT) or 1)
    count = num_columns * num_rows
    order = arrange(unit[:count], num_columns)
    grid_of = unit[order].view(num_rows, num_columns, -1)
    beside = (grid_of[:, 1:] * grid_of[:, :-1]).sum(-1).flatten()
    below = (grid_of[1:] * grid_of[:-1]).sum(-1).flatten()
    finding = (
        f"{count} images placed by their embeddings alone: cosine "
        f"{torch.cat([beside, below]).mean():.2f} between neighbours, "
        f"{_between_any(unit):.2f} between any two"
    )
    cell_px = min(preview.ORIGINAL_PX, ATLAS_PX // num_columns)
    images = list(originals[order])
    sheet = contact_sheet.mosaic(images, num_columns=num_columns, title=finding, cell_px=cell_px)
    return Drawing("atlas.jpg", finding, contact_sheet.to_jpeg(sheet))


def neighbours(unit: Tensor, originals: Tensor) -> Drawing:
    """Show typical images with those whose embeddings are nearest.

    Args:
        unit: (N, D) float32, embeddings of length 1, N >= 2.
        originals: (N, 3, S, S) uint8, their images.
    """
    queries = _typical(unit, min(NUM_QUERIES, len(unit)))
    similarity = unit[queries] @ unit.T  # (Q, N)
    similarity[torch.arange(len(queries)), queries] = -2
    best, nearest = similarity.topk(min(NUM_NEIGHBOURS, len(unit) - 1), dim=1)
    finding = (
        f"Nearest among {len(unit):,} images to the most typical of {len(queries)} k-means groups: "
        f"cosine {best[:, 0].mean():.2f}, any two {_between_any(unit):.2f}"
    )
    rows = []
    for query, indices, cosines in zip(queries, nearest, best, strict=True):
        cells = [Cell(originals[query])]
        for index, cosine in zip(indices, cosines, strict=True):
            cells.append(Cell(originals[index], f"{cosine:.2f}"))
        rows.append(cells)
    ranks = [f"{rank}th" for rank in range(4, NUM_NEIGHBOURS + 1)]
    headings = ["image", "nearest", "2nd", "3rd", *ranks][: len(rows[0])]
    sheet = grid(rows, headings=headings, title=finding, breaks={1})
    return Drawing("neighbours.jpg", finding, contact_sheet.to_jpeg(sheet))


def _between_any(unit: Tensor) -> Tensor:
    """Return the mean cosine between two different embeddings."""
    count = len(unit)
    return (unit.sum(0).square().sum() - count) / (count * (count - 1))


def _typical(unit: Tensor, num_groups: int) -> Tensor:
    """Find the image nearest to the centre of each k-means group, of the largest group first."""
    centres, group = k_means(unit, num_groups, iterations=20, seed=0)
    distance = (unit - centres[group]).square().sum(1)
    sizes = torch.bincount(group, minlength=num_groups)
    members = [
        (group == index).nonzero().squeeze(1)
        for index in sizes.argsort(descending=True, stable=True)
    ]
    return torch.stack([ids[distance[ids].argmin()] for ids in members])


def _embed(
    config: PretrainConfig,
    manifest: Manifest,
    artifact_uri: str,
    encoder: Artifact,
    session: launch.Session,
) -> tuple[Tensor, Tensor]:
    """Embed some images of the corpus: (N, D) float32, and their originals (N, 3, S, S) uint8.

    The first of the second epoch, in which the order is another: the report has shown those of the
    first. Images whose embedding is not finite are left out.
    """
    scale = (EMBEDDED_PX / encoder.image_size) ** 2
    wanted = round(min(max(scale, 1), MAX_EMBEDDED / MIN_EMBEDDED) * MIN_EMBEDDED)
    num_images = min(wanted, manifest.num_rows)
    head = FirstSamples.of(
        Plan.fresh(manifest, config.seed), manifest.num_rows, manifest.num_rows + num_images
    )
    centre = WithOriginal(shapes.Centre(encoder.image_size), preview.ORIGINAL_PX)
    shape = shapes.of_media(centre, encoder.num_frames)
    work = ingest.Ingest(
        head,
        shape,
        embed.BLOCK_ROWS,
        config.source.limits(),
        quarantine=None,
        run="report",
        sampling=config.clip.sampling_of(manifest, config.seed),
    )
    images = ingest.dataset(work, [(0, num_images)])
    encoders = embed.Encoders({schema.EMBEDDING: Features(artifact_uri)}, session.placed)
    columns = joined(embed.embed(images, encoders, num_actors=1).iter_batches(batch_size=None))
    valid = columns[schema.VALID] & np.isfinite(columns[schema.EMBEDDING]).all(axis=1)
    originals = torch.from_numpy(columns[ORIGINAL][valid])
    if encoder.num_frames is not None:
        originals = film(originals)
    return torch.from_numpy(columns[schema.EMBEDDING][valid]), originals


def shown(config: PretrainConfig, run: RunDir, drawn: preview.Drawn) -> Drawing | None:
    """Show what the newest checkpoint's method makes of the first view of each image.

    Returns:
        None where there is no checkpoint, or nothing to see.
    """
    name = checkpoints.committed(run.path(checkpoints.FOLDER))
    if name is None or not (method := build(config, start=False).eval()).show(drawn.batch):
        return None
    data = uris.read_bytes(run.path(checkpoints.FOLDER, name, checkpoints.STATE))
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    method.load_state_dict(state["method"])
    view = next(iter(drawn.views.values()))[:, 0]
    columns = {"view": view}
    columns |= {head: preview.to_uint8(made) for head, made in method.show(drawn.batch).items()}
    finding = f"At step {checkpoints.step_of(name):,}, what {config.method.name} makes of a view"
    rows = [list(map(Cell, images)) for images in zip(*columns.values(), strict=True)]
    blocks = max(1, PAGE_COLUMNS // len(columns))
    sheet = grid(rows, headings=list(columns), title=finding, blocks=blocks)
    return Drawing("shown.png", finding, preview.to_png(sheet))
