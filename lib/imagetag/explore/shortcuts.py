"""What tells the labels apart without a look at the pictures: size, format, file size, post id.

A model that is good at its task for such a reason has learned the wrong thing. It is not shown any
of these, but each leaves traces in the pixels: an era has its style, a format its artefacts, an
aspect its grey bars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from imagetag.record import Record

AUC_LIMIT = 0.7  # above it, something is given away
GUESSING = 0.5

_LEAST = 20  # groups of each label; with fewer, nothing can be told
_FOLDS = 5
_SEED = 0  # of the folds, and of the trees
# Folds learn from the same pictures, and their errors go together: the variance of what they find
# is more than that of independent ones by (1 / k + 1 / (k - 1)) / (1 / k) (Nadeau and Bengio,
# Machine Learning 2003).
_OF_FOLDS = 1 + _FOLDS / (_FOLDS - 1)
# Five checks are made at once, and each may be wrong by chance: together they shall be in no more
# than one of 20 datasets (Bonferroni).
_CONFIDENCE = 0.99

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Name = Literal["size", "format", "file size", "post id", "all together"]

# Nobody can act on a number alone.
_ADVICE: dict[Name, str] = {
    "size": (
        "train with --resize crop, which hides the shape of a picture; or scrape again with "
        "--min-side and --max-aspect, so that both labels have pictures of like size"
    ),
    "format": "scrape again with --extensions of the formats that both labels have",
    "file size": (
        "look at the contact sheets: emptier pictures make smaller files, and that may be the tag "
        "itself; where it is another source or quality, take both labels from one source"
    ),
    "post id": (
        "the labels are of different times or sources, and so of different styles: scrape "
        "positives and negatives of one span of ids, with a lower --negative-ratio or a later "
        "--since"
    ),
    "all together": "none of them does so alone; see which are highest, and begin with that",
}


class Check(Record):
    """How well something predicts the label of pictures that were held out.

    Attributes:
        name: of what predicts.
        auc: area under the ROC curve; 0.5 is guessing, 1 is always right.
        low: of its 99 % confidence interval.
        high: of its 99 % confidence interval.
        gives_away: whether `auc` is above 0.7, and not by chance.
        how: the numbers that differ most, in words.
        advice: what to do where it gives the label away.

    """

    name: Name
    auc: float
    low: float
    high: float
    gives_away: bool
    how: str
    advice: str

    @property
    def caution(self) -> str:
        """What it means for a model, in a sentence or two."""
        text = (
            f"{self.name.capitalize()} gives the label away without a look at the pictures: "
            f"ROC AUC {self.auc:.2f}."
        )
        return f"{text} {self.how[0].upper()}{self.how[1:]}." if self.how else text


class Shortcuts(Record):
    """What the check found, on pictures of the train split.

    `note` says why it could not be made, and is empty where `checks` has the results.
    """

    positives: int
    negatives: int
    checks: tuple[Check, ...] = ()
    note: str = ""

    @property
    def found(self) -> list[Check]:
        """What gives the label away, the worst first; all together only where nothing else does."""
        given = [check for check in self.checks if check.gives_away]
        alone = [check for check in given if check.name != "all together"]
        return sorted(alone or given, key=lambda check: -check.auc)


@dataclass(frozen=True)
class Facts:
    """What is known of some pictures without a look at them; arrays are (pictures,).

    `width` and `height` are in pixels, `bytes` is of the file, `group` is what belongs together.
    """

    width: Floats
    height: Floats
    bytes: Floats
    post_id: Floats
    ext: NDArray[np.str_]
    group: NDArray[np.uint64]
    positive: Bools


def check_shortcuts(facts: Facts) -> Shortcuts:
    """Return how well size, format, file size and post id predict the label, alone and together.

    Each is given to small boosted trees, which also find what is not monotone, such as a stretch of
    ids. They predict pictures of groups that they have not seen, in five folds. The label is given
    away where the area under the ROC curve is above 0.7 and its 99 % interval above 0.5: in a small
    dataset of no shortcuts, areas above 0.7 come about by chance.
    """
    positives = int(facts.positive.sum())
    negatives = len(facts.positive) - positives
    groups = min(
        len(np.unique(facts.group[facts.positive])), len(np.unique(facts.group[~facts.positive]))
    )
    if groups < _LEAST:
        note = (
            f"that cannot be told of fewer than {_LEAST} groups of pictures of a label, and one "
            f"has {groups}: scrape more images of the tag"
        )
        return Shortcuts(positives=positives, negatives=negatives, note=note)
    folds = _folds(facts)
    families = _features(facts)
    families["all together"] = np.concatenate(list(families.values()), axis=1)
    # So many small fits only wait for each other's threads, most of all where a pod has a part of
    # the node's processors.
    with threadpool_limits(1):
        checks = tuple(_check(name, features, facts, folds) for name, features in families.items())
    return Shortcuts(positives=positives, negatives=negatives, checks=checks)


def auc_interval(
    scores: Floats, positive: Bools, group: NDArray[np.uint64]
) -> tuple[float, float, float]:
    """Return the area under the ROC curve, and the ends of its 99 % confidence interval.

    Of scores from cross-validation. Pictures of one group are not taken for independent
    (Obuchowski, Biometrics 1997).

    Args:
        scores: (pictures,), higher where more likely positive.
        positive: (pictures,), both of them.
        group: what belongs together, (pictures,).

    """
    from scipy import stats  # slow, and whoever reads what was found does without

    ranks = stats.rankdata(scores)
    count, others = int(positive.sum()), int((~positive).sum())
    # Of each picture, the share of the other label that it is ranked right against.
    right = np.empty(len(scores))
    right[positive] = (ranks[positive] - stats.rankdata(scores[positive])) / others
    right[~positive] = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / count
    auc = float(right[positive].mean())

    _, member = np.unique(group, return_inverse=True)
    off = right - auc
    ups = np.bincount(member[positive], off[positive], minlength=member.max() + 1)
    downs = np.bincount(member[~positive], off[~positive], minlength=member.max() + 1)
    of_ups, of_downs = len(np.unique(member[positive])), len(np.unique(member[~positive]))
    every = member.max() + 1
    variance = (
        _unbiased(of_ups) * (ups**2).sum() / count**2
        + _unbiased(of_downs) * (downs**2).sum() / others**2
        + 2 * _unbiased(every) * (ups * downs).sum() / (count * others)
    )
    reach = float(stats.norm.ppf((1 + _CONFIDENCE) / 2) * np.sqrt(max(0.0, _OF_FOLDS * variance)))
    return auc, max(0.0, auc - reach), min(1.0, auc + reach)


def _unbiased(count: int) -> float:
    return count / max(1, count - 1)


def _features(facts: Facts) -> dict[Name, Floats]:
    """Return the features of each family, (pictures, features)."""
    pixels = facts.width * facts.height
    formats = [facts.ext == ext for ext in np.unique(facts.ext)]
    return {
        "size": np.stack([facts.width, facts.height, facts.width / facts.height, pixels], axis=1),
        "format": np.stack(formats, axis=1).astype(np.float64),
        "file size": np.stack([facts.bytes, facts.bytes / pixels], axis=1),
        "post id": facts.post_id[:, None],
    }


def _folds(facts: Facts) -> list[NDArray[np.int64]]:
    """Return the indices of the pictures that each fold holds out; a group is in one of them."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=_SEED)
    nothing = np.zeros((len(facts.positive), 1))
    return [held for _, held in splitter.split(nothing, facts.positive, facts.group)]


def _check(name: Name, features: Floats, facts: Facts, folds: list[NDArray[np.int64]]) -> Check:
    scores = np.zeros(len(features))
    for held in folds:
        rest = np.ones(len(features), dtype=bool)
        rest[held] = False
        scores[held] = _score(features[rest], facts.positive[rest], features[held])
    auc, low, high = auc_interval(scores, facts.positive, facts.group)
    return Check(
        name=name,
        auc=auc,
        low=low,
        high=high,
        gives_away=auc > AUC_LIMIT and low > GUESSING,
        how=_HOW[name](facts),
        advice=_ADVICE[name],
    )


def _score(features: Floats, positive: Bools, held: Floats) -> Floats:
    """Return the log odds of held out pictures, above those of any picture."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    usual = float(np.clip(positive.mean(), 1e-6, 1 - 1e-6))
    if positive.all() or not positive.any():  # one group has all others
        return np.zeros(len(held))
    model = HistGradientBoostingClassifier(
        max_iter=40,
        max_leaf_nodes=8,
        # Of few pictures, leaves of the usual 20 could not be told apart.
        min_samples_leaf=int(np.clip(len(features) // 20, 5, 20)),
        early_stopping=False,
        random_state=_SEED,
    )
    model.fit(features, positive)
    # Folds differ in their share of positives, which is nothing that was learned; and where nothing
    # was, what is left of rounding must not order the folds.
    odds: Floats = model.decision_function(held) - np.log(usual / (1 - usual))
    return odds.round(9)


def _how_size(facts: Facts) -> str:
    def typical(of: Bools) -> str:
        return f"{_median(facts.width[of])} x {_median(facts.height[of])}"

    return (
        f"the median positive is {typical(facts.positive)} pixels (width x height), the median "
        f"negative {typical(~facts.positive)}"
    )


def _how_format(facts: Facts) -> str:
    def share(ext: str, of: Bools) -> float:
        return float(np.mean(facts.ext[of] == ext))

    positive = facts.positive
    ext = max(
        np.unique(facts.ext), key=lambda ext: abs(share(ext, positive) - share(ext, ~positive))
    )
    return (
        f"{100 * share(ext, positive):.0f} % of the positives are {ext}, and "
        f"{100 * share(ext, ~positive):.0f} % of the negatives"
    )


def _how_bytes(facts: Facts) -> str:
    density = facts.bytes / (facts.width * facts.height)

    def typical(of: Bools) -> str:
        return f"{_median(facts.bytes[of] / 1000)} kB ({np.median(density[of]):.2g} bytes a pixel)"

    return (
        f"the median positive has {typical(facts.positive)}, the median negative "
        f"{typical(~facts.positive)}"
    )


def _how_post_id(facts: Facts) -> str:
    def half(of: Bools) -> str:
        low, high = np.percentile(facts.post_id[of], (25, 75))
        return f"{low:.0f} to {high:.0f}"

    return (
        f"half of the positives are posts {half(facts.positive)}, half of the negatives "
        f"{half(~facts.positive)}"
    )


def _median(values: Floats) -> str:
    return f"{np.median(values):,.0f}"


_HOW: dict[Name, Callable[[Facts], str]] = {
    "size": _how_size,
    "format": _how_format,
    "file size": _how_bytes,
    "post id": _how_post_id,
    "all together": lambda _: "",
}
