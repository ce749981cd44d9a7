"""The stated set of mutants: lines of the data plane, each changed so that it does harm.

A group names a module and the tests that should notice. A change replaces the one place where the
first text stands by the second. The set was chosen before tests were written for it.
"""

from tests.mutants.mutant import of
from tests.mutants.stated_jobs import EMBEDDINGS, LABELS, TRAINING

_STORAGE = [
    *of(
        "pipelines/storage/uris.py",
        "pipelines/storage/test_uris",
        ("                file.discard()", "                pass"),  # half an object is uploaded
    ),
    *of(
        "pipelines/storage/temporaries.py",
        "pipelines/storage/test_uris",
        ('f".{name}.{uuid', 'f"{name}.{uuid'),  # a temporary file that readers see
    ),
    *of(
        "pipelines/storage/conditional.py",
        "pipelines/storage/test_uris",
        ("os.link(file.name, path)", "os.replace(file.name, path)"),  # of two, the second wins
    ),
    *of(
        "pipelines/storage/retries.py",
        "faults/test_storage_faults",
        (" or time.monotonic() >= self._until", ""),
        ("code in _REFUSALS and status in (403, 409)", "status in (403, 409)"),
        ("2 ** min(16, next(self._attempts))", "1"),  # no back-off
        ("        RETRIES.add()\n", ""),
    ),
    *of(
        "pipelines/storage/clients/s3.py",
        "faults/test_storage_faults pipelines/storage/clients/test_credentials",
        ('"total_max_attempts": 1', '"total_max_attempts": 5'),
        ("if isinstance(credentials, RefreshableCredentials)", "if False"),
        ("minutes=10", "days=10"),
        ('[1] == "InvalidRange"', '[1] == "-"'),
    ),
    *of(
        "pipelines/storage/parquet_files.py",
        "faults/test_bytes_read",
        ('cache_type="none"', 'cache_type="readahead"'),
    ),
    *of(
        "pipelines/storage/small_files.py",
        "pipelines/storage/test_small_files",
        ("if {name for name in listed() if joined(name)} <= {*names}:", "if True:"),
        (
            "        except FileNotFoundError:\n            continue",
            "        finally:\n            pass",
        ),
    ),
    *of(
        "pipelines/storage/step_log.py",
        "pipelines/storage/test_step_log jobs/training/test_run_dir",
        ("return sorted(found,", "return (lambda x, key: list(x))(found,"),
        ("remove_many(folder, [name for", "remove_many(folder, [] and [name for"),
        ("1 + (self.lines >= LARGE)", "0"),
        ("min(part.first for part in run)", "run[-1].first"),
        ("else self.lines > 0", "else True"),
    ),
    *of(
        "pipelines/storage/lease.py",
        "pipelines/storage/test_lease",
        ("holder.token == self.token", "holder.token"),  # a folder deleted and taken anew
        ("if now != holder:", "if False:"),  # a living holder is taken over
        ("if not uris.create(_place(uri, last + 1)", "if uris.write_bytes(_place(uri, last + 1)"),
        ("                self._lost = lost\n", ""),
    ),
    *of(
        "pipelines/storage/processes.py",
        "pipelines/storage/test_lease",
        ("or int(fields[19]) != start ", ""),  # another process of its number
        ('return "stopped" if', 'return "alive" if'),
    ),
    *of(
        "pipelines/storage/spill.py",
        "pipelines/corpus/test_manifest pipelines/packing/test_pack_plan",
        ("(hashes >> 56) + NUM_BUCKETS // 2", "hashes % NUM_BUCKETS"),
    ),
]

_CORPUS = [
    *of(
        "pipelines/corpus/manifest_writer.py",
        "pipelines/corpus/test_manifest pipelines/corpus/test_manifest_versions",
        ("if gone > most * before.num_rows", "if False"),
        ("not uris.create(place", "uris.write_bytes(place"),  # two indexers at once
        ("if before and before.source.rstrip", "if False and before and before.source.rstrip"),
    ),
    *of(
        "pipelines/corpus/changes.py",
        "pipelines/corpus/test_manifest_versions pipelines/corpus/test_listing",
        ("    return table.take(pa.array(first))", "    return table"),
        ("Diff(self._fresh - changed, gone - changed", "Diff(self._fresh, gone"),
    ),
    *of(
        "pipelines/corpus/manifest.py",
        "pipelines/corpus/test_rows pipelines/corpus/test_manifest_versions",
        ("if self.parts[part].tombstones is None:", "if True:"),
        ("and not lies_in(root, table)", "and False"),
        ("np.arange(last - table.num_rows, last)", "np.arange(table.num_rows)"),
    ),
    *of(
        "pipelines/corpus/tar_members.py",
        "pipelines/corpus/test_tar_members",
        ("if member.offset_data + member.size > size else", "if False else"),
        (".get(keys[index], index) != index", ".get(keys[index], index) < 0"),
    ),
    *of(
        "pipelines/corpus/local_files.py",
        "pipelines/corpus/test_listing",
        ("% place.shares == place.share", "% place.shares >= 0"),
    ),
    *of(
        "pipelines/corpus/object_keys.py",
        "pipelines/corpus/test_listing",
        ('            return\n        options = {"Cont', '            pass\n        return {"Cont'),
    ),
    *of(
        "pipelines/corpus/listed_rows.py",
        "pipelines/corpus/test_rows pipelines/corpus/test_listing pipelines/corpus/test_manifest",
        ('[uri, member or "", str(clip), etag]', '[uri, member or "", str(clip)]'),
    ),
]

_MEDIA = [
    *of(
        "pipelines/media/contract.py",
        "pipelines/media/test_image pipelines/media/test_jpeg",
        ("if height * width > max_pixels", "if False"),
    ),
    *of(
        "pipelines/media/decoder.py",
        "pipelines/media/test_decoder pipelines/media/test_jpeg",
        ("TRIES = 2", "TRIES = 1"),
        ("if header.work > min(_MOST_WORK", "if 0 > min(_MOST_WORK"),
    ),
    *of(
        "pipelines/media/jpeg.py",
        "pipelines/media/test_image pipelines/media/test_jpeg pipelines/media/test_decoder",
        ("if not (truncated and allow_truncated)", "if not truncated"),
        ("if orientation in (3, 4, 7, 8)", "if orientation in (3, 4, 7)"),
    ),
    *of(
        "pipelines/media/clips.py",
        "pipelines/media/test_clips integration/test_videos",
        ("(index + draws[:, 0]) / self.per_video", "draws[:, 0]"),
        ("epoch=epoch, sample_id=sample_id", "epoch=0 * epoch, sample_id=sample_id"),
    ),
    *of(
        "pipelines/media/timeline.py",
        "pipelines/media/test_timeline pipelines/media/test_video",
        ("if duration_s > limits.max_duration_s", "if False"),
    ),
    *of(
        "pipelines/media/damage.py",
        "pipelines/media/test_timeline pipelines/media/test_video",
        ("return begin > size", "return False"),
    ),
]

_STREAM = [
    *of(
        "pipelines/stream/stretch.py",
        "pipelines/stream/test_plan pipelines/stream/test_plan_versions",
        ("stream=int(members[0])", "stream=0"),  # one permutation for all windows
        ("seed=seed, epoch=epoch, stream=-1)", "seed=seed, epoch=0, stream=-1)"),
        ("epoch=self.epoch, stream=int(", "epoch=0, stream=int("),
        ("self._addresses(index)[offset - begin :]", "self._addresses(index)"),
    ),
    *of(
        "pipelines/stream/ledger.py",
        "pipelines/stream/test_plan_versions",
        ("if span.position < self.position", "if span.position <= self.position"),
    ),
    *of(
        "pipelines/stream/payload.py",
        "pipelines/stream/test_payload pipelines/stream/test_ingest",
        (" or sum(map(_bytes, pieces)) >= 2 * PIECE_BYTES", ""),
        ("length > _most_bytes(rows, limits)", "length > 1 << 62"),
        ("fetch(whole, verify=verify)", "fetch(whole)"),
        ("(length > WHOLE_BYTES)", "(length < 0)"),
        ("yield from cut_by_bytes(joined, PIECE_BYTES)", "yield joined"),
        (" or size >= JOINED_BYTES", ""),
    ),
    *of(
        "pipelines/stream/ingest.py",
        "pipelines/stream/test_ingest pipelines/stream/test_payload",
        (", verify=ingest.verify)", ")"),
        ("quarantine.write(ingest.quarantine,", "str("),
        ("if len(bad) > known and", "if len(bad) > known + 1 and"),
    ),
    *of(
        "pipelines/stream/sealed.py",
        "pipelines/stream/test_ingest",
        ("preserve_order = True", "preserve_order = False"),
    ),
    *of(
        "pipelines/stream/fetch.py",
        "pipelines/stream/test_fetch faults/test_storage_faults",
        ("if len(data) < length", "if False"),
        ("data, found = read(uri, start, stop - start, etag)\n    except", "pass\n    except"),
        ("not in answering and not uris.hands_out_others(uri)", "not in answering"),
    ),
    *of(
        "pipelines/stream/quarantine.py",
        "pipelines/stream/test_quarantine",
        ("epoch[order[1:]] == epoch[order[:-1]]", "True"),
        ("(time, sample_id, epoch)", "(-time, sample_id, epoch)"),
        ("    write_table(uris.join(folder, name), rows)\n    remove_many", "    remove_many"),
        ("    remove_many(folder, [other for other in names if other != name])\n", ""),
        ('f"{item}-{_hash(keys)}.parquet"', 'f"{item}.parquet"'),
    ),
    *of(
        "pipelines/ray_tasks.py",
        "pipelines/test_ray_tasks",
        (' | {"max_retries": MAX_RETRIES}', ""),
        ('"max_task_retries": MAX_RETRIES', '"max_task_retries": -1'),
    ),
]

_PACKING = [
    *of(
        "pipelines/packing/shards.py",
        "jobs/test_pack pipelines/test_ray_tasks",
        ('if f"{number:06d}.parquet" not in there', "if True"),
        ("bad.append(_bad_row(row, problem, stage))", "pass"),
        ("written = map_in_tasks(dataset,", "written = dataset.map_batches("),
    ),
    *of(
        "pipelines/packing/pack_plan.py",
        "pipelines/packing/test_pack_plan",
        ("TAR_BLOCK + np.ceil(length / TAR_BLOCK) * TAR_BLOCK", "length"),
        ("pc.fill_null(pc.equal(table[schema.CLIP], 0), True)", "pc.is_valid(table[schema.URI])"),
    ),
    *of(
        "pipelines/packing/parquet_source.py",
        "jobs/test_pack",
        ("{file.uri}\\0{file.etag}", "{file.uri}"),
    ),
    *of(
        "jobs/pack.py",
        "jobs/test_pack",
        ("        bad.check(final=True)\n", ""),
        ("        bad.check()\n", ""),
    ),
]

STATED = (*_STORAGE, *_CORPUS, *_MEDIA, *_STREAM, *_PACKING, *LABELS, *EMBEDDINGS, *TRAINING)
