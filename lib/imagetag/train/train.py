"""Train a tag's classifier, where that is not done: only then is TensorFlow loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imagetag.checks import check_micro_batch
from imagetag.dataset import repair_latest
from imagetag.errors import InputError, TransientError
from imagetag.features import SharedFeatures
from imagetag.inputs import load_partition, store_partition
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.quiet import quiet_imports
from imagetag.runs import Run, is_exported, load_run
from imagetag.storage import Place, Storage, opened
from imagetag.train.checkpoint import checkpoints_below
from imagetag.train.cluster import Cluster
from imagetag.train.settings import Means, Training
from imagetag.train.target import Target, digest_of_values, find_target

if TYPE_CHECKING:
    import tensorflow as tf


def train_tag(
    storage: Place,
    tag: str,
    training: Training | Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
    means: Means | Mapping[str, Any] | None = None,
    *,
    run: str | None = None,
    shared: SharedFeatures | None = None,
) -> Run:
    """Train on a tag's train split and store the model; the test split is not touched.

    With `training.features` it is a head on features that `imagetag embed` has stored, which takes
    no TensorFlow.

    Args:
        storage: has the dataset, and gets the model; open, or a folder or URL.
        tag: what to recognise.
        training: how; also as a dict.
        cluster: on which devices; None for what TensorFlow's strategy in scope has. `batch_size`
            is that of each replica.
        means: with what; also as a dict.
        run: the run's name; by default made from the settings and the data, so that the same
            training again finds itself done.
        shared: features, where several tags are trained on the same; None for the tag's own.

    Raises:
        ValueError: if `training`, `cluster` or `means` is none.
        InputError: if there is no dataset, no recommended size, no features, or too few images.
        UsageError: if the settings do not fit the model, or a checkpoint.
        TransientError: if storage or weights cannot be reached, or another worker is lost.

    """
    training = Training.model_validate({} if training is None else training)
    means = Means.model_validate({} if means is None else means)
    if not (cluster is None or isinstance(cluster, Cluster)):
        raise ValueError(
            f"cluster={cluster!r}: take imagetag.train.Cluster(lambda: "
            'imagetag.models.choose_devices("mirrored")), or None'
        )
    if training.features == "no":
        check_micro_batch(training.batch_size, means.micro_batch)
    storage = opened(storage, means.concurrency)
    cluster = cluster or Cluster(_in_scope)
    target = _agreed_target(storage, tag, training, cluster, run)
    done = target.completed()
    if len({row[0] for row in cluster.gather([int(done is not None)])}) > 1:
        raise TransientError("the workers do not agree whether the run is complete: start again")
    if done is not None:
        if cluster.is_chief:
            _complete(target, done, cluster, means)
        where = f"{storage.url}/{Layout(tag).run(target.run, '')}"
        get_logger().info("already trained", run=target.run, storage=where)
        return done
    if target.extractor is not None:
        from imagetag.train.head_run import make_head  # SciPy: not where there is nothing to do

        return make_head(target, shared or SharedFeatures(storage, [tag], means.cache_folder))
    with quiet_imports():
        from imagetag.train.training_run import make_run

    made = make_run(target, cluster, means)
    cluster.gather([1])  # the others wait until the chief has stored it
    return made


def is_trained(storage: Storage, tag: str, training: Training, run: str | None) -> bool:
    """Tell whether a tag's run is complete.

    Raises:
        UsageError: if a setting is wrong, or it is of other settings or images.

    """
    try:
        return find_target(storage, tag, training, run).completed() is not None
    except InputError:  # told when it is the tag's turn
        return False


def _in_scope() -> tf.distribute.Strategy:
    import tensorflow as tf

    return tf.distribute.get_strategy()


def _agreed_target(
    storage: Storage, tag: str, training: Training, cluster: Cluster, run: str | None
) -> Target:
    """Settle what is to be trained, or why it cannot be, as all other workers do.

    One of another mind would wait for a step that others do not take, or they for its.

    Raises:
        InputError, UsageError: as `find_target`, on all workers alike.
        TransientError: if they differ.

    """
    found: Target | InputError
    try:
        found = find_target(storage, tag, training, run)
        digest = found.digest
    except InputError as error:
        found = error
        # Each may have another name for the same storage.
        digest = digest_of_values([tag, str(error).replace(storage.url, "")])
    cluster.agree(f"a training of {tag!r}, or a reason against it,", digest)
    if isinstance(found, InputError):
        raise found
    return found


def _complete(target: Target, run: Run, cluster: Cluster, means: Means) -> None:
    """Give a complete run what it was made without, or lost, and do what a kill came before."""
    storage = target.storage
    if run.parts:
        try:
            load_partition(storage, run)
        except InputError as error:
            get_logger().warning("made anew", reason=str(error))
            store_partition(storage, run.tag, run.run, target.partition())
    if means.export and not run.extractor and not is_exported(storage, run.tag, run.run):
        with quiet_imports():
            from imagetag.train.training_run import export_run

        cluster.connect()  # the next tag may need it, and TensorFlow can do it no more then
        export_run(storage, run)
    if not run.extractor:
        checkpoints_below(means.cache_folder, storage, run.tag, run.run).clear()
    latest = Layout(run.tag).latest
    repair_latest(
        *(storage, latest, run.run, run.created),
        newest=lambda: load_run(storage, run.tag, "latest").created,
    )
