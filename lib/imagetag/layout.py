"""The keys of everything in storage. This module builds and parses them; nothing else does.

    <tag>/{train,test}/{<tag>,not_<tag>}/<md5>.<ext>    the images
    <tag>/manifest/part-<digest>.jsonl                  a row an image
    <tag>/manifest/repeat-<digest>.jsonl                a row a post whose picture another has
    <tag>/manifest/failed-<digest>.jsonl                a row a post that could not be stored
    <tag>/manifest/curated-<digest>.jsonl               a row an image that curation changed
    <tag>/manifest/kept-<digest>.jsonl                  the rows of a part that a dataset has,
                                                        where it has not all of them
    <tag>/dataset.json                                  summary and completion marker
    <tag>/index.html                                    the way to the tag's pages
    <tag>/verdicts/<digest>.jsonl                       what people said of pictures, a line each
    <tag>/audits/<name>.json                            what an audit of predictions has proven
    <tag>/audited/<name>/<digest>.jsonl                 what people said of its pictures
    <tag>/explore/                                      plots, report, recommended input size
    <tag>/models/<run>/                                 model, metrics, report
    <tag>/models/<run>/parts.csv                        what each picture was used for
    <tag>/models/<run>/suspects.json                    labels that are probably wrong
    <tag>/models/LATEST                                 the name of the newest complete run
    <tag>/packed/<name>/<part>-<n>-of-<n>.tfrecord      resized images of the train split
    <tag>/packed/<name>/<part>-<n>-of-<n>.json          what such a shard holds
    <tag>/packed/<name>/index.json                      all shards, and completion marker
    <tag>/packed/LATEST                                 the name of the newest complete pack
    .shared/<2 digits>/<digest>.json                    which image a post has, for other tags
    .features/<name>/extractor.json                     what made features, and completion marker
    .features/<name>/model.keras                        its network; or model.onnx, or saved_model/
    .features/<name>/parts/<digest>.npz                 features of some thousand pictures
    .features/<name>/parts/<digest>.ids                 which pictures', and their marker
    .features/<name>/shares/<i>-of-<n>-<digest>.json    which datasets a share of pods went through
    .features/LATEST                                    the name of the newest extractor in use
    .reports/leaderboard.{html,json}                    the runs of all tags, compared
    .status/<tag>/<stage>-<worker>.<state>.json         what a job does with a tag, or how it ended
    .status/.jobs/<job>-<shard>.json                    what a job's last run did, in all
    index.html                                          all tags, and the way to their pages

`<tag>` is percent-encoded where a key or a path would break.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import unquote

from imagetag.errors import UsageError

Split = Literal["train", "test"]
Label = Literal["positive", "negative"]
SPLITS: tuple[Split, ...] = get_args(Split)
LABELS: tuple[Label, ...] = get_args(Label)
PartKind = Literal["part", "repeat", "failed", "curated", "kept"]
PartName = Literal["train", "validation", "threshold"]  # of the train split
PARTS: tuple[PartName, ...] = get_args(PartName)
Stage = Literal[  # the jobs on a tag
    "scrape", "curate", "explore", "pack", "embed", "train", "evaluate", "predict", "audit"
]
STAGES: tuple[Stage, ...] = get_args(Stage)
WorkState = Literal["running", "failed", "done"]
INDEX = "index.html"
"""The key of the page of all tags: in the root, where who looks into the folder sees it."""

# What S3 calls safe, less the star and the slash: also good in file names and in a shell's path.
_SAFE = frozenset((string.ascii_letters + string.digits + "!-_.'()").encode())
_MAX_COMPONENT = 240  # bytes; file systems allow 255, and `not_` comes before
_IMAGE_NAME = re.compile(r"(?P<md5>[0-9a-f]{32})\.(?P<ext>[a-z0-9]{2,5})")
_AUDIT_NAME = re.compile(r"[0-9a-f]{12}")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STATUS_NAME = re.compile(
    rf"(?P<stage>{'|'.join(STAGES)})-(?P<worker>[0-9]{{1,4}})\.(?P<state>running|failed|done)\.json"
)
_FEATURE_PART = re.compile(r"\.features/[^/]+/parts/(?P<digest>[0-9a-f]{24})\.(?P<ext>npz|ids)")
JOB_RECORDS = ".status/.jobs/"  # the folder of how the last runs of jobs ended
STATUS = ".status/"  # the folder of what all jobs tell of all tags
FEATURES = ".features/"  # the folder of what frozen networks say of all tags' pictures
TAG_FOLDERS = frozenset(
    ("train", "test", "manifest", "explore", "models", "packed", "verdicts", "audits", "audited")
)
"""The names of all folders of a tag."""
LATEST_FEATURES = FEATURES + "LATEST"
"""The pointer to the newest extractor that has features."""


@dataclass(frozen=True)
class ImageKey:
    """What an image's key says."""

    tag: str
    split: Split
    label: Label
    md5: str
    ext: str


@dataclass(frozen=True)
class RunKey:
    """What the key of a run's file says; `name` is of the file, with its folder in the run's."""

    tag: str
    run: str
    name: str


@dataclass(frozen=True)
class StatusKey:
    """What the key of a record says of a job's work on a tag; `worker` is of several, from 0."""

    tag: str
    stage: Stage
    worker: int
    state: WorkState


def encode(tag: str) -> str:
    """Return the tag as a path component; `decode` gives the tag back.

    Raises:
        UsageError: if the tag is no text, empty, not UTF-8, or too long for a file name.

    """
    try:
        raw = tag.encode()
    except AttributeError as error:
        raise UsageError(f"{tag!r} is no tag: write it as text") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"the tag {tag[:40]!r} is not UTF-8") from error
    text = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    if text.startswith("."):  # hidden files, `.` and `..`
        text = "%2E" + text[1:]
    if text.endswith("."):  # Windows drops it
        text = text[:-1] + "%2E"
    if not text or len(text) > _MAX_COMPONENT:
        raise UsageError(f"the tag {tag[:40]!r} is empty or too long for a file name")
    return text


def decode(component: str) -> str:
    """Return the tag that `encode` made a path component of.

    Raises:
        ValueError: if `encode` makes no such component.

    """
    tag = unquote(component, errors="strict")
    try:
        canonical = encode(tag)
    except UsageError as error:
        raise ValueError(str(error)) from error
    if canonical != component:
        raise ValueError(f"{component!r} is not a tag's folder")
    return tag


@dataclass(frozen=True)
class Layout:
    """The keys of one tag."""

    tag: str

    @property
    def root(self) -> str:
        """The folder of everything about the tag."""
        return encode(self.tag) + "/"

    def label_folder(self, label: Label) -> str:
        """Return the name of a label's folder: `<tag>` or `not_<tag>`."""
        return encode(self.tag) if label == "positive" else "not_" + encode(self.tag)

    def images(self, split: Split, label: Label) -> str:
        """Return the folder of a split's images of one label."""
        return f"{self.root}{split}/{self.label_folder(label)}/"

    def image(self, split: Split, label: Label, md5: str, ext: str) -> str:
        """Return the key of an image."""
        name = f"{md5}.{ext}"
        if not _IMAGE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not an image's name")
        return self.images(split, label) + name

    @property
    def manifest(self) -> str:
        """The folder of the manifest's parts."""
        return self.root + "manifest/"

    def part(self, kind: PartKind, digest: str) -> str:
        """Return the key of a part of the manifest: its images, repeats, failures, curation.

        Of `kept` parts a dataset has all rows; they repeat rows of its images' parts.
        """
        return f"{self.manifest}{kind}-{digest}.jsonl"

    def part_kind(self, key: str) -> PartKind | None:
        """Return what a key below `manifest` holds, None if nothing of ours."""
        folder, name = key[: len(self.manifest)], key[len(self.manifest) :]
        match = re.fullmatch(r"(part|repeat|failed|curated|kept)-[0-9a-f]{8,64}\.jsonl", name)
        if folder != self.manifest:
            return None
        return match and match[1]  # type: ignore[return-value]

    @property
    def verdicts(self) -> str:
        """The folder of what people said of pictures."""
        return self.root + "verdicts/"

    def verdict_part(self, digest: str) -> str:
        """Return the key of some verdicts."""
        return f"{self.verdicts}{digest}.jsonl"

    def is_verdict_part(self, key: str) -> bool:
        """Tell whether a key below `verdicts` is of some of them."""
        return _is_part(key.removeprefix(self.verdicts))

    @property
    def audits(self) -> str:
        """The folder of what audits have proven."""
        return self.root + "audits/"

    def audit(self, name: str) -> str:
        """Return the key of what an audit has proven.

        Raises:
            ValueError: if `name` cannot be an audit's name.

        """
        return f"{self.audits}{_checked_audit(name)}.json"

    def is_audit(self, key: str) -> bool:
        """Tell whether a key below `audits` is of what one has proven."""
        return bool(_AUDIT_NAME.fullmatch(key.removeprefix(self.audits).removesuffix(".json")))

    def audited(self, name: str) -> str:
        """Return the folder of what people said of an audit's pictures.

        Raises:
            ValueError: if `name` cannot be an audit's name.

        """
        return f"{self.root}audited/{_checked_audit(name)}/"

    def audited_part(self, name: str, digest: str) -> str:
        """Return the key of some of that."""
        return f"{self.audited(name)}{digest}.jsonl"

    def is_audited_part(self, name: str, key: str) -> bool:
        """Tell whether a key below `audited` is of some of that."""
        return _is_part(key.removeprefix(self.audited(name)))

    @property
    def dataset(self) -> str:
        """The completion marker of the dataset."""
        return self.root + "dataset.json"

    @property
    def index(self) -> str:
        """The page that leads to the tag's others."""
        return self.root + "index.html"

    def explore(self, name: str) -> str:
        """Return the key of a file of `explore`."""
        return f"{self.root}explore/{name}"

    @property
    def models(self) -> str:
        """The folder of the training runs."""
        return self.root + "models/"

    def run(self, run: str, name: str) -> str:
        """Return the key of a file of a training run.

        Raises:
            UsageError: if `run` cannot be a run's name.

        """
        return f"{self.models}{checked_run(run)}/{name}"

    @property
    def latest(self) -> str:
        """The pointer to the newest complete run."""
        return self.models + "LATEST"

    def packed(self, name: str, file: str = "") -> str:
        """Return the key of a file of a pack; by default its folder.

        Raises:
            UsageError: if `name` cannot be a pack's name.

        """
        return f"{self.root}packed/{checked_run(name, option='--packed')}/{file}"

    def shard(
        self,
        name: str,
        part: PartName,
        index: int,
        count: int,
        ext: Literal["tfrecord", "json"] = "tfrecord",
    ) -> str:
        """Return the key of a part's `index`-th of `count` shards, from 0, or of its note."""
        return self.packed(name, f"{part}-{index:05}-of-{count:05}.{ext}")

    @property
    def latest_packed(self) -> str:
        """The pointer to the newest complete pack."""
        return self.root + "packed/LATEST"


def shared(digest: str) -> str:
    """Return the key of the note that tells which stored image a post has.

    No tag's folder begins with a dot. The first digits are a folder, so that none grows too long.
    """
    return f".shared/{digest[:2]}/{digest}.json"


def features(name: str, file: str = "") -> str:
    """Return the key of a file of an extractor's features; by default their folder.

    No tag's folder begins with a dot.

    Raises:
        UsageError: if `name` cannot be an extractor's name.

    """
    return f"{FEATURES}{checked_run(name, option='--features')}/{file}"


def feature_parts(name: str) -> str:
    """Return the folder of the parts of an extractor's features."""
    return features(name, "parts/")


def feature_part(name: str, digest: str, ext: Literal["npz", "ids"]) -> str:
    """Return the key of a part of an extractor's features, or of its pictures' names."""
    return f"{feature_parts(name)}{digest}.{ext}"


def parse_feature_part(key: str) -> tuple[str, str] | None:
    """Return the digest and the ending of a key of a part of features, None if it is none."""
    match = _FEATURE_PART.fullmatch(key)
    return match and (match["digest"], match["ext"])


def feature_shares(name: str) -> str:
    """Return the folder of what the shares of the pictures tell of an extractor.

    Raises:
        UsageError: if `name` cannot be an extractor's name.

    """
    return features(name, "shares/")


def feature_share(name: str, index: int, count: int, digest: str) -> str:
    """Return the key of what the `index`-th of `count` shares of the pictures tells, from 0."""
    return f"{feature_shares(name)}{index}-of-{count}-{digest}.json"


def report(name: str) -> str:
    """Return the key of a file about many tags, such as `leaderboard.html`.

    No tag's folder begins with a dot.
    """
    return f".reports/{name}"


def status(of: StatusKey) -> str:
    """Return the key of the record of a job's work on a tag.

    No tag's folder begins with a dot.
    """
    return f"{STATUS}{encode(of.tag)}/{of.stage}-{of.worker}.{of.state}.json"


def job_record(job: str, shard: int) -> str:
    """Return the key of the record of a job's last run; no tag is called `.jobs` there."""
    return f"{JOB_RECORDS}{job}-{shard}.json"


def checked_run(name: str, option: str = "--run") -> str:
    """Return a run's name, or a pack's, or an extractor's.

    Raises:
        UsageError: if it is not letters, digits, dots, dashes and underscores, 100 at most.

    """
    if not isinstance(name, str):
        raise UsageError(f"{option} {name!r}: write it as text")
    if not _RUN_NAME.fullmatch(name) or name.lower() == "latest":
        raise UsageError(
            f"{option} {name[:100]!r}: use letters, digits, '.', '-' and '_', beginning with a "
            "letter or digit, 100 at most, and not 'latest'"
        )
    return name


def _is_part(name: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{8,64}\.jsonl", name))


def _checked_audit(name: str) -> str:
    if not _AUDIT_NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not an audit's name")
    return name


def parse_image(key: str) -> ImageKey:
    """Return what an image's key says.

    Raises:
        ValueError: if it is not the key of an image.

    """
    parts = key.split("/")
    if len(parts) != 4 or parts[1] not in SPLITS:
        raise ValueError(f"{key!r} is not the key of an image")
    layout = Layout(decode(parts[0]))
    split: Split = "train" if parts[1] == "train" else "test"
    match = _IMAGE_NAME.fullmatch(parts[3])
    for label in LABELS:
        if match and parts[2] == layout.label_folder(label):
            return ImageKey(layout.tag, split, label, match["md5"], match["ext"])
    raise ValueError(f"{key!r} is not the key of an image")


def parse_run(key: str) -> RunKey:
    """Return what the key of a file of a training run says.

    Raises:
        ValueError: if it is not the key of one.

    """
    parts = key.split("/", 3)
    if len(parts) != 4 or parts[1] != "models" or not parts[3]:
        raise ValueError(f"{key!r} is not the key of a run's file")
    try:
        return RunKey(decode(parts[0]), checked_run(parts[2]), parts[3])
    except UsageError as error:
        raise ValueError(str(error)) from error


def parse_status(key: str) -> StatusKey:
    """Return what the key of a record of a job's work says.

    Raises:
        ValueError: if it is not the key of one.

    """
    parts = key.removeprefix(STATUS).split("/")
    match = _STATUS_NAME.fullmatch(parts[-1])
    if not key.startswith(STATUS) or len(parts) != 2 or not match:
        raise ValueError(f"{key!r} is not the key of a work's record")
    stage: Any = match["stage"]
    state: Any = match["state"]
    return StatusKey(decode(parts[0]), stage, int(match["worker"]), state)
