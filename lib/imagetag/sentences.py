"""Events of the log as sentences, and numbers as they are said.

An event is a mapping as in the log's JSON lines: `event`, `level`, `timestamp`, and fields. Whoever
has such lines, of this process or of another, gets the same text for them here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Event = Mapping[str, Any]

# What every line has, and what a program wants to know and no person.
_UNSAID = {"event", "level", "timestamp", "tag", "exception", "exit_code", "digest", "logger"}
_ENDED = "ended"  # whose summary is said, and no other event's


def sentence(event: Event) -> str:
    """Return an event as a sentence without its time, level and tag.

    An event that is not known here is shown with all its fields.
    """
    name = str(event.get("event", ""))
    unsaid = _UNSAID if name == _ENDED else {*_UNSAID, "summary"}
    fields = {name: value for name, value in event.items() if name not in unsaid}
    say = _SENTENCES.get(name)
    if say is not None:
        try:
            return say(fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # of another version, which had other fields
    if "done" in fields and "per_second" in fields:
        return _progress(name, fields)
    if "logger" in event:
        name = f"{event['logger']}: {name}"
    return _with(name, fields)


def label(event: str, fields: Event) -> str:
    """Return what a bar of some work is called, by the work's name in the log."""
    if event == "train" and "epochs" in fields:
        return f"epoch {fields['epoch']}/{fields['epochs']}"
    return _WORK.get(event, event)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _with(text: str, fields: Event) -> str:
    """Return a text with the fields that say something, `name value` each, after it."""
    said = {name: value for name, value in fields.items() if value not in (None, "", {}, [], ())}
    if not said:
        return text
    return (
        f"{text} ({'; '.join(f'{_words(name)} {_value(value)}' for name, value in said.items())})"
    )


def _progress(name: str, fields: Event) -> str:
    of = "" if fields.get("total") is None else f" of {fields['total']:,}"
    more = {
        name: value
        for name, value in fields.items()
        if name not in ("done", "total", "unit", "per_second", "epoch", "epochs") and value
    }
    text = f"{label(name, fields)}: {fields['done']:,}{of} {fields['unit']}"
    speed = fields["per_second"]
    if fields.get("total") is not None and speed:
        left = max(0, fields["total"] - fields["done"]) / speed
        text += f" · {duration(left)} left"
    return " · ".join([text, f"{rate(speed)}/s", *(f"{v:,} {_words(k)}" for k, v in more.items())])


def _epoch(fields: Event) -> str:
    digits = len(str(fields["epochs"]))
    best = ""
    if fields.get("best_val_loss") is not None:
        best = f" (best {fields['best_val_loss']:.3f}, epoch {fields['best_epoch']:{digits}})"
    return (
        f"epoch {fields['epoch']:{digits}}/{fields['epochs']} · loss {fields['loss']:.3f} · "
        f"val {fields['val_loss']:.3f}{best}"
    ) + (f" · {duration(fields['seconds_left'])} left" if fields["seconds_left"] else "")


def _labels(counts: Event) -> str:
    return " + ".join(f"{count:,} {name}" for name, count in counts.items())


def _split(counts: Event) -> str:
    return ", ".join(f"{name} {_labels(labels)}" for name, labels in counts.items())


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _training(fields: Event) -> str:
    precision = fields.get("precision")
    return (
        f"training {fields['model']} at {fields['size']} pixels on {_split(fields['images'])} "
        f"images, in batches of {fields['batch']}"
        + (f", {_words(precision)}" if precision not in (None, "float32") else "")
        + f"; run {fields['run']}"
    )


def _devices(fields: Event) -> str:
    text = f"computing on {_value(fields['devices'])}"
    if fields["workers"] > 1:
        text += f", worker {fields['worker']} of {fields['workers']}"
    return text


def _phase(fields: Event) -> str:
    if "steps" not in fields:
        return "the head, fitted to features"
    what = {
        "head": "the head alone",
        "fine-tune": "the top of the backbone too",
        "all": "the whole model",
    }.get(fields["phase"], fields["phase"])
    return f"{what}: {fields['trainable']:,} weights, {counted(fields['steps'], 'step')} an epoch"


def _gain(fields: Event) -> str:
    gain = fields["gain"]
    which = "lower" if gain > 0 else "higher"
    error = fields["standard_error"]
    return (
        f"the validation loss is {which} by {abs(gain):.4f}, with a standard error of {error:.4f}"
    )


def _trained(fields: Event) -> str:
    if "epochs" not in fields:
        return (
            f"trained a head on {_labels(fields['images'])} images in "
            f"{duration(fields['seconds'])}; on images that it had not seen, "
            f"loss {fields['validation_loss']:.3f}, accuracy {fields['validation_accuracy']:.3f}; "
            f"in {fields['storage']}"
        )
    return (
        f"trained {counted(fields['epochs'], 'epoch')} in {duration(fields['seconds'])}; the best "
        f"is epoch {fields['best_epoch']}: validation loss {fields['validation_loss']:.3f}, "
        f"accuracy {fields['validation_accuracy']:.3f}; model in {fields['storage']}"
    )


def _complete(fields: Event) -> str:
    text = f"dataset complete: {_split(fields['images'])} images, {size(fields['bytes'])}"
    parts = [f"{text}, {counted(fields['requests'], 'request')}"]
    for name, verb in (
        ("copied", "copied from other tags"),
        ("failures", "failed"),
        ("skipped", "skipped"),
    ):
        if value := fields.get(name):
            parts.append(f"{verb}: {_value(value)}")
    return "; ".join([*parts, f"in {fields['storage']}"])


def _going_on(fields: Event) -> str:
    if isinstance(fields.get("rows"), Mapping):
        return f"going on: {_labels(fields['rows'])} images are stored already"
    if "missing" in fields:
        return f"going on: {fields['missing']:,} of {fields['shards']:,} shards are missing"
    return f"going on: {counted(fields['images'], 'image')} are there already"


def _curated(fields: Event) -> str:
    found = []
    if fields["dropped"]:
        found.append(f"{counted(fields['dropped'], 'near-duplicate')} dropped")
    if fields["groups"]:
        found.append(f"{counted(fields['groups'], 'group')} of near-duplicates kept together")
    if fields["conflicting"]:
        found.append(f"{counted(fields['conflicting'], 'image')} with both labels")
    if not found:
        return "curated: no near-duplicates"
    return f"curated: {', '.join(found)}; now {_split(fields['images'])} images"


def _explored(fields: Event) -> str:
    what = f"explored {fields['images']:,} images" if "images" in fields else "already explored"
    return f"{what}: train at {fields['height']}x{fields['width']} pixels; page {fields['report']}"


def _shortcut(fields: Event) -> str:
    return (
        f"a shortcut: the label can be told without a look at the pictures, by {fields['by']} "
        f"(ROC AUC {fields['roc_auc']:.2f}): {fields['how']}. {fields['advice']}"
    )


def _packed(fields: Event) -> str:
    text = (
        f"packed {_split(fields['images'])} images in {counted(fields['shards'], 'shard')}, "
        f"{size(fields['bytes'])}; pack {fields['name']}"
    )
    return f"{text}; left out: {_value(fields['left_out'])}" if fields["left_out"] else text


def _evaluated(fields: Event) -> str:
    return (
        f"evaluated on {fields['images']:,} test images: precision {_share(fields['precision'])}, "
        f"recall {_share(fields['recall'])}, accuracy {_share(fields['accuracy'])}, from "
        f"probability {fields['threshold']:g} on; {fields['worth']}; page {fields['report']}"
    )


def _evidence(fields: Event) -> str:
    return (
        f"{fields['right']:,} of {fields['called']:,} calls were right on images that it had not "
        f"seen, so precision is at least {fields['bound']:.3f} with "
        f"{100 * fields['confidence']:g} % confidence"
    )


def _not_promised(fields: Event) -> str:
    return (
        f"a precision of {fields['min_precision']:g} cannot be promised: {_evidence(fields)}; "
        f"{fields['advice']}"
    )


def _judged(fields: Event) -> str:
    return (
        f"labels judged of {fields['images']:,} images: {fields['suspect_positives']:,} positives "
        f"and {fields['suspect_negatives']:,} negatives are probably wrong"
    )


def _found(fields: Event) -> str:
    text = f"predicted {counted(fields['images'], 'image')}: {fields['positives']:,} "
    if fields.get("tags", 1) == 1:
        return text + "have the tag"
    return text + "times an image has one of the tags"


def _predicted(fields: Event) -> str:
    text = _found(fields)
    if fields.get("errors"):
        text += f"; {fields['errors']:,} could not be read ({_value(fields['reasons'])})"
    return text if fields["output"] == "-" else f"{text}; {fields['output']}"


def _estimated(fields: Event) -> str:
    if not fields["alike"]:
        return (
            f"by their scores these {fields['images']:,} images are unlike those that the "
            "threshold was tried on: don't trust what is called the tag before an audit "
            "(imagetag audit)"
        )
    share, precision, wanted = fields["share"], fields["precision"], fields["wanted"]
    low, value, high = (_percent(share[name]) for name in ("low", "value", "high"))
    text = (
        f"about {value} % ({low} to {high} %) of these {fields['images']:,} images have the tag; "
        f"at this share the precision of what is called it is about {precision['value']:.2f} "
        f"({precision['low']:.2f} to {precision['high']:.2f})"
    )
    if fields["advice"] is None:
        return text
    if fields["advice"] == "keep":
        return f"{text}: keep the threshold; this is estimated, not promised"
    text += f", and {wanted:g} was wanted"
    if fields["advice"] == "tighten":
        return f"{text}: tighten the threshold by --threshold {fields['threshold']:g}, or audit it"
    return (
        f"{text}: don't trust it before an audit (imagetag audit), as the pictures that it was "
        "tried on show no threshold that keeps it"
    )


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{round(percent, 0 if percent >= 10 else 1 if percent >= 1 else 2):g}"


def _ended(fields: Event) -> str:
    """Return what a job did, in all and by stage."""
    found = fields["summary"]
    text = [f"done in {duration(found['seconds'])}"]
    for name, stage in found.get("stages", {}).items():
        counts = [
            f"{value:,} {_words(key)}"
            for key, value in stage.items()
            if key not in ("seconds", "per_second") and not key.endswith("_bytes")
        ]
        if counts and stage.get("per_second"):
            counts.append(f"{rate(stage['per_second'])}/s")
        moved = [f"{size(stage[k])} {k[:-6]}" for k in _MOVED if k in stage]
        if counts:
            text.append(f"{_WORK.get(name, name)} {', '.join([*counts, *moved])}")
    moved = [f"{size(found[key])} {key[:-6]}" for key in _MOVED if key in found]
    return "; ".join([*text, *([f"in all {', '.join(moved)}"] if moved else [])])


_MOVED = ("fetched_bytes", "read_bytes", "written_bytes")


def _read_list(fields: Event) -> str:
    more = {"joined": fields["joined"], "of unknown rating": fields["rating_unknown"]}
    told = [f"{count:,} {what}" for what, count in more.items() if count]
    return f"read {fields['board']}: {', '.join([counted(fields['posts'], 'picture'), *told])}"


def _embedded(fields: Event) -> str:
    more = {
        "had features before": fields["already"],
        "cannot be decoded": fields["unreadable"],
        "are not in storage": fields["missing"],
    }
    told = [f"{count:,} {what}" for what, count in more.items() if count]
    images = f"{counted(fields['images'], 'image')} of {counted(fields['tags'], 'tag')}"
    return f"embedded {', '.join([images, *told])}; extractor {fields['extractor']}"


def _left_out(fields: Event) -> str:
    what = fields.get("file") or fields.get("md5") or fields.get("run")
    why = fields.get("detail") or fields["reason"]
    return f"left out: {what}: {why}" if what else f"left out: {why}"


_WORK = {
    "compare": "comparing runs",
    "comparing": "comparing images",
    "embed": "embedding",
    "drawing": "drawing pictures",
    "features": "what the backbone sees",
    "hashing": "hashing images",
    "pack": "packing",
    "predict": "predicting",
    "score": "scoring",
    "sync": "fetching images",
    "train": "training",
}

_SENTENCES: dict[str, Callable[[Event], str]] = {
    "already complete": lambda fields: (
        f"dataset already complete: {_split(fields['images'])} images"
    ),
    "already curated": lambda fields: f"already {_curated(fields)}",
    "already evaluated": lambda fields: f"already evaluated; page {fields['report']}",
    "already explored": _explored,
    "already exported": lambda fields: f"already exported: {fields['output']}",
    "already packed": lambda fields: f"already packed: {fields['name']}",
    "already predicted": lambda fields: f"already {_found(fields)}; {fields['output']}",
    "already trained": lambda fields: f"already trained; model in {fields['storage']}",
    "curated": _curated,
    "dataset complete": _complete,
    "devices": _devices,
    _ENDED: _ended,
    "epoch": _epoch,
    "evaluated": _evaluated,
    "explored": _explored,
    "evaluate could promise no precision at this threshold": lambda fields: (
        f"evaluate could not promise a precision of {fields['min_precision']:g}: it is at least "
        f"{fields['bound']:.3f}"
    ),
    "exported": lambda fields: f"exported {counted(fields['tags'], 'tag')}: {fields['output']}",
    "fewer than asked for": lambda fields: (
        f"{fields['images']:,} of {fields['wanted']:,} {fields['label']} images: "
        f"{fields.get('source', 'the board')} has no more that fit"
    ),
    "fine-tuning is kept": lambda fields: f"fine-tuning is kept: {_gain(fields)}",
    "fine-tuning is no better: the head is kept": lambda fields: (
        f"fine-tuning is no better, and the head is kept: {_gain(fields)}"
    ),
    "fitted": lambda fields: (
        f"head fitted to {counted(fields['images'], 'image')}, with a C of {fields['strength']:g}"
    ),
    "going on": _going_on,
    "host answers again": lambda fields: f"{fields['host']} answers again",
    "host paused": lambda fields: (
        f"{fields['host']} is left alone for {duration(fields['seconds'])}: {fields['error']}"
    ),
    "labels judged": _judged,
    "left out": _left_out,
    "embedded": _embedded,
    "packed": _packed,
    "estimated": _estimated,
    "phase": _phase,
    "no label is judged": lambda fields: f"no label is judged: {fields['reason']}",
    "precision cannot be promised": _not_promised,
    "precision promised": lambda fields: (
        f"a precision of {fields['min_precision']:g} is promised: {_evidence(fields)}"
    ),
    "predicted": _predicted,
    "reading the board": lambda fields: f"reading {fields['board']} ({fields['by']})",
    "read the list": _read_list,
    "reported": lambda fields: f"{fields['headline'].rstrip('.')}; page {fields['report']}",
    "resumed": lambda fields: (
        f"going on from the checkpoint in epoch {fields['epoch']}, step {fields['step']}"
    ),
    "already audited": lambda fields: f"already audited: {fields['result']}",
    "audited": lambda fields: f"{fields['tag']}: {fields['result']}",
    "auditing": lambda fields: (
        f"{counted(fields['pictures'], 'picture')} that {fields['run']} called {fields['tag']}, "
        f"{fields['judged']:,} of them judged; open this address in a browser, and end with Ctrl-C"
    ),
    "reviewing": lambda fields: (
        f"{counted(fields['pictures'], 'picture')} of the queue {fields['queue']}, "
        f"{fields['judged']:,} of them judged; open this address in a browser, and end with Ctrl-C"
    ),
    "serving": lambda fields: (
        f"serving {counted(fields['posts'], 'post')} as a board of engine {fields['engine']}; "
        "Ctrl-C ends it"
    ),
    "shortcut: the label can be told without a look at the pictures": _shortcut,
    "tag done": lambda fields: f"done, {fields['number']} of {counted(fields['of'], 'tag')}",
    "went wrong while stopping": lambda fields: (
        f"while stopping this went wrong too: {fields['error']}"
    ),
    "trained": _trained,
    "training": _training,
}


# --- Numbers


def duration(seconds: float) -> str:
    """Return a time as it is said: `40 s`, `3 min`, `1 h 20 min`, `3 days`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(count: float) -> str:
    """Return bytes as they are said: `640 kB`, `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def rate(per_second: float) -> str:
    """Return how many a second as it is said: `3.2`, `1,200`."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def counted(number: int, one: str) -> str:
    """Return a number of things: `1 epoch`, `2 epochs`."""
    return f"{number:,} {one}{'s' * (number != 1)}"
