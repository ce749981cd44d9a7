"""The stated mutants of labels, embeddings and training."""

from tests.mutants.mutant import of

LABELS = [
    *of(
        "pipelines/labels/validation_draw.py",
        "pipelines/labels/test_validation_draw",
        ("spared = all(left[kind] > count", "spared = all(left[kind] >= count"),
        ('f"group\\0{group}"].append', 'f"group\\0{group}{name}"].append'),  # groups are torn
    ),
    *of(
        "pipelines/labels/paired_paths.py",
        "pipelines/labels/test_paired_paths",
        ("and len(files) > 1", "and len(files) > 2"),
    ),
    *of(
        "pipelines/labels/label_tables.py",
        "pipelines/labels/test_label_tables",
        ("first.items() if place not in conflicts", "first.items()"),
        ("elif len(row) != len(names):", "elif False:"),
    ),
    *of(
        "pipelines/labels/coco.py",
        "pipelines/labels/test_coco",
        ('float(image.get("width") or right)', "right"),
        ("set(part.images) & set(every.images)", "set()"),  # one name in two files
    ),
    *of(
        "pipelines/labels/labelled_rows.py",
        "pipelines/labels/test_class_folders pipelines/labels/test_coco",
        ('return unicodedata.normalize("NFC", text)', "return text"),
    ),
    *of(
        "pipelines/labels/labelled_stream.py",
        "pipelines/labels/test_labelled_source",
        ("_permutation(size, self.seed, epoch)", "_permutation(size, self.seed, 0)"),
    ),
    *of(
        "pipelines/labels/near_duplicates.py",
        "pipelines/labels/test_near_duplicates jobs/adaptation/test_leak_check",
        ("wanted.mirrored[usable].tobytes()", "wanted.upright[usable].tobytes()"),
    ),
    *of(
        "jobs/adaptation/labelled_sets.py",
        "jobs/adaptation/test_labelled_sets",
        ("np.isin(ids, seen)", "np.isin(ids, [])"),
        ("lost = [bool(before) and not after for", "lost = [False for"),
    ),
]

EMBEDDINGS = [
    *of(
        "pipelines/embeddings/sinks.py",
        "pipelines/embeddings/test_sinks jobs/test_export",
        ("if not end - start == len(position) == stop - start:", "if False:"),
        ("name.partition('.')[0]", "name.rpartition('.')[0]"),
    ),
    *of(
        "pipelines/embeddings/parts.py",
        "pipelines/embeddings/test_parts",
        ("stop = rows[1] if end == last else self.stored(end)", "stop = self.stored(end - 1) + 1"),
        ("        at = max(at, stop)", "        at = start"),
    ),
    *of(
        "jobs/export.py",
        "jobs/test_export",
        ("                self._bad_samples(seen).check()", "                pass"),
        ("        bad.check(final=True)\n", ""),
        ('verify=self.config.source.verify == "etag"', "verify=False"),
    ),
]

TRAINING = [
    *of(
        "jobs/training/planned_data.py",
        "jobs/training/test_planned_data",
        ('verify=config.source.verify == "etag"', "verify=False"),
        ("// (world_size * config.accumulate)", "// world_size"),
        ('photometric=self.placement == "decode"', "photometric=False"),
    ),
    *of(
        "jobs/training/steering/control.py",
        "jobs/training/steering/test_control",
        (" or bool(leaving - self._leaving)", ""),
        (" | 2 * int(self._stop_wanted.ask())", ""),
        ("            self._saved = now\n", ""),
    ),
    *of(
        "jobs/training/run_dir.py",
        "jobs/training/test_run_dir jobs/setup/test_claims",
        ("attempt = 1 + max(", "attempt = 0 + max("),
        ("if self.has_steps():", "if False:"),
    ),
    *of(
        "jobs/training/run_log.py",
        "jobs/training/test_run_log integration/test_bad_fraction",
        ("        if misplaced:\n", "        if False:\n"),
        ("if too_many := self.bad.problem():", "if too_many := None:"),
    ),
    *of(
        "jobs/training/checkpoints.py",
        "jobs/training/test_checkpoints",
        ("in reversed(names) if", "in names if"),
        ('== contents["bytes"])', '>= 0 * contents["bytes"])'),
    ),
    *of(
        "jobs/training/steering/monitor.py",
        "jobs/training/steering/test_monitor",
        ("max_restarts=-1", "max_restarts=0"),
    ),
    *of(
        "jobs/training/steering/controller.py",
        "jobs/training/steering/test_controller jobs/training/test_planned_data",
        ("if step > self._step", "if step >= self._step"),
        ("[(seen.position, self._stop)]", "[(0, self._stop)]"),
        ("rows = self._rows // world_size", "rows = self._rows"),
    ),
    *of(
        "jobs/training/state.py",
        "jobs/training/test_state",
        ('self.samples_seen = saved.get("samples_seen", 0)', "self.samples_seen = 0"),
        ('self.step = saved["step"]', "self.step = 0"),
    ),
    *of(
        "jobs/training/worker.py",
        "faults/test_one_cluster",
        (
            "            training.save(wait=True)\n            log.close()",
            "            log.close()",
        ),
        (" + collectives.rank() * micro", ""),
    ),
    *of(
        "jobs/training/fit.py",
        "faults/test_one_cluster",
        ("                monitor.stop.remote()", "                pass"),
    ),
    *of(
        "jobs/cluster/launch.py",
        "jobs/cluster/test_launch",
        ("FORWARDED = (*WORKER_ENV,", 'FORWARDED = (*WORKER_ENV, "AWS_SECRET_ACCESS_KEY",'),
    ),
    *of(
        "jobs/cluster/share.py",
        "jobs/cluster/test_share",
        ("and num_nodes > 1 and not cluster.shared_fs", "and False"),
    ),
]
