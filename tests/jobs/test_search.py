"""jobs.search: neighbours of files and of samples, of members and clips too, as rows and as a
picture."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs import search as job
from jobs.search import SearchConfig, search
from jobs.searching.sample_rows import Sample, read
from jobs.setup.command_line import InputError, main
from models import artifact
from pipelines import schema
from pipelines.corpus.listed_rows import sample_id
from pipelines.embeddings.features import Extractor, Features, Form
from pipelines.embeddings.provenance import Provenance, VectorColumn
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.stream.shapes import Centre
from tests.captioned import save_captioned
from tests.object_store import ObjectStore
from tests.pipelines.media.videos import video

CELL = 112
PER_VIDEO = 2


@pytest.fixture(scope="module")
def corpus(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loose images, a shard with images, and a video that changes."""
    root = tmp_path_factory.mktemp("corpus")
    for scene in ("scene0", "scene3", "scene6"):
        for number in range(8):
            name = f"{number:02d}.{'png' if number % 5 == 0 else 'jpg'}"
            shutil.copy(image_folder / scene / name, root / f"{scene}-{name}")
    with tarfile.open(root / "shard.tar", "w") as tar:
        for number in range(1, 5):
            tar.add(image_folder / "scene1" / f"{number:02d}.jpg", f"cats/{number:02d}.jpg")
    (root / "clip.mp4").write_bytes(video(50, rate=25))
    return root


def samples_of(corpus: Path) -> list[Sample]:
    shard = str(corpus / "shard.tar")
    images = [Sample(str(path)) for path in sorted(corpus.glob("scene*"))]
    members = [Sample(shard, f"cats/{number:02d}.jpg") for number in range(1, 5)]
    clips = [Sample(str(corpus / "clip.mp4"), None, clip) for clip in range(PER_VIDEO)]
    return [*images, *members, *clips]


def identity(sample: Sample) -> int:
    return sample_id(sample.uri, sample.member, "", sample.clip or 0)


def export(
    corpus: Path,
    encoder: str,
    out: Path,
    part_rows: int = 12,
    taken: Form = "pooled",
    **changes: Any,
) -> None:
    """Write what jobs.export writes, without Ray."""
    loaded = artifact.load(encoder)
    samples = samples_of(corpus)
    sampling = Sampling(per_video=PER_VIDEO)
    seen = read(samples, Centre(loaded.image_size), Limits(), sampling=sampling)
    assert not any(seen.problems)
    features = Features(encoder, form=taken)
    images = torch.from_numpy(seen.columns[schema.IMAGE])
    found = Extractor({schema.EMBEDDING: features})({loaded.image_size: images})
    vectors = found[schema.EMBEDDING].numpy()
    column = replace(VectorColumn.of(features, loaded, vectors.shape[1:]), **changes)
    told = Provenance(str(corpus), 1, {schema.EMBEDDING: column})
    kinds = {schema.EMBEDDING: (vectors.shape[1], pa.float32())}
    kind = schema.embeddings(kinds, []).with_metadata(told.metadata())
    (out / "embeddings").mkdir(parents=True)
    for start in range(0, len(samples), part_rows):
        some = samples[start : start + part_rows]
        values = pa.array(vectors[start : start + part_rows].reshape(-1))
        times = [None if each.clip is None else each.clip + 0.5 for each in some]
        table = pa.table(
            {
                schema.SAMPLE_ID: [identity(each) for each in some],
                schema.URI: [each.uri for each in some],
                schema.MEMBER: [each.member for each in some],
                schema.KEY: [each.member for each in some],
                schema.CLIP: pa.array([each.clip for each in some], pa.int32()),
                schema.START_S: pa.array(times, pa.float64()),
                schema.END_S: pa.array(times, pa.float64()),
                schema.EMBEDDING: pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
                schema.DIGEST: [loaded.digest] * len(some),
            },
            schema=kind,
        )
        name = f"part-{start:012d}-{start + len(some):012d}.parquet"
        pq.write_table(table, out / "embeddings" / name)


@pytest.fixture(scope="module")
def exported(corpus: Path, small_artifact: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    export(corpus, small_artifact, out)
    return out


def config(embeddings: Path | str, query: Any, **more: Any) -> SearchConfig:
    values = {"embeddings": str(embeddings), "query": query, "k": 5}
    return SearchConfig.model_validate(values | more)


def exact(exported: Path, query: int, k: int) -> list[int]:
    """Return the sample ids nearest to a sample, by NumPy."""
    table = pq.read_table(exported / "embeddings")
    vectors = np.stack(table[schema.EMBEDDING].to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.array(table[schema.SAMPLE_ID])
    cosine = vectors @ vectors[ids == query][0]
    order = [row for row in np.argsort(-cosine) if ids[row] != query]
    return [int(ids[row]) for row in order[:k]]


def test_samples_members_clips_and_files_find_their_nearest_and_the_sheet_shows_them(
    exported: Path, corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "exported")
    image, member, clip = (samples_of(corpus)[index] for index in (3, -4, -1))
    copy = tmp_path / "same.jpg"
    shutil.copy(image.uri, copy)
    words = [identity(image), f"{member.uri}/{member.member}", clip.uri, str(copy)]
    out = tmp_path / "sheet.png"
    (corpus / "scene6-07.jpg").rename(tmp_path / "away.jpg")
    try:
        told = search(config(tmp_path / "exported", words, k=12, out=str(out)))
    finally:
        (tmp_path / "away.jpg").rename(corpus / "scene6-07.jpg")
    by_id, by_member, by_video, by_file = told["answers"]

    for answer, sample in ((by_id, image), (by_member, member)):
        ids = [one[schema.SAMPLE_ID] for one in answer["neighbours"]]
        assert ids == exact(exported, identity(sample), 12)
    own = {one[schema.URI] for one in by_video["neighbours"]}
    assert by_video["in_corpus"] and clip.uri not in own  # both of its clips are the query
    first = by_file["neighbours"][0]
    assert (first["rank"], first[schema.URI], first["similarity"]) == (1, image.uri, 1.0)
    assert not by_file["in_corpus"]
    assert told["index_built"] and told["index"]["recall"] == 1
    assert told["rows"] == len(samples_of(corpus))
    assert str(told["result"]).splitlines()[-1] == str(out)

    sheet = np.asarray(Image.open(out))
    assert sheet.shape[1] > 11 * CELL
    with Image.open(image.uri) as query:  # the first cell is the query itself
        assert abs(sheet[70:170, 30:120].mean() - np.asarray(query.convert("RGB")).mean()) < 30


def test_an_index_is_kept_until_the_embeddings_change(
    exported: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    shutil.copytree(exported, out)
    wanted = config(out, identity(samples_of(corpus)[0]))
    assert [search(wanted)["index_built"] for _ in range(2)] == [True, False]
    part = sorted((out / "embeddings").iterdir())[1]
    pq.write_table(pq.read_table(part).slice(0, 5), part)
    again = search(wanted)
    assert again["index_built"] and again["rows"] == len(samples_of(corpus)) - 7
    assert len(list((out / "index").glob("*.faiss"))) == 1
    assert not (out / "index" / ".lease").exists()

    (out / "index" / json.loads((out / "index/index.json").read_text())["file"]).write_bytes(b"no")
    assert search(wanted)["index_built"]


def test_a_search_in_a_bucket_keeps_its_index_and_picture_there(
    exported: Path,
    corpus: Path,
    object_store: ObjectStore,
    put_folder: Callable[[Path, str], None],
) -> None:
    bucket = object_store.make_bucket("search")
    put_folder(exported, f"{bucket}/exported")
    query = identity(samples_of(corpus)[0])
    out = f"{bucket}/pictures/sheet.png"
    wanted = config(f"{bucket}/exported", query, out=out)
    first = search(wanted)
    assert first["index_built"] and not search(wanted)["index_built"]
    ids = [one[schema.SAMPLE_ID] for one in first["answers"][0]["neighbours"]]
    assert ids == exact(exported, query, 5)
    data = object_store.filesystem().cat_file(out.removeprefix("s3://"))
    assert Image.open(io.BytesIO(data)).width > 5 * CELL


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the last line of stderr."""
    code = main("search", "", lambda values: (SearchConfig, values), search, list(words))
    return code, capsys.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_searched_is_one_line(
    exported: Path,
    corpus: Path,
    small_artifact: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_artifact, other)
    description = json.loads((other / "artifact.json").read_text())
    artifact.save(
        str(other),
        artifact.load(small_artifact).encoder,
        config=description["config"] | {"seed": 1},
        preprocess=description["preprocess"],
        provenance={},
    )
    maps = tmp_path / "maps"
    export(corpus, small_artifact, maps, form="maps")
    moved = tmp_path / "moved"
    export(corpus, small_artifact, moved, artifact="/nowhere")
    mixed = tmp_path / "mixed"
    shutil.copytree(moved, mixed)
    export(corpus, small_artifact, tmp_path / "gem", pooling="gem")
    for part in sorted((tmp_path / "gem" / "embeddings").iterdir())[1:]:
        shutil.copy(part, mixed / "embeddings" / part.name)
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    picture = f"query={corpus / 'scene0-01.jpg'}"
    copy = tmp_path / "copy.jpg"
    shutil.copy(corpus / "scene0-01.jpg", copy)
    here = f"embeddings={exported}"
    cases = {
        (here, "query=17"): "query 17 is no sample_id of",
        (here, "query=/no/such.jpg"): "query /no/such.jpg is neither a file nor a sample of",
        (here, f"query={text}"): f"query {text} cannot be used: no image",
        (here, picture, "k=31"): "k 31 is more than the 30 rows of",
        (here, picture, "k=0"): "k: input should be greater than or equal to 1",
        (here, picture, "out=sheet.jpg"): "out must be FILE.png",
        (here, f"query={copy}", f"artifact={other}"): "is another encoder",
        (f"embeddings={corpus}", picture): "holds no embeddings: give the out of jobs.export",
        ("embeddings=/no/where", picture): "embeddings /no/where does not exist",
        (f"embeddings={maps}", picture): "holds maps, and a search compares one vector",
        (f"embeddings={mixed}", picture): "hold vectors of two encoders",
        (f"embeddings={moved}", f"query={copy}"): "lay at /nowhere, which is gone: give",
        (here, picture, f"index={text}"): f"index {text} cannot be a folder: {text} is a file",
    }
    for words, line in cases.items():
        code, said = answered(capsys, *words)
        assert code == 2, (words, said)
        assert said.startswith("error: ") and line in said, (words, said)


def test_a_search_starts_no_ray(
    exported: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", never)
    assert job.search(config(exported, str(corpus / "scene0-01.jpg")))["answers"]


def test_words_find_the_samples_whose_embedding_is_nearest_to_theirs(
    corpus: Path, tmp_path: Path, small_artifact: str
) -> None:
    encoder = str(tmp_path / "pairs")
    save_captioned(encoder)
    export(corpus, encoder, tmp_path / "joint", taken="joint")
    out = tmp_path / "found.png"
    told = search(
        config(tmp_path / "joint", [], text="a dog on grass", artifact=encoder, k=4, out=str(out))
    )
    table = pq.read_table(tmp_path / "joint" / "embeddings")
    vectors = np.stack(table[schema.EMBEDDING].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosine = vectors @ artifact.load(encoder).embed_texts(["a dog on grass"]).numpy()[0]
    ids = np.array(table[schema.SAMPLE_ID])[np.argsort(-cosine)[:4]].tolist()
    (answer,) = told["answers"]
    assert answer["query"] == "a dog on grass" and not answer["in_corpus"]
    assert [one["sample_id"] for one in answer["neighbours"]] == ids
    assert Image.open(out).height > CELL
    # beside a picture, whose embedding is the joint one too
    photo = str(next(corpus.glob("scene0-01*")))
    both = search(config(tmp_path / "joint", photo, text=["a cat"], artifact=encoder, k=2))
    assert [one["query"] for one in both["answers"]] == [photo, "a cat"]
    with pytest.raises(InputError, match=r'neither a file nor a sample .* or words as text="'):
        search(config(tmp_path / "joint", "a dog on grass", artifact=encoder))


def test_words_are_refused_where_embeddings_are_not_compared_with_texts(
    exported: Path, small_artifact: str
) -> None:
    with pytest.raises(InputError, match=r"text needs .* form=pooled: export .* form=joint"):
        search(config(exported, [], text="a dog", artifact=small_artifact))
    with pytest.raises(ValueError, match="query is empty"):
        config(exported, [])
