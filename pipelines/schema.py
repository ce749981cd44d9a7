"""Column names, types and layouts of every table and stream in the project, written once.

A training batch is `sample_id, row, epoch, position, valid, reason`, one column per group of views:
uint8, images (B, V, 3, S, S) or clips (B, V, T, 3, S, S), or int16, windows of sound (B, V, L); and
what making it took (`pipelines.stream.stage_times`).
"""

from collections.abc import Mapping

import pyarrow as pa

SAMPLE_ID = "sample_id"
# int64, the sample's place among all rows ever stored in its manifest: the same in every later
# version
ROW = "row"
URI = "uri"
OFFSET = "offset"
LENGTH = "length"
MEMBER = "member"
EPOCH = "epoch"
POSITION = "position"
VALID = "valid"
REASON = "reason"  # uint8: 0 for a valid sample, else 1 + index into decode.REASONS
MEDIA = "media"
VIDEO = "video"
AUDIO = "audio"
TEXT = "text"
CLIP = "clip"
# float32, a row's share of its block's seconds
FETCH_S = "fetch_s"
DECODE_S = "decode_s"
CROP_S = "crop_s"
RETRIES = "retries"  # float32, a row's share of the storage requests that were tried again
CONTENT = "content"  # int64 hash of a file's bytes, where asked for; 0 for what could not be read
READY_AT = "ready_at"  # float64, seconds since the epoch at which the block was complete
# for embedding: (B, 3, S, S) uint8 centre crops, or what a window of another medium holds, (B, L)
IMAGE = "image"
# float64, when the frames of a video are on display; else NaN
LASTS_S = "lasts_s"  # in blocks with times: how long the whole video is
START_S = "start_s"
END_S = "end_s"
# of a member of a tar shard: what WebDataset groups files by, its name up to the first dot
KEY = "key"
FRAME = "frame"  # int32, of a clip of which every frame is a row: its number
EMBEDDING = "embedding"
# of labelled samples
NAME = "name"  # path below the source, in Unicode's form NFC
SPLIT = "split"  # train | val | test
GROUP = "group"  # what must not be on both sides of a split: a source video, a patient
LABELS = "labels"
LABEL = "label"  # (B,) int64 in a batch
LABEL_HOT = "label_hot"  # (B, C) uint8 in a batch of several labels a sample
MASK = "mask"  # (B, S, S) uint8 class indices in a batch
MASK_URI = "mask_uri"
MASK_OFFSET = "mask_offset"
MASK_LENGTH = "mask_length"
# of each view of the first group, cut as the view is: (B, V, 3, S, S) uint8, or (B, V, 1, S, S)
# int32 depths as in the files
PAIR = "pair"
# (B, V, T - 1, 2, S, S) float16 in a batch: of each view of the first group, how far each place
# moves to the right and down until the next frame, px
FLOW = "flow"
# (B, 6) float32 in a batch: the camera's motion to the second image, each component as its rank
MOTION = "motion"
CAPTION = "caption"  # (B, L) int32 tokens in a batch
# (B, V, L) int16 in a batch: of a video's sound, one channel, what goes with its clip; with V of 2
# also a stretch at another time, zeros where there is none
SOUND = "sound"
READ_BESIDE = (CAPTION, SOUND)  # with each sample, and no columns of the manifest
BOXES = "boxes"  # (B, M, 5) float32 in a batch: left, top, right, bottom, class; class -1: none
# int32, of the file's image, px
HEIGHT = "height"
WIDTH = "width"
DIGEST = "artifact_digest"
# of predictions
CLIPS = "clips"  # how many clips of the sample were averaged
PROBABILITY = "probability"  # of `label`
TOP_LABELS = "top_labels"  # the likeliest first
TOP_PROBABILITIES = "top_probabilities"
SCORE = "score"  # of a box that is told
CLASS_PIXELS = "class_pixels"  # how many of the mask's pixels each class has

MANIFEST = pa.schema(
    [
        pa.field(SAMPLE_ID, pa.int64(), nullable=False),  # hash of uri, member, clip index and etag
        pa.field(URI, pa.string(), nullable=False),
        pa.field(OFFSET, pa.int64(), nullable=False),  # bytes; 0 for a loose object
        pa.field(LENGTH, pa.int64(), nullable=False),  # bytes
        pa.field(MEMBER, pa.string()),  # name inside a tar shard; null for a loose object
        # object store's etag, or size-mtime_ns of a local file
        pa.field("etag", pa.string(), nullable=False),
        pa.field(MEDIA, pa.string(), nullable=False),  # image | video | audio
        pa.field(CLIP, pa.int32()),  # index of the clip among those of its video; null for an image
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field(SAMPLE_ID, pa.int64(), nullable=False),
        pa.field(URI, pa.string(), nullable=False),
        pa.field(OFFSET, pa.int64(), nullable=False),
        pa.field(LENGTH, pa.int64(), nullable=False),
        pa.field(MEMBER, pa.string()),  # as in the manifest
        pa.field("stage", pa.string(), nullable=False),  # index | fetch | decode
        pa.field(REASON, pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field(EPOCH, pa.int64(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)

BOX_FIELDS = [
    *(pa.field(name, pa.float32()) for name in ("x", "y", "width", "height")),  # px of the image
    pa.field("crowd", pa.bool_()),  # a region of many, which no single box answers for
]
_OF_A_SAMPLE = [
    pa.field(NAME, pa.string(), nullable=False),
    pa.field(SPLIT, pa.string()),
    pa.field(GROUP, pa.string()),
    pa.field(MASK_URI, pa.string()),
    pa.field(MASK_OFFSET, pa.int64()),
    pa.field(MASK_LENGTH, pa.int64()),
    pa.field(HEIGHT, pa.int32()),  # as an annotation file says; null elsewhere
    pa.field(WIDTH, pa.int32()),
]
# What a source says of its samples: labels are names.
NAMED = pa.schema(
    [
        *MANIFEST,
        *_OF_A_SAMPLE,
        pa.field(LABELS, pa.list_(pa.string())),
        pa.field(BOXES, pa.list_(pa.struct([pa.field(LABEL, pa.string()), *BOX_FIELDS]))),
    ]
)
# What probes take: labels are indices of class names.
LABELLED = pa.schema(
    [
        *MANIFEST,
        *_OF_A_SAMPLE,
        pa.field(LABELS, pa.list_(pa.int32())),
        pa.field(BOXES, pa.list_(pa.struct([pa.field(LABEL, pa.int32()), *BOX_FIELDS]))),
    ]
)


def image_at(size: int) -> str:
    """Name the column of centre crops of one size, where a block has several sizes."""
    return f"{IMAGE}_{size}"


def embeddings(
    vectors: Mapping[str, tuple[int, pa.DataType]], carried: list[pa.Field]
) -> pa.Schema:
    """Return the schema of exported embeddings.

    Args:
        vectors: Name of each column of vectors to their length and type.
        carried: Columns of the manifest, or of files beside the samples, that come along.
    """
    lists = [
        pa.field(name, pa.list_(kind, dim), nullable=False) for name, (dim, kind) in vectors.items()
    ]
    # of several artifacts the files' metadata tells the digests, by column
    digest = [pa.field(DIGEST, pa.string(), nullable=False)] if len(vectors) < 2 else []
    return pa.schema(
        [
            pa.field(SAMPLE_ID, pa.int64(), nullable=False),
            pa.field(URI, pa.string(), nullable=False),
            pa.field(MEMBER, pa.string()),  # as in the manifest
            pa.field(KEY, pa.string()),
            pa.field(CLIP, pa.int32()),  # as in the manifest
            pa.field(START_S, pa.float64()),  # of the frames embedded; null for an image
            pa.field(END_S, pa.float64()),
            *carried,
            *lists,
            *digest,
        ]
    )


def predictions(told: list[pa.Field]) -> pa.Schema:
    """Return the schema of predictions that tell these columns."""
    return pa.schema(
        [
            pa.field(SAMPLE_ID, pa.int64(), nullable=False),  # of a video that of its first clip
            pa.field(URI, pa.string(), nullable=False),
            pa.field(MEMBER, pa.string()),  # as in the manifest
            pa.field(KEY, pa.string()),
            pa.field(CLIPS, pa.int32(), nullable=False),
            *told,
            pa.field(DIGEST, pa.string(), nullable=False),
        ]
    )
