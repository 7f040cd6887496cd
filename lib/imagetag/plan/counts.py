"""What a board says of tags before anything is fetched: by a few requests for each.

The first posts of a tag tell whether they carry it, how many of them could be taken, and where they
end; only where there are more is the board asked how many, and only where there is none for tags
that are spelt alike.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from imagetag.boards import Board, Post
from imagetag.dataset import load_dataset
from imagetag.errors import ImagetagError, TransientError, one_line
from imagetag.log import Progress
from imagetag.plan.network import Network
from imagetag.plan.rates import is_of
from imagetag.scrape import Selection
from imagetag.status import Overview
from imagetag.storage import Storage
from imagetag.suggest import nearest
from imagetag.web import HttpError

EstimatedStage = Literal["scrape", "explore", "embed", "train", "evaluate"]

_SAMPLE = 100  # posts of a tag that are looked at
_IN_VAIN = 2  # tags in a row that a board does not answer to, before it is asked no more
_NAMES = 3


@dataclass(frozen=True)
class Asked:
    """What a board says of a tag.

    Attributes:
        tag: it.
        posts: how many there are that its search can tell from others; None where it does not say.
        exact: whether that is a count of posts that were seen, not what the board says.
        fit: which share of the posts that were looked at the settings let pass, None without any.
        alias_of: tags that all of these posts carry, where none of them carries this one.
        similar: tags that are spelt alike, where there is no post.
        problem: why the board does not say.

    """

    tag: str
    posts: int | None = None
    exact: bool = False
    fit: float | None = None
    alias_of: tuple[str, ...] = ()
    similar: tuple[str, ...] = ()
    problem: str = ""

    def positives(self, limit: int) -> int | None:
        """Return about how many images a scrape of so many at the most will find; None unknown."""
        if self.alias_of or self.posts == 0:
            return 0
        if self.posts is None or self.fit is None:
            return None
        return min(limit, math.floor(self.posts * self.fit + 0.5))


def ask_board(board: Board, selection: Selection, tags: Sequence[str]) -> Iterator[Asked]:
    """Yield what a board says of each tag, in order.

    One that does not answer is not asked on and on: of the other tags nothing is known then.

    Raises:
        UsageError: if it refuses us.

    """
    in_vain, problem = 0, ""
    with Progress(f"asking {board.called}", total=len(tags), unit="tags", stage="ask") as progress:
        for tag in tags:
            if in_vain < _IN_VAIN:
                try:
                    found = _ask(board, selection, tag)
                    in_vain = 0
                except (TransientError, HttpError) as error:
                    in_vain, problem = in_vain + 1, one_line(error, 150)
                    found = Asked(tag, problem=problem)
            else:
                found = Asked(tag, problem=f"not asked: {problem}")
            progress.advance()
            yield found


def find_complete(storage: Storage, selection: Selection, tags: Sequence[str]) -> dict[str, Asked]:
    """Return the tags whose dataset is there as it would be scraped, and how many it has.

    Nobody is asked of those again. A read for each tag tells.
    """
    wanted = selection.model_dump(mode="json")

    def look(tag: str) -> Asked | None:
        try:
            dataset = load_dataset(storage, tag)
        except ImagetagError:  # there is none; or it cannot be read, and is made anew
            return None
        positives = sum(labels["positive"] for labels in dataset.images.values())
        return Asked(tag, positives, True, 1.0) if dataset.request == wanted else None

    with ThreadPoolExecutor(16, thread_name_prefix="complete") as pool:
        found = pool.map(look, tags)
        return {asked.tag: asked for asked in found if asked is not None}


def find_done(
    storage: Storage,
    complete: Iterable[str],
    network: Network,
    min_precision: float,
    confidence: float,
) -> dict[str, tuple[EstimatedStage, ...]]:
    """Return what is done of tags: markers tell, up to five reads for each.

    Args:
        storage: has them.
        complete: tags whose dataset is as it would be scraped.
        network: that is to be trained, or embeds: what is done with another is not done.
        min_precision: that is to be promised,
        confidence: how surely: what is evaluated for another promise is not done.

    """
    tags = list(complete)
    found: dict[str, tuple[EstimatedStage, ...]] = {}
    for status in Overview(storage, tags).read() if tags else ():
        promise = status.promise
        promised = promise and (promise.min_precision, promise.confidence)
        embed = status.stages["embed"]
        trained = status.stages["train"].state == "complete" and status.model == network.model
        evaluated = trained and status.stages["evaluate"].state == "complete"
        is_done: dict[EstimatedStage, bool] = {
            "scrape": True,
            "explore": status.stages["explore"].state == "complete",
            "embed": embed.state == "complete"
            and is_of(embed.result, network.model, network.extractor),
            "train": trained,
            "evaluate": evaluated and promised == (min_precision, confidence),
        }
        found[status.tag] = tuple(stage for stage, done in is_done.items() if done)
    return found


def _ask(board: Board, selection: Selection, tag: str) -> Asked:
    query = selection.query((tag,))
    size = min(_SAMPLE, board.site.page_size)
    posts = list(itertools.islice(board.walk(query, limit=size), size))
    if not posts:
        similar = tuple(nearest(tag, board.similar(tag), _NAMES))
        return Asked(tag, posts=0, exact=True, similar=similar)
    carrying = [post for post in posts if tag in post.tags]
    if not carrying:
        return Asked(tag, posts=0, alias_of=_common(posts, tag))
    fit = sum(selection.unfit(post, tag, "positive") is None for post in posts) / len(posts)
    if len(posts) < size:
        return Asked(tag, posts=len(posts), exact=True, fit=fit)
    return Asked(tag, posts=board.count(query), fit=fit)


def _common(posts: Sequence[Post], tag: str) -> tuple[str, ...]:
    """Return the tags that all posts have, what is spelt most like one first."""
    counts = Counter(name for post in posts for name in set(post.tags))
    everywhere = [name for name, count in counts.items() if count == len(posts)]
    alike = nearest(tag, everywhere, _NAMES)
    rest = sorted(name for name in everywhere if name not in alike)
    return tuple([*alike, *rest][:_NAMES])
