"""What a run reads: samples in order, and what becomes of them on the way."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from augment.generator import ViewGenerator
from augment.recipe import Placement
from jobs.cluster.share import Session
from jobs.setup.failures import InputError
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir
from jobs.training.steering.controller import OrderedStreams
from models.multimodal.soundtrack_method import SoundtrackConfig
from models.preprocess import neutral
from pipelines import schema
from pipelines.captions.drawn_captions import Captions
from pipelines.corpus.manifest import Manifest
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.media.sounds.soundtrack import Soundtrack
from pipelines.pairs.second_images import SecondImages
from pipelines.samples.of_views import series_of
from pipelines.samples.with_sound import with_sound
from pipelines.stream import ingest, shapes
from pipelines.stream.colour_actors import ActorPool, change_colours
from pipelines.stream.ledger import Ledger
from pipelines.stream.orders import Order
from pipelines.stream.plan import Plan
from pipelines.stream.sealed import seal

_ONLY_VERSION = 1  # of samples held in memory: others would be another run


@dataclass(frozen=True)
class Samples:
    """Endless epochs of a corpus or of a labelled set.

    Attributes:
        order: Positions to samples.
        ledger: What the committed weights have seen of it.
        num_stored: Rows ever stored, of which some may be gone.
        num_samples: Samples of an epoch now.
        sampling: What is taken of videos.
        manifest: URI of the corpus; None: labelled samples, by which the weights are judged.
        carried: Columns of the order that a batch has too, and the bytes a row of each.
        masks: Whether the order's rows name masks.
        boxes: Boxes that each of the order's rows holds; 0: none.
        mask_values: Of masks: the value of each class in their files; empty: the values are the
            classes.
        pair: Where the rows' second images are; None: nowhere.
        flow: Whether a batch has the flow of its clips.
        captions: Where the rows' captions are; None: nowhere.
        tokenizer: Of texts; None: they are of another medium.
    """

    order: Order
    ledger: Ledger
    num_stored: int
    num_samples: int
    sampling: Sampling
    manifest: str | None = None
    carried: tuple[tuple[str, int], ...] = ()
    masks: bool = False
    boxes: int = 0
    mask_values: tuple[int, ...] = ()
    pair: SecondImages | None = None
    flow: bool = False
    captions: Captions | None = None
    tokenizer: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the columns of a batch that labels or second images made."""
        names = [name for name, _ in self.carried]
        names += [schema.MASK] if self.masks else []
        names += [schema.BOXES] if self.boxes else []
        names += [schema.PAIR, *self.pair.named] if self.pair else []
        names += [schema.FLOW] if self.flow else []
        names += [schema.CAPTION] if self.captions else []
        names += [schema.SOUND] if self.sampling.soundtrack else []
        return tuple(names)

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        config: PretrainConfig,
        captions: Captions | None = None,
        tokenizer: str | None = None,
    ) -> Self:
        """Read a corpus, with the captions of its images or the tokenizer of its texts."""
        return cls(
            order=plan,
            ledger=plan.ledger,
            num_stored=plan.manifest.num_stored,
            num_samples=plan.manifest.num_rows,
            sampling=sampling_of(config, plan.manifest),
            manifest=plan.manifest.uri,
            pair=config.source.second_images(plan.manifest, config.seed),
            flow=config.clip.flow_of_tasks is not None,
            captions=captions,
            tokenizer=tokenizer,
        )

    @classmethod
    def of_labelled(cls, data: LabelledData, ledger: Ledger, config: PretrainConfig) -> Self:
        """Read labelled samples, all of them for training.

        Args:
            data: The samples.
            ledger: Of the committed weights.
            config: Of the run.
        """
        config.clip.check(None)
        per_video = config.clip.per_video or 1
        sampling = Sampling(per_video=per_video)
        if config.num_frames is not None:
            sampling = config.clip.sampling(per_video, config.seed)
        order = labelled_stream.order_of(data, sampling.per_video, config.seed)
        return cls(
            order=order,
            ledger=ledger.onto(_ONLY_VERSION, config.source.interleave),
            num_stored=data.num_rows,
            num_samples=order.table.num_rows,
            sampling=sampling,
            carried=labelled_stream.carried_by(data),
            masks=data.task == "mask",
            boxes=data.most_boxes if data.task == "boxes" else 0,
            mask_values=data.values,
        )


@dataclass(frozen=True)
class PlannedData:
    """What the training processes of a run read.

    Attributes:
        config: Of the run.
        samples: Whose order is read.
        run: Where the committed weights lie.
        num_steps: Last optimiser step.
        placement: Where colours change.
        view_actors: What changes them where that is `actor`.
    """

    config: PretrainConfig
    samples: Samples
    run: RunDir
    num_steps: int
    placement: Placement
    view_actors: ActorPool | None

    def streams(self) -> OrderedStreams:
        """Return what Ray Train builds the streams of its worker groups with."""
        config = self.config
        recolour = None
        if self.placement == "actor":
            assert self.view_actors is not None
            generator = ViewGenerator(config.image_views, config.seed)
            recolour = seal(partial(change_colours, generator=generator, pool=self.view_actors))
        return OrderedStreams(
            self.work(1).stream(),
            self.run.uri,
            stop=self.num_steps * config.global_batch_size,
            rows=config.global_batch_size // config.accumulate,
            recolour=recolour,
        )

    def work(self, world_size: int) -> ingest.Ingest:
        """Return what the data tasks of so many training processes do."""
        config = self.config
        series = series_of(config.views, config.seed, self.samples.tokenizer)
        shape: shapes.Shape
        if series is not None:
            shape = series[1]
        else:
            shape = shape_of(
                config,
                photometric=self.placement == "decode",
                samples=self.samples,
            )
            shape = with_sound(shape, self.samples.sampling.soundtrack)
        return ingest.Ingest(
            order=self.samples.order,
            shape=shape,
            block_rows=config.global_batch_size // (world_size * config.accumulate),
            limits=config.source.limits(),
            quarantine=self.run.path("quarantine"),
            run=config.fingerprint(),
            sampling=self.samples.sampling,
            verify=config.source.verify == "etag",
            carried=self.samples.carried,
            masks=self.samples.masks,
            mask_values=self.samples.mask_values,
            boxes=self.samples.boxes > 0,
            pair=self.samples.pair,
            captions=self.samples.captions,
            series=series[0] if series is not None else None,
        )


def sampling_of(config: PretrainConfig, manifest: Manifest) -> Sampling:
    """Say what is taken of the videos of a corpus: frames, and the sound that the method hears with
    them."""
    sampling = config.clip.sampling_of(manifest, config.seed)
    method = config.method
    if not isinstance(method, SoundtrackConfig):
        return sampling
    heard = Soundtrack(method.sound_rate, method.sound_samples, method.elsewhere_s)
    return replace(sampling, soundtrack=heard)


def shape_of(
    config: PretrainConfig,
    *,
    photometric: bool,
    samples: Samples | None = None,
) -> shapes.Shape:
    """Say what a decode task makes of a sample: views of an image, or of each frame of a clip, and
    what the samples name beside them."""
    crops = shapes.Crops(config.image_views, config.seed, photometric=photometric)
    if samples is not None:
        crops = replace(
            crops,
            masks=samples.masks,
            boxes=samples.boxes,
            rest=neutral(config.image_views.mean),
            pair=samples.pair.kind if samples.pair else None,
        )
    clips = shapes.of_media(crops, config.num_frames)
    return config.clip.with_flow(clips, crops) if samples is not None and samples.flow else clips


def check_batch_fits(work: ingest.Ingest, store_bytes: float) -> None:
    """Refuse a batch that would wait for ever for room in an object store.

    Args:
        work: Of the fewest training processes.
        store_bytes: What the largest object store of the cluster holds.

    Raises:
        InputError: a worker's share of a batch is larger.
    """
    size = work.block_rows * work.row_bytes()
    if size > store_bytes:
        raise InputError(
            f"global_batch_size: a worker's {work.block_rows:,} samples at a time are"
            f" {size / 2**30:,.3g} GiB, and the largest object store holds"
            f" {store_bytes / 2**30:.3g}: use a smaller batch, accumulate or more workers"
        )


def resolve(placement: Placement, session: Session) -> Placement:
    """Say where colours change; `auto` goes by what the preflight found."""
    if placement != "auto":
        return placement
    if not session.use_gpu:
        # those tasks are spread over every CPU, a worker's CPUs are few and busy with the encoder
        return "decode"
    # A GPU that nobody uses costs training nothing; one that is shared would, and so must be asked
    # for.
    spare = (
        session.view_actors is not None
        and session.view_actors.gpus > 0
        and session.gpus_per_worker == 1
    )
    return "actor" if spare else "worker"
