"""Pictures of what a run sees and has learnt: its views, nearest neighbours, MAE's reconstructions."""

import io

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jobs import preview
from jobs.reporting.contact_sheet import Cell, grid
from jobs.reporting.figures import Picture
from jobs.setup import launch
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir
from models.artifact import Artifact
from models.masked.mae import MAE
from models.registry import METHODS, build_method
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings import embed
from pipelines.storage import uris
from pipelines.stream import ingest, shapes
from pipelines.stream.first_samples import ORIGINAL, FirstSamples, WithOriginal, joined
from pipelines.stream.plan import Plan

NUM_VIEWED = 12  # fills one, two, three and four blocks evenly
NUM_QUERIES = 8
NUM_NEIGHBOURS = 8
NUM_EMBEDDED = 500
PAGE_COLUMNS = 9


def views(config: PretrainConfig, drawn: preview.Drawn) -> Picture:
    """Show the first images of the first epoch with the views that training makes of them."""
    each = f"{config.views.num_views} views of {config.views.size} px"
    finding = f"{each} of each of {len(drawn.names)} images, first epoch"
    sheet = preview.contact_sheet(config, drawn, title=finding, page_columns=PAGE_COLUMNS)
    return Picture("views.png", finding, preview.to_png(sheet))


def neighbours(
    config: PretrainConfig,
    manifest: Manifest,
    artifact_uri: str,
    encoder: Artifact,
    session: launch.Session,
) -> Picture | None:
    """Show images with those whose embeddings are nearest; None where fewer than two can be read."""
    embeddings, originals = _embed(config, manifest, artifact_uri, encoder, session)
    if len(embeddings) < 2:
        return None
    unit = functional.normalize(embeddings, dim=1)
    similarity = unit @ unit.T  # (N, N)
    pairs = similarity[~torch.eye(len(unit), dtype=torch.bool)]
    best, nearest = (
        similarity.clone().fill_diagonal_(-2).topk(min(NUM_NEIGHBOURS, len(unit) - 1), dim=1)
    )
    finding = (
        f"Nearest among {len(unit)} images: median cosine {best[:, 0].median():.2f} to the nearest, "
        f"{pairs.median():.2f} between any two"
    )
    rows = []
    for query in range(min(NUM_QUERIES, len(unit))):
        near = zip(nearest[query].tolist(), best[query].tolist(), strict=True)
        rows.append(
            [
                Cell(originals[query]),
                *(Cell(originals[index], f"{cosine:.2f}") for index, cosine in near),
            ]
        )
    headings = [
        "image",
        "nearest",
        "2nd",
        "3rd",
        *(f"{rank}th" for rank in range(4, NUM_NEIGHBOURS + 1)),
    ]
    sheet = grid(rows, headings=headings[: len(rows[0])], title=finding, breaks={1})
    return Picture("neighbours.png", finding, preview.to_png(sheet))


def _embed(
    config: PretrainConfig,
    manifest: Manifest,
    artifact_uri: str,
    encoder: Artifact,
    session: launch.Session,
) -> tuple[Tensor, Tensor]:
    """Embed some images of the corpus: (N, D) float32, and their originals (N, 3, S, S) uint8.

    The first of the second epoch, in which the order is another: the report has shown those of the first.
    """
    num_images = min(NUM_EMBEDDED, manifest.num_rows)
    head = FirstSamples.of(
        Plan.fresh(manifest, config.seed), manifest.num_rows, manifest.num_rows + num_images
    )
    shape = WithOriginal(shapes.Centre(encoder.image_size), preview.ORIGINAL_PX)
    work = ingest.Ingest(
        head,
        shape,
        embed.BLOCK_ROWS,
        config.source.limits(),
        quarantine=None,
        run="report",
        sampling=config.clip.sampling(manifest, config.seed),
    )
    images = ingest.dataset(work, np.array([[0, num_images]]))
    kinds: dict[str, embed.Kind] = {schema.EMBEDDING: "pretrained"}
    encoders = embed.Encoders(artifact_uri, kinds, session.use_gpu, session.threads_per_worker)
    columns = joined(embed.embed(images, encoders, num_actors=1).iter_batches(batch_size=None))
    valid = columns[schema.VALID]
    return torch.from_numpy(columns[schema.EMBEDDING][valid]), torch.from_numpy(
        columns[ORIGINAL][valid]
    )


def reconstruction(config: PretrainConfig, run: RunDir, drawn: preview.Drawn) -> Picture | None:
    """Show what the newest checkpoint's MAE paints where patches are hidden; None for other methods or none saved."""
    name = checkpoints.committed(run.path(checkpoints.FOLDER))
    if name is None or not issubclass(METHODS[config.method.name], MAE):
        return None
    method = build_method(config.method, config.encoder, config.views, config.seed)
    assert isinstance(method, MAE)
    data = uris.read_bytes(run.path(checkpoints.FOLDER, name, checkpoints.STATE))
    method.load_state_dict(
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["method"]
    )
    method.eval()
    triple = method.reconstruct(drawn.batch)
    error = (triple[0] - triple[2]).abs().mean() / method.mask_ratio  # visible patches have none
    finding = (
        f"At step {checkpoints.step_of(name):,}: {method.mask_ratio:.0%} of the pixels hidden, "
        f"painted with a mean error of {error:.1%} of white"
    )
    rows = [list(map(Cell, images)) for images in zip(*map(preview.to_uint8, triple), strict=True)]
    headings = ["image", "visible", "painted"]
    sheet = grid(rows, headings=headings, title=finding, blocks=PAGE_COLUMNS // len(headings))
    return Picture("reconstruction.png", finding, preview.to_png(sheet))
