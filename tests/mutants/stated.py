"""The stated set of mutants: lines of the data plane, each changed so that it does harm.

A group names a module and the tests that should notice. A change replaces the one place where the
first text stands by the second. The set was chosen before tests were written for it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change to one module.

    Attributes:
        path: The module.
        before: What stands there, once.
        after: What takes its place.
        tests: Files of tests, or folders of them, that should fail.
        where: For people, where the texts do not say it.
    """

    path: str
    before: str
    after: str
    tests: tuple[str, ...]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.where or f'{self.before.strip()!r} -> {self.after.strip()!r}'}"


def _of(path: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    """Make the mutants of a module; tests are named below `tests/`, without their suffix."""
    files = tuple(f"tests/{name}.py" for name in tests.split())
    return [Mutant(path, before, after, files) for before, after in changes]


_STORAGE = [
    *_of(
        "pipelines/storage/uris.py",
        "pipelines/storage/test_uris",
        ("                file.discard()", "                pass"),  # half an object is uploaded
    ),
    *_of(
        "pipelines/storage/temporaries.py",
        "pipelines/storage/test_uris",
        ('f".{name}.{uuid', 'f"{name}.{uuid'),  # a temporary file that readers see
    ),
    *_of(
        "pipelines/storage/conditional.py",
        "pipelines/storage/test_uris",
        ("os.link(file.name, path)", "os.replace(file.name, path)"),  # of two, the second wins
    ),
    *_of(
        "pipelines/storage/retries.py",
        "faults/test_storage_faults",
        (" or time.monotonic() >= self._until", ""),
        ("code in _REFUSALS and status in (403, 409)", "status in (403, 409)"),
        ("2 ** min(16, next(self._attempts))", "1"),  # no back-off
        ("        RETRIES.add()\n", ""),
    ),
    *_of(
        "pipelines/storage/clients/s3.py",
        "faults/test_storage_faults pipelines/storage/clients/test_credentials",
        ('"total_max_attempts": 1', '"total_max_attempts": 5'),
        ("if isinstance(credentials, RefreshableCredentials)", "if False"),
        ("minutes=10", "days=10"),
        ('[1] == "InvalidRange"', '[1] == "-"'),
    ),
    *_of(
        "pipelines/storage/parquet_files.py",
        "faults/test_bytes_read",
        ('cache_type="none"', 'cache_type="readahead"'),
    ),
    *_of(
        "pipelines/storage/small_files.py",
        "pipelines/storage/test_small_files",
        ("if {name for name in listed() if joined(name)} <= {*names}:", "if True:"),
        (
            "        except FileNotFoundError:\n            continue",
            "        finally:\n            pass",
        ),
    ),
    *_of(
        "pipelines/storage/step_log.py",
        "pipelines/storage/test_step_log jobs/training/test_run_dir",
        ("return sorted(found,", "return (lambda x, key: list(x))(found,"),
        ("remove_many(folder, [name for", "remove_many(folder, [] and [name for"),
        ("1 + (self.lines >= LARGE)", "0"),
        ("min(part.first for part in run)", "run[-1].first"),
        ("else self.lines > 0", "else True"),
    ),
    *_of(
        "pipelines/storage/spill.py",
        "pipelines/corpus/test_manifest pipelines/packing/test_pack_plan",
        ("(hashes >> 56) + NUM_BUCKETS // 2", "hashes % NUM_BUCKETS"),
    ),
]

_CORPUS = [
    *_of(
        "pipelines/corpus/manifest_writer.py",
        "pipelines/corpus/test_manifest pipelines/corpus/test_manifest_versions",
        ("if gone > most * before.num_rows", "if False"),
        ("not uris.create(place", "uris.write_bytes(place"),  # two indexers at once
        ("if before and before.source.rstrip", "if False and before and before.source.rstrip"),
    ),
    *_of(
        "pipelines/corpus/changes.py",
        "pipelines/corpus/test_manifest_versions pipelines/corpus/test_listing",
        ("    return table.take(pa.array(first))", "    return table"),
        ("Diff(self._fresh - changed, gone - changed", "Diff(self._fresh, gone"),
    ),
    *_of(
        "pipelines/corpus/manifest.py",
        "pipelines/corpus/test_manifest pipelines/corpus/test_manifest_versions",
        ("if self.parts[part].tombstones is None:", "if True:"),
        ("and not lies_in(root, table)", "and False"),
        ("np.arange(last - table.num_rows, last)", "np.arange(table.num_rows)"),
    ),
    *_of(
        "pipelines/corpus/tar_members.py",
        "pipelines/corpus/test_tar_members",
        ("if member.offset_data + member.size > size else", "if False else"),
        (".get(keys[index], index) != index", ".get(keys[index], index) < 0"),
    ),
    *_of(
        "pipelines/corpus/local_files.py",
        "pipelines/corpus/test_listing",
        ("% place.shares == place.share", "% place.shares >= 0"),
    ),
    *_of(
        "pipelines/corpus/object_keys.py",
        "pipelines/corpus/test_listing",
        ('            return\n        options = {"Cont', '            pass\n        return {"Cont'),
    ),
    *_of(
        "pipelines/corpus/listed_rows.py",
        "pipelines/corpus/test_rows pipelines/corpus/test_listing pipelines/corpus/test_manifest",
        ('[uri, member or "", str(clip), etag]', '[uri, member or "", str(clip)]'),
    ),
]

_MEDIA = [
    *_of(
        "pipelines/media/contract.py",
        "pipelines/media/test_image pipelines/media/test_jpeg",
        ("if height * width > max_pixels", "if False"),
    ),
    *_of(
        "pipelines/media/decoder.py",
        "pipelines/media/test_decoder pipelines/media/test_jpeg",
        ("TRIES = 2", "TRIES = 1"),
        ("if header.work > min(_MOST_WORK", "if 0 > min(_MOST_WORK"),
    ),
    *_of(
        "pipelines/media/jpeg.py",
        "pipelines/media/test_image pipelines/media/test_jpeg pipelines/media/test_decoder",
        ("if not (truncated and allow_truncated)", "if not truncated"),
        ("if orientation in (3, 4, 7, 8)", "if orientation in (3, 4, 7)"),
    ),
    *_of(
        "pipelines/media/clips.py",
        "pipelines/media/test_clips integration/test_videos",
        ("(index + self._draw(rows)) / self.per_video", "self._draw(rows)"),
        ("epoch=epoch, sample_id=sample_id", "epoch=0 * epoch, sample_id=sample_id"),
    ),
    *_of(
        "pipelines/media/timeline.py",
        "pipelines/media/test_timeline pipelines/media/test_video",
        ("if duration_s > limits.max_duration_s", "if False"),
    ),
    *_of(
        "pipelines/media/damage.py",
        "pipelines/media/test_timeline pipelines/media/test_video",
        ("return begin > size", "return False"),
    ),
]

_STREAM = [
    *_of(
        "pipelines/stream/stretch.py",
        "pipelines/stream/test_plan pipelines/stream/test_plan_versions",
        ("stream=int(members[0])", "stream=0"),  # one permutation for all windows
        ("seed=seed, epoch=epoch, stream=-1)", "seed=seed, epoch=0, stream=-1)"),
        ("epoch=self.epoch, stream=int(", "epoch=0, stream=int("),
        ("self._addresses(index)[offset - begin :]", "self._addresses(index)"),
    ),
    *_of(
        "pipelines/stream/ledger.py",
        "pipelines/stream/test_plan_versions",
        ("if span.position < self.position", "if span.position <= self.position"),
    ),
    *_of(
        "pipelines/stream/payload.py",
        "pipelines/stream/test_payload pipelines/stream/test_ingest",
        (" or sum(map(_bytes, pieces)) >= 2 * PIECE_BYTES", ""),
        ("length > limits.max_bytes", "length > 1 << 62"),
        ("fetch(whole, verify=verify)", "fetch(whole)"),
        ("(length > WHOLE_BYTES)", "(length < 0)"),
        ("yield from cut_by_bytes(joined, PIECE_BYTES)", "yield joined"),
        (" or size >= JOINED_BYTES", ""),
    ),
    *_of(
        "pipelines/stream/ingest.py",
        "pipelines/stream/test_ingest pipelines/stream/test_payload",
        (", verify=ingest.verify)", ")"),
        ("preserve_order = True", "preserve_order = False"),
        ("quarantine.write(ingest.quarantine,", "str("),
        ("bad: list[dict[str, Any]] = []", "bad: list[dict[str, Any]] = locals().get('bad', [])"),
    ),
    *_of(
        "pipelines/stream/fetch.py",
        "pipelines/stream/test_fetch faults/test_storage_faults",
        ("if len(data) < length", "if False"),
        ("data, found = read(uri, start, stop - start, etag)\n    except", "pass\n    except"),
        ("not in answering and not uris.hands_out_others(uri)", "not in answering"),
    ),
    *_of(
        "pipelines/stream/quarantine.py",
        "pipelines/stream/test_quarantine",
        ("epoch[order[1:]] == epoch[order[:-1]]", "True"),
        ("(time, sample_id, epoch)", "(-time, sample_id, epoch)"),
        ("    _write(folder, name, rows)\n    remove_many", "    remove_many"),
        ("    remove_many(folder, [other for other in names if other != name])\n", ""),
        ('f"{item}-{_hash(keys)}.parquet"', 'f"{item}.parquet"'),
    ),
    *_of(
        "pipelines/ray_tasks.py",
        "pipelines/test_ray_tasks",
        (' | {"max_retries": MAX_RETRIES}', ""),
        ('"max_task_retries": MAX_RETRIES', '"max_task_retries": -1'),
    ),
]

_PACKING = [
    *_of(
        "pipelines/packing/shards.py",
        "jobs/test_pack pipelines/test_ray_tasks",
        ('if f"{number:06d}.parquet" not in there', "if True"),
        ("bad.append(_bad_row(row, problem, stage))", "pass"),
        ("written = map_in_tasks(dataset,", "written = dataset.map_batches("),
    ),
    *_of(
        "pipelines/packing/pack_plan.py",
        "pipelines/packing/test_pack_plan",
        ("TAR_BLOCK + np.ceil(length / TAR_BLOCK) * TAR_BLOCK", "length"),
        ("pc.fill_null(pc.equal(table[schema.CLIP], 0), True)", "pc.is_valid(table[schema.URI])"),
    ),
    *_of(
        "pipelines/packing/parquet_source.py",
        "jobs/test_pack",
        ("{file.uri}\\0{file.etag}", "{file.uri}"),
    ),
    *_of(
        "jobs/pack.py",
        "jobs/test_pack",
        ("        bad.check(final=True)\n", ""),
        ("        bad.check()\n", ""),
    ),
]

_EMBEDDINGS = [
    *_of(
        "pipelines/embeddings/sinks.py",
        "pipelines/embeddings/test_sinks jobs/test_export",
        ("if start % self.part_rows or not len(position)", "if False and not len(position)"),
        ("(start, min(start + part_rows, num_rows))", "(start, start + part_rows)"),
        ("name.partition('.')[0]", "name.rpartition('.')[0]"),
    ),
    *_of(
        "jobs/export.py",
        "jobs/test_export",
        ("            _bad_samples(config, out, seen).check()", "            pass"),
        ("    bad.check(final=True)\n", ""),
        ('verify=config.source.verify == "etag"', "verify=False"),
    ),
]

_TRAINING = [
    *_of(
        "jobs/training/planned_data.py",
        "jobs/training/test_planned_data",
        ('verify=config.source.verify == "etag"', "verify=False"),
        ("[(self._run.ledger().position, stop)]", "[(0, stop)]"),
        ("// (world_size * config.accumulate)", "// world_size"),
        ('photometric=self._placement == "decode"', "photometric=False"),
    ),
    *_of(
        "jobs/training/control.py",
        "jobs/training/test_control",
        (" or bool(leaving - self._leaving)", ""),
        (" | 2 * int(self._stop_wanted())", ""),
        ("            self._saved = now\n", ""),
    ),
    *_of(
        "jobs/training/run_dir.py",
        "jobs/training/test_run_dir jobs/setup/test_claims",
        ("attempt = 1 + max(", "attempt = 0 + max("),
        ("if self.has_steps():", "if False:"),
    ),
    *_of(
        "jobs/training/run_log.py",
        "jobs/training/test_run_log integration/test_bad_fraction",
        ("        if misplaced:\n", "        if False:\n"),
        ("if too_many := self.bad.problem():", "if too_many := None:"),
    ),
    *_of(
        "jobs/training/checkpoints.py",
        "jobs/training/test_checkpoints",
        ("in reversed(names) if", "in names if"),
        ('== contents["bytes"])', '>= 0 * contents["bytes"])'),
    ),
    *_of(
        "jobs/training/monitor.py",
        "jobs/training/test_monitor",
        ("if step > self._step", "if step >= self._step"),
        ("max_restarts=-1", "max_restarts=0"),
    ),
    *_of(
        "jobs/training/state.py",
        "jobs/training/test_state",
        ('self.samples_seen = saved.get("samples_seen", 0)', "self.samples_seen = 0"),
        ('self.step = saved["step"]', "self.step = 0"),
    ),
    *_of(
        "jobs/training/worker.py",
        "faults/test_one_cluster",
        ("            save(wait=True)\n            log.close()", "            log.close()"),
        (" + collectives.rank() * micro", ""),
    ),
    *_of(
        "jobs/training/fit.py",
        "faults/test_one_cluster",
        ("                monitor.stop.remote()", "                pass"),
    ),
    *_of(
        "jobs/cluster/launch.py",
        "jobs/cluster/test_launch",
        ("FORWARDED = (*WORKER_ENV,", 'FORWARDED = (*WORKER_ENV, "AWS_SECRET_ACCESS_KEY",'),
    ),
    *_of(
        "jobs/cluster/share.py",
        "faults/test_one_cluster",
        ("and num_nodes > 1 and not cluster.shared_fs", "and False"),
    ),
]

STATED = (*_STORAGE, *_CORPUS, *_MEDIA, *_STREAM, *_PACKING, *_EMBEDDINGS, *_TRAINING)
