"""The one `ray.init` of the project: a cluster joined or started, and checked against the plan."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.data

from augment.recipe import Placement
from jobs.cluster.cores import own_cores
from jobs.cluster.joining import beside_the_code, join
from jobs.cluster.share import Session, Work, share_of
from jobs.cluster.stream_progress import tell_progress
from jobs.setup import failures
from jobs.setup.failures import InputError, RunError
from jobs.setup.sections import ClusterConfig
from pipelines.ray_internals import SUBMITTED_JOB_VARIABLE, first_line
from pipelines.storage import addresses, retries, uris, variables

ROOT = Path(__file__).resolve().parents[2]

# Read by Ray, the allocator and the AWS clients when a process starts; never keys: job information
# shows them.
WORKER_ENV = {
    # a report waits for the controller's next look, 2 s by default
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # older S3 servers refuse the clients' newer trailers
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    # keep image-sized buffers instead of returning them on every free
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}

# Set for a local Ray: no notice comes that its one node will end, and the actor that waits for one
# takes 2 s to start.
ALONE_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}

# to the workers of a joined cluster
FORWARDED = (*WORKER_ENV, retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE)

# whether this process's Ray is a local one that it started; a job inside another job's session asks
_own = False


def in_submitted_job() -> bool:
    """Tell whether this process is the entrypoint of `ray job submit`."""
    return SUBMITTED_JOB_VARIABLE in os.environ


def absolute_out(out: str) -> str:
    """Make the place for results absolute.

    Raises:
        InputError: a relative path in a submitted job, whose working directory is thrown away;
            credentials in the URI.
    """
    if uris.is_local(out) and in_submitted_job() and not os.path.isabs(out.removeprefix("file://")):
        raise InputError(
            f"out {out} is relative, and a submitted job's folder is thrown away: give an absolute"
            " path or s3://"
        )
    return user_uri("out", out)


def user_uri(key: str, uri: str) -> str:
    """Make a URI from the command line absolute; a wrong one becomes an `InputError` that names its
    key."""
    try:
        whole = uris.absolute(uri)
        addresses.check_scheme(whole)
        return whole
    except ValueError as error:
        raise InputError(f"{key} {error}") from None


def check_reachable(key: str, uri: str) -> None:
    """Refuse a place that is not there before any Ray is started; patterns are left to the listing.

    Raises:
        InputError: missing or refused, with the remedy.
    """
    if not any(char in uri for char in "*?[{") and (problem := uris.reachable(uri)):
        raise InputError(f"{key} {problem}")


@contextmanager
def session(
    cluster: ClusterConfig,
    *,
    work: Work = "train",
    paths: tuple[str, ...] = (),
    placement: Placement = "worker",
) -> Iterator[Session]:
    """Join the cluster that `cluster.address` names, or start a local Ray and stop it at the end.

    Args:
        cluster: What the job wants.
        work: What will run: training workers, actors that embed, or nothing but tasks.
        paths: Sources and results that every node must see.
        placement: Where colours change; a pool of actors must fit as well.

    Raises:
        InputError: the cluster cannot feed the workers, has no GPU that was asked for, cannot be
            reached, or has several nodes for local paths.
        RunError: what the job did failed for good: storage refused it, for instance.
    """
    global _own
    _set_patience(cluster)
    started = not ray.is_initialized()
    unset = ALONE_ENV.keys() - os.environ.keys()
    if started:
        _own = _start(cluster)
    _quiet_ray_data()
    tell_progress()
    # Ray's wrapper of what a task raised loses it on the way to the driver.
    ray.data.DataContext.get_current().raise_original_map_exception = True
    try:
        with failures.as_one_line(crashes=True):
            yield share_of(cluster, work=work, own=_own, paths=paths, placement=placement)
    finally:
        if started:
            ray.shutdown()
            _own = False
            for name in unset:
                os.environ.pop(name, None)  # a cluster joined later may lose nodes


def _quiet_ray_data() -> None:
    """Leave what Ray Data says itself to its log files; importing it set its loggers anew.

    Its errors are raised as well, and one that a job gets over is none for people.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _set_patience(cluster: ClusterConfig) -> None:
    """Set how long storage is waited for, in this process and those that it starts."""
    wanted = {
        retries.RETRY_VARIABLE: str(cluster.storage_retry_s),
        retries.TIMEOUT_VARIABLE: str(cluster.storage_timeout_s),
    }
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        uris.forget_clients()


def _start_local(num_cpus: int) -> None:
    """Start a Ray of this process; twice where it must be, as Ray gives it half a minute, which on
    a busy machine is too short once and enough with its files in memory."""
    for last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return
        except Exception as error:  # Ray raises no narrower one
            said = f"a local Ray does not start: {first_line(str(error))}"
            if last:
                raise RunError(
                    f"{said}: look at what else this machine does, at its free memory and at the"
                    " disk of /tmp/ray"
                ) from error
            ray.shutdown()
            print(f"{said}: trying once more", file=sys.stderr)


def _start(cluster: ClusterConfig) -> bool:
    """Call `ray.init`; True where it started a Ray of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home unless asked to
    for name, value in WORKER_ENV.items():
        os.environ.setdefault(name, value)
    for name in ("ray.data", "ray.train"):
        # their progress goes to Ray's log files; ours to the terminal
        logging.getLogger(name).setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") if cluster.address == "auto" else cluster.address
    if address in (None, "", "local"):
        cores = own_cores()
        logical = max(cores, cluster.max_workers + 2)
        print(
            f"starting a local Ray with {logical} logical CPUs on {cores} cores",
            file=sys.stderr,
        )
        for name, value in ALONE_ENV.items():
            os.environ.setdefault(name, value)
        _start_local(logical)
        return True
    ours = {name: os.environ[name] for name in FORWARDED}
    runtime_env: dict[str, object] = {"env_vars": ours | variables.forwarded()}
    # else the nodes have the package installed
    if not in_submitted_job() and (ROOT / "pyproject.toml").exists():
        runtime_env |= {"working_dir": str(ROOT), "excludes": beside_the_code(ROOT)}
    join(address, runtime_env)
    return False
