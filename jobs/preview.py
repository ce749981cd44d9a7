"""Draw what training will see: rows are images, columns the original and each of its views, drawn
as in the run."""

import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from augment.generator import ViewGenerator, generator_of, pictures_of
from augment.recipe import Views
from jobs.cluster import launch
from jobs.corpora.corpus_checks import check_corpus
from jobs.corpora.run_tokens import tokenizer_of
from jobs.reporting.contact_sheet import Cell, grid
from jobs.setup.bad_samples import BadSamples, by_reason
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.inputs import manifest_of
from jobs.setup.sections import TRAINING, WORKERS
from jobs.setup.value_range import settled, warn_of_flat
from jobs.training.planned_data import sampling_of
from jobs.training.run_config import (
    PretrainConfig,
    build,
    complete_pretrain,
    for_method,
)
from models.method import Batch
from models.temporal.film import film
from pipelines import schema
from pipelines.captions.drawn_captions import Captions
from pipelines.corpus.manifest import Manifest
from pipelines.samples.of_views import series_of
from pipelines.samples.with_sound import with_sound
from pipelines.storage import uris
from pipelines.stream import ingest, shapes
from pipelines.stream.first_samples import IMAGE_SIZE, ORIGINAL, FirstSamples, WithOriginal, joined
from pipelines.stream.plan import Plan

ORIGINAL_PX = 112


class PreviewConfig(PretrainConfig):
    """A preview: a pretraining recipe, of which steps, optimiser and checkpoints do not matter."""

    example: ClassVar[str] = "simclr_small source.uri=photos out=views.png"
    most_used: ClassVar[tuple[str, ...]] = (
        "source.uri",
        "out",
        "num_images",
        "method.name",
        "views.size",
        "epoch",
    )
    of_another: ClassVar[str] = "pretrain"
    ignored: ClassVar[tuple[str, ...]] = (
        "source.max_bad_fraction",
        "source.verify",
        "views.compile",
        "optim",
        "num_steps",
        "num_epochs",
        "global_batch_size",
        "accumulate",
        "precision",
        "deterministic",
        "checkpoint",
        "health",
        "train",
        "log",
        "debug",
        *TRAINING,
        *WORKERS,
    )

    out: str = Field(
        pattern=r"(?i)\.png$",
        description="the picture to write, local or s3://",
        examples=["FILE.png"],
    )
    num_images: int = Field(8, ge=1, le=64, description="rows of the sheet")
    epoch: int = Field(0, ge=0, description="pass over the corpus whose draws are shown")
    sample_ids: list[int] = Field(
        [], max_length=64, description="the samples to show instead of the epoch's first ones"
    )
    parameters: bool = Field(True, description="what was drawn for each view, below it")

    @model_validator(mode="after")
    def _consistent(self) -> "PreviewConfig":
        # nothing is trained, so no number of steps has to be given and no batch to divide
        return self


def complete(values: dict[str, Any]) -> tuple[type[PreviewConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name` and complete the views, as for
    pretraining."""
    _, completed = complete_pretrain(values)
    return for_method(PreviewConfig, completed["method"]["name"]), completed


def preview(config: PreviewConfig) -> dict[str, Any]:
    """Write the contact sheet of the first images of an epoch.

    Raises:
        InputError: the source holds no image that can be read, or the recipe cannot be built.
    """
    source = launch.user_uri("source.uri", config.source.uri)
    out = launch.absolute_out(config.out)
    method = build(config).eval()
    launch.check_reachable("source.uri", source)
    check_writable("out", out.rpartition("/")[0])
    with (
        launch.session(config.cluster, work="tasks", paths=(source,)),
        tempfile.TemporaryDirectory(prefix="afield-preview-") as folder,
    ):
        manifest = manifest_of(config.source, folder, config.clip.per_video, config.medium)
        check_corpus(config, manifest)
        read = settled(config.source, manifest)
        warn_of_flat(manifest, read.limits())
        config = config.model_copy(update={"source": read})
        drawn = draw(
            config,
            manifest,
            num_images=config.num_images,
            epoch=config.epoch,
            sample_ids=config.sample_ids,
        )
    bad = BadSamples(1, None)
    bad.add(len(drawn.names) + drawn.num_bad, drawn.reasons)
    bad.tell()
    title = (
        f"{config.method.name}, views of {config.views.size} {config.views.unit},"
        f" epoch {config.epoch}, seed {config.seed}"
    )
    shown = method.show(drawn.batch)
    sheet = contact_sheet(drawn, shown, title=title, parameters=config.parameters)
    uris.write_bytes(out, to_png(sheet))
    return {"images": len(drawn.names), "unreadable": drawn.num_bad, "result": out}


@dataclass(frozen=True)
class Drawn:
    """Readable images of an epoch with their views.

    Attributes:
        names: File names, B of them.
        originals: (B, 3, S, S) uint8; of clips films of them.
        views: Group name -> (B, V, 3, S, S) uint8, as training sees them before normalisation; of
            clips films of them.
        captions: Group name -> what was drawn for each view, B lists of V.
        batch: The same as a method is given them.
        num_bad: Images left out because they cannot be read.
        reasons: How many of them for which reason.
    """

    names: list[str]
    originals: Tensor
    views: dict[str, Tensor]
    captions: dict[str, list[list[str]]]
    batch: Batch
    num_bad: int
    reasons: dict[str, int]


def draw(
    config: PretrainConfig,
    manifest: Manifest,
    *,
    num_images: int,
    epoch: int,
    sample_ids: Sequence[int] = (),
    captions: Captions | None = None,
) -> Drawn:
    """Make the views of the first images of an epoch, or of given ones, by the path and with the
    draws of training; their captions too, where a run has learnt their tokens.

    Raises:
        InputError: none of them can be read, or a given one is not in the manifest.
    """
    head = _head(config, manifest, num_images, epoch, sample_ids)
    num_images = head.table.num_rows
    if not isinstance(config.views, Views):
        return _drawn_rows(config, manifest, head)
    generator = ViewGenerator(config.views, config.seed)
    in_task = config.placement == "decode"
    pair = config.source.second_images(manifest, config.seed)
    crops_shape = shapes.Crops(
        config.views, config.seed, photometric=in_task, pair=pair.kind if pair else None
    )
    shape = shapes.of_media(WithOriginal(crops_shape, ORIGINAL_PX), config.num_frames)
    sampling = sampling_of(config, manifest)
    shape = with_sound(config.clip.with_flow(shape, crops_shape), sampling.soundtrack)
    work = ingest.Ingest(
        head,
        shape,
        num_images,
        config.source.limits(),
        quarantine=None,
        run="preview",
        sampling=sampling,
        pair=pair,
        captions=captions,
    )
    tensors, valid, reasons = _read(work, manifest)
    keys = tensors[schema.EPOCH], tensors[schema.SAMPLE_ID]
    crops = {name: tensors[name] for name in config.views.groups}
    views = crops if in_task else generator.photometric(crops, *keys)
    batch = _batch(generator(views, *keys, photometric_done=True), tensors)
    beside = [
        name
        for name in (schema.PAIR, schema.MOTION, schema.FLOW, schema.CAPTION, schema.SOUND)
        if name in tensors
    ]
    if beside:
        batch["targets"] = {name: tensors[name] for name in beside}
    if (network := config.clip.flow_network()) is not None:
        flow = network(next(iter(crops.values())))
        batch["targets"] = batch.get("targets", {}) | {schema.FLOW: flow}
    names = [name for name, good in zip(head.names(), valid, strict=True) if good]
    sizes = tensors[IMAGE_SIZE].unbind(dim=1)
    changes = {name: generator.describe(name, *keys, *sizes) for name in views}
    originals = tensors[ORIGINAL]
    if config.num_frames is not None:
        originals = film(originals)
        views = {name: film(clips) for name, clips in views.items()}
    return Drawn(names, originals, views, changes, batch, int((~valid).sum()), reasons)


def _drawn_rows(config: PretrainConfig, manifest: Manifest, head: FirstSamples) -> Drawn:
    """Draw samples that are no pictures, as their generator draws them."""
    plan = Plan.fresh(manifest, config.seed, config.source.interleave)
    series = series_of(config.views, config.seed, tokenizer_of(config, plan))
    assert series is not None
    count = head.table.num_rows
    limits = config.source.limits()
    work = ingest.Ingest(
        head, series[1], count, limits, quarantine=None, run="preview", series=series[0]
    )
    tensors, valid, reasons = _read(work, manifest)
    rows = {name: tensors[name] for name in config.views.groups}
    generator = generator_of(config.views, config.seed)
    keys = tensors[schema.EPOCH], tensors[schema.SAMPLE_ID]
    views = generator(rows, *keys)
    drawn = {
        name: torch.stack([pictures_of(config.views, view, ORIGINAL_PX) for view in views[name]], 1)
        for name in rows
    }
    plain = next(iter(generator(rows, *keys, photometric_done=True).values()))
    originals = pictures_of(config.views, plain[0], ORIGINAL_PX)
    names = [name for name, good in zip(head.names(), valid, strict=True) if good]
    captions = {name: [[""] * drawn[name].shape[1]] * len(names) for name in rows}
    batch = _batch(views, tensors)
    return Drawn(names, originals, drawn, captions, batch, int((~valid).sum()), reasons)


def _read(
    work: ingest.Ingest, manifest: Manifest
) -> tuple[dict[str, Tensor], np.ndarray, dict[str, int]]:
    """Read a few samples: the columns of those that can be read, which they are, and how many
    cannot for which reason.

    Raises:
        InputError: none can be read.
    """
    blocks = ingest.dataset(work, [(0, work.block_rows)])
    columns = joined(blocks.iter_batches(batch_size=None))
    valid = columns.pop(schema.VALID)
    reasons = by_reason(columns[schema.REASON])
    if not valid.any():
        what = "images" if work.series is None else "samples"
        raise InputError(
            f"source.uri {manifest.source}: none of the {len(valid)} {what} can be read"
        )
    tensors = {name: torch.from_numpy(values[valid]) for name, values in columns.items()}
    return tensors, valid, reasons


def _batch(views: dict[str, Tensor], tensors: dict[str, Tensor]) -> Batch:
    return {
        "views": views,
        "epoch": tensors[schema.EPOCH],
        "sample_id": tensors[schema.SAMPLE_ID],
        "row": tensors[schema.ROW],
        "valid": torch.ones(len(tensors[schema.ROW]), dtype=torch.bool),
    }


def _head(
    config: PretrainConfig,
    manifest: Manifest,
    num_images: int,
    epoch: int,
    sample_ids: Sequence[int],
) -> FirstSamples:
    """Choose the rows to draw: an epoch's first, or those of the given samples in its order."""
    order = Plan.fresh(manifest, config.seed, config.source.interleave)
    start = epoch * manifest.num_rows
    if not sample_ids:
        return FirstSamples.of(order, start, start + min(num_images, manifest.num_rows))
    head = FirstSamples.of_samples(order, start, start + manifest.num_rows, list(sample_ids))
    if missing := sorted(set(sample_ids) - set(head.table[schema.SAMPLE_ID].to_pylist())):
        raise InputError(
            f"sample_ids {missing[0]} is not in the manifest of source.uri {manifest.source}"
        )
    return head


def contact_sheet(
    drawn: Drawn,
    shown: Mapping[str, Tensor] | None = None,
    *,
    title: str = "",
    page_columns: int = 0,
    parameters: bool = False,
) -> Image.Image:
    """Lay the views out, and beside them what the method makes of them.

    Args:
        drawn: The images and their views.
        shown: What `Method.show` gave for them.
        title: A line above.
        page_columns: Show rows side by side while they fit into so many columns.
        parameters: Write below each view what was drawn for it.
    """
    headings = ["original"]
    columns = [drawn.originals]
    for name, crops in drawn.views.items():
        word = name.removesuffix("s").replace("_", " ")
        headings += [
            word if crops.shape[1] == 1 else f"{word} {view + 1}" for view in range(crops.shape[1])
        ]
        columns += list(crops.transpose(0, 1))
    for heading, images in (shown or {}).items():
        headings.append(heading)
        columns.append(to_uint8(images))
    captions = [[name, *[""] * (len(columns) - 1)] for name in drawn.names]
    if parameters:
        for line, *said in zip(captions, *drawn.captions.values(), strict=True):
            of_views = [text for group in said for text in group]
            line[1 : 1 + len(of_views)] = of_views
    rows = [
        list(map(Cell, images, line))
        for images, line in zip(zip(*columns, strict=True), captions, strict=True)
    ]
    return grid(
        rows,
        headings=headings,
        title=title,
        breaks={1},
        blocks=max(1, page_columns // len(columns)),
    )


def to_uint8(images: Tensor) -> Tensor:
    """Round RGB in [0, 1] to grey levels."""
    return images.mul(255).round().to(torch.uint8)


def to_png(picture: Image.Image) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main("preview", __doc__ or "", complete, preview))
