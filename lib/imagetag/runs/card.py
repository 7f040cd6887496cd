"""The model card of a run: what a model is for, how it came to be, and how far to trust it.

It begins with the front matter that model hubs read, as Hugging Face's specifies it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from imagetag.dataset import Dataset
from imagetag.layout import Layout
from imagetag.runs.evaluation import ByVerdicts, Evaluation
from imagetag.runs.runs import Run
from imagetag.stats import BinaryMetrics, Estimate
from imagetag.storage import ObjectNotFound, Storage
from imagetag.verdicts import AuditResult, audits_of, load_audits

_LONGEST = 300  # characters of a value
_MOST_AUDITS = 5  # that are told


def model_card(
    run: Run,
    dataset: Dataset,
    cautions: Sequence[str] = (),
    evaluation: Evaluation | None = None,
    audits: Sequence[AuditResult] = (),
) -> str:
    """Return a run's model card, in Markdown with GitHub's tables, behind front matter in YAML.

    Its code expects to run in the run's folder.

    Args:
        run: what it tells of.
        dataset: what the run was trained on.
        cautions: what makes its numbers better than they are, a sentence each.
        evaluation: of the run, once there is one.
        audits: of its predictions; the first ones are told beside the evaluation.

    """
    body = _template().render(
        run=run,
        dataset=dataset,
        cautions=cautions,
        evaluation=evaluation,
        audits=audits[:_MOST_AUDITS],
        estimates=_estimates(evaluation.metrics) if evaluation else {},
        test=dataset.images.get("test", {}),
        by_verdicts=(
            evaluation.verdicts if evaluation else ByVerdicts(learned=run.turned)
        ).sentences,
        custom_layers=run.model == "alexnet",  # its local response normalization
    )
    return _front_matter(run, dataset, evaluation) + body


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("imagetag.runs"),
        autoescape=False,  # noqa: S701 - `finalize` escapes every value, for Markdown too
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["rounded"] = _rounded
    return environment.get_template("card.md")


def store_card(storage: Storage, run: Run, dataset: Dataset, evaluation: Evaluation) -> None:
    """Make a run's model card tell of its evaluation and its audits, if it does not."""
    key = Layout(run.tag).run(run.run, "README.md")
    audits = audits_of(load_audits(storage, run.tag), run.run, run.created)
    card = model_card(run, dataset, evaluation.cautions, evaluation, audits).encode()
    try:
        if storage.read(key) == card:
            return
    except ObjectNotFound:
        pass
    storage.write(key, card)


def _estimates(metrics: BinaryMetrics) -> dict[str, Estimate]:
    """Return the metrics of a test split by the names that model hubs have for them."""
    at_threshold = ("precision", "recall", "f1", "specificity", "accuracy")
    return {
        **{name: getattr(metrics.chosen, name) for name in at_threshold},
        "average_precision": metrics.average_precision,
        "roc_auc": metrics.roc_auc,
        "brier_score": metrics.brier,
    }


def _front_matter(run: Run, dataset: Dataset, evaluation: Evaluation | None) -> str:
    """Return what a hub lists and filters models by; without results, it names none."""
    lines = [
        "---",
        "library_name: keras",
        "license: unknown",  # of the pictures it has learned from, nobody has asked for one
        "pipeline_tag: image-classification",
        f"tags: [imageboard, {_scalar(run.tag)}]",
    ]
    if evaluation is not None:
        values = {
            name: estimate.value
            for name, estimate in _estimates(evaluation.metrics).items()
            if estimate.value is not None
        }
        lines += [
            f"metrics: [{', '.join(values)}]",
            "model-index:",
            f"- name: {_scalar(f'{run.tag} {run.run}')}",
            "  results:",
            "  - task: {type: image-classification}",
            "    dataset:",
            "      type: imagefolder",
            f"      name: {_scalar(f'{run.tag} of {dataset.board}')}",
            "      split: test",
            "    metrics:",
            *(f"    - {{type: {name}, value: {value:.4f}}}" for name, value in values.items()),
        ]
    return "\n".join([*lines, "---", ""])


def _scalar(text: str) -> str:
    """Return a text as YAML in quotation marks, on one line, and no markup to who shows it."""
    letters = []
    for letter in text[:_LONGEST]:
        number = ord(letter)
        if letter.isalnum() or letter in " _-.,:/()":
            letters.append(letter)
        else:
            letters.append(f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}")
    return f'"{"".join(letters)}"'


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _shown(value: Any) -> str:
    """Return a value as Markdown that means nothing but itself: numbers plain, all else as code."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value is None or value in ("", [], (), {}):
        return "\N{EN DASH}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return _code(json.dumps(value, ensure_ascii=False, default=str))
    return _code(str(value))


def _code(text: str) -> str:
    # Line breaks, control characters and what turns the direction of writing are not printable.
    visible = "".join(letter if letter.isprintable() else " " for letter in text)
    words = " ".join(visible.split())
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if not words or not set(words) & set("`|<>"):
        return f"`{words or ' '}`"
    # What would end the code, the cell or the text is written as numbers, which never do.
    letters = (
        letter if letter.isalnum() or letter == " " else f"&#{ord(letter)};" for letter in words
    )
    return f"<code>{''.join(letters)}</code>"
