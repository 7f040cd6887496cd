"""`imagetag NAME ...` runs the job `NAME`, as `python -m jobs.NAME ...` does."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from imagetag import __version__
from imagetag.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from imagetag.pipes import stdout_has_reader
from imagetag.suggest import did_you_mean
from jobs import settings_of

# What the first line of each job's module says, written here too: importing them all to ask for it
# would make `imagetag scrape` pay for TensorFlow.
JOBS = {
    "run": "all jobs for the tags on this machine, one after the other",
    "init": "a commented file of settings for imagetag run",
    "scrape": "images of each tag, and others without it, from a board into storage",
    "plan": "what tags will take, before anything is fetched: images, time, storage, money",
    "curate": "near-duplicates out of each tag's dataset, or into one group",
    "explore": "what is in a dataset, what may mislead a model, and the size to train at",
    "pack": "each tag's train split as shards of resized images, to stream in training",
    "embed": "features of each distinct picture of the tags, once, from a frozen network",
    "train": "a classifier for each tag, from its dataset in storage",
    "evaluate": "how good a tag's trained classifier is, and from where on to believe it",
    "review": "a page on this machine, to say of a tag's pictures whether they have it",
    "report": "a leaderboard of the evaluated runs of many tags",
    "status": "every tag in storage: what is complete, under way, failed and why",
    "predict": "score new images in bulk with a tag's trained classifier",
    "audit": "what precision a run has on your pictures, proven by a person's verdicts",
    "export": "the classifiers of one or many tags as one file, for other programs",
    "board": "a local imageboard, of drawn pictures or of a folder's",
    "demo": "imagetag run, from scraping to predictions, on a board of drawn pictures",
}


# What may stand in the place of a job.
_OTHERS = {
    "help": "the options of a job",
    "completion": "the script by which bash, zsh or fish completes what is typed",
}

_FIRST = """\
Lists of imageboard tags become trained, evaluated image classifiers.

See it work, on drawn pictures, on this machine:

  imagetag demo

Your own pictures, in a folder with a sub-folder for each tag:

  imagetag run --tags fox --board folder+PATH --input FOLDER

Tags of an imageboard: the same without --board, which is safebooru.org then; ask for
few images at first, by --scrape.limit 200. --storage takes s3://bucket/prefix, too.
"""


def main() -> int:
    """Run the job that the first argument names; returns its exit code."""
    try:
        code = _main()
        sys.stdout.flush()
    except BrokenPipeError:
        if stdout_has_reader():
            raise
        os._exit(EXIT_DONE)  # the reader of help has seen enough
    return code


def _main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    arguments = sys.argv[2:]
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
    if name in ("-h", "--help", "help"):
        lines = [f"  {job:10} {text}" for job, text in JOBS.items()]
        print(  # noqa: T201
            f"usage: imagetag JOB [OPTIONS]\n\n{_FIRST}\nThe jobs:\n\n" + "\n".join(lines) + "\n\n"
            "imagetag JOB --help shows a job's options. IMAGETAG_* variables set them too.\n"
            'By the tab key, in bash or zsh: eval "$(imagetag completion bash)"; in fish: '
            "imagetag completion fish | source"
        )
        return EXIT_DONE
    if name == "completion":
        return _print_completion(arguments)
    if name == "--version":
        print(f"imagetag {__version__}")  # noqa: T201
        return EXIT_DONE
    if name not in JOBS:
        there_are = did_you_mean(name, (*JOBS, *_OTHERS)) or f"; there are {', '.join(JOBS)}"
        print(f"imagetag: there is no job {name!r}{there_are}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    if os.getpid() == 1:
        # The first process of a container ignores it unless it says otherwise, and so while the
        # job is imported would wait to be killed.
        signal.signal(signal.SIGTERM, _leave)
    try:
        module = importlib.import_module(f"jobs.{name}")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return int(module.main(arguments))


def _print_completion(arguments: Sequence[str]) -> int:
    from imagetag.job import SHELLS, completion  # argparse and pydantic: not for others

    if arguments in (["-h"], ["--help"]):
        print(f"usage: imagetag completion {'|'.join(SHELLS)}\n\n{_OTHERS['completion']}")  # noqa: T201
        return EXIT_DONE
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        print(f"imagetag: say which shell: imagetag completion {'|'.join(SHELLS)}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    found = {job: settings_of(job) for job in JOBS}
    print(completion(arguments[0], found, {**JOBS, **_OTHERS}))  # noqa: T201
    return EXIT_DONE


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
