"""The network that all tags are trained on: judged before the first stage, which takes its time."""

from __future__ import annotations

from imagetag.checks import is_alexnet
from imagetag.errors import ImagetagError
from imagetag.run.pipeline import renamed
from imagetag.run.settings import PipelineSettings
from imagetag.run.stages import called_here, of_job
from imagetag.run.weights import check_imagenet, check_reachable
from imagetag.storage import open_storage


def check_network(settings: PipelineSettings) -> None:
    """Check the network that all tags are trained on: scrape may take an hour before they are.

    Raises:
        UsageError: if a setting of it is wrong.
        TransientError: if its weights are not here, and cannot be fetched.
        InputError: if it should be in storage, and is not.

    """
    tags = settings.all_tags()
    storage = open_storage(settings.where)
    try:
        if settings.on_features:
            from imagetag.embed import network_of, stored_extractor  # NumPy

            network = network_of(of_job(settings, "embed", tags, extractor=settings.features))
            if stored_extractor(storage, network) is None and network.needs_imagenet:
                check_reachable(network.extractor)
        else:
            train = of_job(settings, "train", tags).with_preset()
            if train.weights in ("auto", "imagenet") and not is_alexnet(train.model):
                check_imagenet(train.model, storage, tags)
    except ImagetagError as error:
        called = called_here(settings, "embed" if settings.on_features else "train")
        error.args = (renamed(str(error), called),)
        raise
