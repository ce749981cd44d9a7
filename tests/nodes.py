"""Nodes of a cluster on one machine, each with a folder of its own, as machines have."""

import atexit
import shutil
import tempfile
from typing import Any

from ray.cluster_utils import Cluster


def add_node(cluster: Cluster, **args: Any) -> Any:
    """Add a node to a cluster.

    By themselves nodes of `Cluster` share a folder: the first worker of each new one unpacks the
    job's code there once more, and deletes it under the workers of the others.

    Args:
        cluster: The cluster.
        args: As `Cluster.add_node` takes them.

    Returns:
        The node, as `Cluster.remove_node` takes it.
    """
    folder = tempfile.mkdtemp(prefix="node-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return cluster.add_node(temp_dir=folder, **args)
