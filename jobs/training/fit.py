"""Trains: starts the workers through Ray Train, shows what they log, and passes signals on."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import ray
from ray import cloudpickle
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cluster.available import largest_store
from jobs.cluster.gauges import SilenceGauge
from jobs.cluster.process_group import ProcessGroup
from jobs.cluster.ray_cluster import ControllerTeller
from jobs.cluster.share import Session
from jobs.cluster.waiting import EVERY_S, still_lacking, taken_by_others
from jobs.setup.failures import Failure
from jobs.tracking.tracker import Trackers, wanted
from jobs.training import checkpoints
from jobs.training.planned_data import PlannedData, Samples, check_batch_fits, resolve
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir, code_commit
from jobs.training.steering.controller import FailureRule, OrderedStreams, TooManyFailures
from jobs.training.steering.monitor import Question, answer, start_monitor
from jobs.training.training_job import TrainingJob
from jobs.training.worker import train_worker
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import quarantine

POLL_S = 0.5
STARTING = "starting the training workers"
GROW_S = 60.0  # how often a run with a range of workers looks for room, at least
ENDS_S = 20.0  # for Ray Train's controller to end once it is asked to
PATIENCE_S = 2.0  # what takes longer is named
SLOWER = 2  # times as long as to the line before a line must take for that to be said
NARROWEST = 80
# In which order the columns of a step line go where they do not fit; number and loss stay.
LEAST_WANTED = ("mem", "rank", "lr", "std", "wait", "img/s")


def fit(
    config: PretrainConfig,
    run: RunDir,
    samples: Samples,
    num_steps: int,
    session: Session,
    mine: Held,
) -> bool:
    """Train to the last step and write the artifact; False where a signal stopped it before.

    Raises:
        InputError: no node can hold a worker's batch.
        Lost: another job has taken the run directory over.
    """
    placement = resolve(config.placement, session)
    data = PlannedData(
        config, samples, run, num_steps, placement=placement, view_actors=session.view_actors
    )
    check_batch_fits(data.work(session.min_workers), largest_store())
    job = TrainingJob(
        config=config,
        num_steps=num_steps,
        num_rows=samples.num_stored,
        epoch_samples=samples.num_samples,
        threads=session.threads_per_worker,
        photometric_done=placement != "worker",
        manifest=samples.manifest,
        targets=samples.targets,
        ledger=samples.ledger,
        monitor=start_monitor(),
        commit=code_commit(),
        fence=mine.fence,
    )
    done = run.committed_step()
    silent = SilenceGauge(run.uri).show
    progress = StepProgress(num_steps, done, partial(still_lacking, session.least), silent)
    with (
        quarantine.compacting(run.path("quarantine")),
        Trackers(config, wanted(config.log)) as trackers,
    ):
        _watch(_trainer(job, data.streams(), session), job.monitor, mine, progress, trackers.log)
        finished = run.committed_step() >= num_steps
        trackers.ended(finished=finished)
    return finished


def _trainer(job: TrainingJob, streams: OrderedStreams, session: Session) -> DataParallelTrainer:
    filesystem, path = uris.arrow_filesystem(job.run.uri)
    resources = {"CPU": session.cpus_per_worker}
    if session.use_gpu:
        resources["GPU"] = session.gpus_per_worker
    rule = FailureRule(job.monitor, job.run.uri, job.config.cluster.max_failures)
    teller = ControllerTeller(job.monitor.meet, grows=not isinstance(session.scaling, int))
    return DataParallelTrainer(
        train_worker,
        train_loop_config={"job": ray.put(job)},
        backend_config=ProcessGroup("nccl" if session.use_gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # the annotation is of Train V1
            num_workers=session.scaling,
            use_gpu=session.use_gpu,
            resources_per_worker=resources,
            # Growing goes back to the last checkpoint: there is little to lose where they are many.
            elastic_resize_monitor_interval_s=min(GROW_S, job.config.checkpoint.every_s),
        ),
        run_config=RunConfig(
            name=checkpoints.FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.checkpoint.keep),
            callbacks=[rule, teller],  # type: ignore[list-item]  # the annotation is of Train V1
            failure_config=FailureConfig(max_failures=-1),  # `rule` counts
        ),
        datasets={"train": lambda: ray.data.range(1)},
        dataset_config=streams,
    )


def _watch(
    trainer: DataParallelTrainer,
    monitor: Any,
    mine: Held,
    progress: "StepProgress",
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Run `fit` beside the main thread, which shows progress and passes signals on.

    On the main thread `fit` would answer SIGINT itself, without a checkpoint.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="fit", daemon=True)
    taken: Question[list[dict[str, Any]]] = Question(monitor.take, [])
    failed: Question[Failure | None] = Question(monitor.failure, None)
    with progress, stop_signals() as wanted, _ending(thread, monitor):
        progress.waits(STARTING)
        thread.start()
        running = True
        failure = None
        while running:
            thread.join(POLL_S)
            running = thread.is_alive()
            mine.check()
            if wanted.is_set():
                monitor.stop.remote()  # each time: a monitor that was started again has forgotten
            for line in taken.ask():
                progress.show(line)
                tell(line)
            progress.tick()
            if wanted.is_set() and progress.is_idle:
                return  # nothing was trained since the last checkpoint: there is nothing to save
            if failure := failed.ask() if running else answer(monitor.failure.remote(), None):
                break  # not waiting for Ray Train, which would start the workers again
        for line in (*taken.ask(wait=True), *answer(monitor.take.remote(), [])):
            progress.show(line)
            tell(line)
    if failure:
        _tell(monitor, failure)
        raise failure
    if raised:
        raise raised[0]


@contextmanager
def _ending(thread: threading.Thread, monitor: Any) -> Iterator[None]:
    """Leave no thread that waits for Ray Train's controller behind: Ray crashes where it is shut
    down under one."""
    try:
        yield
    finally:
        deadline = time.monotonic() + ENDS_S
        controller: Any = None
        while thread.is_alive() and time.monotonic() < deadline:
            if controller is None and (told := answer(monitor.controller.remote(), None)):
                controller = cloudpickle.loads(told)
                controller.abort.remote()  # it gives back what its workers hold, and ends
            thread.join(POLL_S)
        if thread.is_alive() and controller is not None:
            ray.kill(controller)
            thread.join(POLL_S)


def _tell(monitor: Any, failure: Exception) -> None:
    """Print what the workers raised where one line does not say enough to mend it."""
    if not isinstance(failure, TooManyFailures):
        return
    if traceback := answer(monitor.traceback.remote(), None):
        print(traceback, file=sys.stderr)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event; a second signal interrupts at once."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted  # signals reach the main thread only; whoever owns it decides
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()
        print("stopping: waiting for a checkpoint (again to stop at once)", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def step_line(line: dict[str, Any], num_steps: int, width: int | None = None) -> str:
    """Format one log line with fixed columns.

    Args:
        line: What was logged.
        num_steps: Optimiser steps of the whole run.
        width: Characters that fit; columns go in the order of `LEAST_WANTED` until they do. None:
            no limit.
    """
    head = f"step {line['step']:>{len(str(num_steps))}}/{num_steps}  loss {line['loss']:.4f}"
    columns = {
        "lr": f"lr {line['lr']:.1e}",
        "std": f"std {line['feature_std']:.3f}",
        "rank": f"rank {line['rankme']:.0f}",
        "img/s": f"img/s {line['images_per_s']:,.0f}",
        "wait": f"wait {line['wait_fraction']:.0%}",
        "mem": f"mem {line['memory_gib']:.1f} GiB",
    }
    for unwanted in (*LEAST_WANTED, None):
        text = "  ".join([head, *columns.values()])
        if unwanted is None or width is None or len(text) <= width:
            break
        del columns[unwanted]
    return text


class StepProgress:
    """Prints log lines to stderr, and a live bar where stderr is a terminal.

    Args:
        num_steps: Optimiser steps of the whole run.
        done: Steps done before.
        lacking: Says what the cluster lacks for the training workers; None: nothing.
        silent: Is told the seconds since the newest line of a step.
    """

    def __init__(
        self,
        num_steps: int,
        done: int,
        lacking: Callable[[], str | None] = lambda: None,
        silent: Callable[[float], None] = lambda _: None,
    ) -> None:
        columns = (
            TextColumn("pretraining"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("steps", total=num_steps, completed=done)
        self._num_steps = num_steps
        self._started = False
        self._waiting: str | None = None
        self._next = 0.0
        self._said = time.monotonic()  # when the last line of a step came, or the first batch
        self._lacking = lacking
        self._silent = silent
        self._line_at = time.monotonic()

    def __enter__(self) -> "StepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._silent(0)
        self._bar.stop()

    @property
    def is_idle(self) -> bool:
        """Tell whether the workers have not trained since they were started."""
        return self._waiting is not None

    def waits(self, what: str | None) -> None:
        """Note what is being waited for from now on, None for nothing."""
        self._waiting = what
        self._said = time.monotonic()
        self._next = self._said + (PATIENCE_S if what else EVERY_S)

    def tick(self) -> None:
        """Say what is being waited for once it takes longer than a moment, and again and again; and
        that no line comes, once it takes much longer than the one before."""
        now = time.monotonic()
        self._silent(now - self._line_at)
        if now < self._next:
            return
        if self._waiting is None:
            doing = f"training, nothing new for {now - self._said:.0f} s ..."
            lack = taken_by_others()
        else:
            doing = f"{self._waiting} ..."
            lack = self._lacking() if self._waiting.startswith(STARTING) else None
        self._print(doing + (f" waiting for {lack}" if lack else ""))
        self._next = time.monotonic() + EVERY_S

    def show(self, line: dict[str, Any]) -> None:
        """Show one log line, a warning, that workers have started, or take note of what they wait
        for."""
        if "warning" in line:
            self._print(f"warning: {line['warning']}")
        elif "waiting" in line:
            self.waits(line["waiting"])
        elif "started_at" in line:
            self._print(_started(line["started_at"], line["workers"], again=self._started))
            self._started = True
        else:
            self._waiting = None
            now = time.monotonic()
            self._next = now + max(EVERY_S, SLOWER * (now - self._said))
            self._said = self._line_at = now
            console = self._bar.console
            width = max(NARROWEST, console.width) if console.is_terminal else None
            self._print(step_line(line, self._num_steps, width))
            self._bar.update(self._task, completed=line["step"])

    def _print(self, text: str) -> None:
        self._bar.console.print(text, markup=False)


def _started(step: int, num_workers: int, *, again: bool) -> str:
    """Say that workers have started."""
    where = f"on {num_workers} worker{'' if num_workers == 1 else 's'}"
    if step:
        return f"going on from step {step} {where}"
    return f"beginning again {where}" if again else f"training {where}"
