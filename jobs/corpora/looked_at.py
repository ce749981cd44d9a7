"""The samples of a corpus that looks at a training encoder see: the same ones each time."""

import pyarrow as pa
import torch
from torch import Tensor

from augment.generator import ViewGenerator, generator_of
from augment.recipe import AnyViews, Views
from jobs.corpora.run_captions import captions_of_run
from jobs.training.planned_data import sampling_of
from jobs.training.run_config import PretrainConfig
from jobs.training.training_job import TrainingJob
from models.collectives import my_share
from pipelines import schema
from pipelines.captions.drawn_captions import Captions
from pipelines.media.sounds.soundtrack import Soundtrack
from pipelines.samples.of_views import series_of
from pipelines.samples.with_sound import with_sound
from pipelines.stream import ingest, shapes
from pipelines.stream.first_samples import ORIGINAL, FirstSamples, WithOriginal, joined
from pipelines.stream.plan import Plan

MOST_FRAMES = 2048  # of all clips of a look
BLOCK_ROWS = 64


def read_images(job: TrainingJob) -> dict[str, Tensor]:
    """Read this rank's share of the images of all looks of a run, in this process.

    Returns:
        The readable ones' centre crops and one "view" of each as training would see it, (N, 3, S,
        S) float32, normalised; of clips (N, T, 3, S, S), fewer of them; of sounds two windows of
        each, (N, L), the second changed. And the captions or the sound beside images, as in a
        batch.
    """
    config = job.config
    assert job.manifest is not None
    plan = Plan.open(job.manifest, job.ledger, config.seed)
    wanted = config.health.num_samples
    frames: tuple[int, ...] = ()
    if config.num_frames is not None:
        wanted = min(wanted, max(2, MOST_FRAMES // config.num_frames))
        frames = (config.num_frames,)
    share = my_share(min(wanted, plan.manifests[0].num_rows))
    order = FirstSamples.of(plan, share.start, share.stop)
    views = config.views
    if not isinstance(views, Views):
        return _read_windows(config, views, order, job.run.tokenizer())
    sampling = sampling_of(config, plan.manifest)
    captions = captions_of_run(config, job.run, plan.manifest)
    if share.start == share.stop:  # more ranks than images
        none = torch.zeros(0, *frames, 3, config.views.size, config.views.size)
        return {"centre": none, "view": none, **_nothing_beside(captions, sampling.soundtrack)}
    name, views = _one_view(views)
    generator = ViewGenerator(views, config.seed)
    whole = WithOriginal(shapes.Crops(views, config.seed, photometric=True), config.views.size)
    work = ingest.Ingest(
        order=order,
        shape=with_sound(shapes.of_media(whole, config.num_frames), sampling.soundtrack),
        block_rows=BLOCK_ROWS,
        limits=config.source.limits(),
        quarantine=None,
        run="health",
        sampling=sampling,
        captions=captions,
    )
    columns = joined(
        ingest.run_items(pa.table({"start": [0], "stop": [share.stop - share.start]}), ingest=work)
    )
    valid = columns[schema.VALID]
    epoch, sample_id = (
        torch.from_numpy(columns[key][valid]) for key in (schema.EPOCH, schema.SAMPLE_ID)
    )

    def normalised(crops: Tensor) -> Tensor:
        return generator({name: crops}, epoch, sample_id, photometric_done=True)[name][0]

    centre, view = (torch.from_numpy(columns[key][valid]) for key in (ORIGINAL, name))
    beside = {
        key: torch.from_numpy(columns[key][valid]) for key in schema.READ_BESIDE if key in columns
    }
    return {"centre": normalised(centre.unsqueeze(1)), "view": normalised(view), **beside}


def _nothing_beside(captions: Captions | None, heard: Soundtrack | None) -> dict[str, Tensor]:
    """Return captions and sound of no image."""
    none = dict[str, Tensor]()
    if captions:
        none[schema.CAPTION] = torch.zeros(0, captions.length, dtype=torch.int32)
    if heard:
        none[schema.SOUND] = torch.zeros(0, heard.count, heard.size, dtype=torch.int16)
    return none


def _read_windows(
    config: PretrainConfig, views: AnyViews, order: FirstSamples, tokenizer: str | None
) -> dict[str, Tensor]:
    """Read two windows of each sample of a medium that is no picture, as `read_images` does."""
    name, group = next(iter(views.groups.items()))
    two = views.model_copy(update={"groups": {name: group.model_copy(update={"count": 2})}})
    series = series_of(two, config.seed, tokenizer)
    assert series is not None
    count = order.table.num_rows
    if not count:
        empty = torch.from_numpy(series[1].empty(0)[name])
        none = generator_of(two, config.seed)({name: empty}, *[torch.zeros(0).long()] * 2)[name]
        return {"centre": none[0], "view": none[1]}
    work = ingest.Ingest(
        order=order,
        shape=series[1],
        block_rows=BLOCK_ROWS,
        limits=config.source.limits(),
        quarantine=None,
        run="health",
        series=series[0],
    )
    columns = joined(ingest.run_items(pa.table({"start": [0], "stop": [count]}), ingest=work))
    valid = columns[schema.VALID]
    rows, epoch, sample_id = (
        torch.from_numpy(columns[key][valid]) for key in (name, schema.EPOCH, schema.SAMPLE_ID)
    )
    generator = generator_of(two, config.seed)
    plain = generator({name: rows}, epoch, sample_id, photometric_done=True)[name]
    changed = generator({name: rows}, epoch, sample_id)[name]
    return {"centre": plain[0], "view": changed[1]}


def _one_view(views: Views) -> tuple[str, Views]:
    """Return the first group of full size, and a recipe of its first view alone."""
    name = next(name for name in views.groups if views.group_size(name) == views.size)
    return name, views.model_copy(
        update={"groups": {name: views.groups[name].model_copy(update={"count": 1})}}
    )
