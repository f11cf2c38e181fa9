"""The first batch looked at before training, and nothing read twice or lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any


def peek(batches: Iterable[Any]) -> tuple[Any, Batches]:
    """Takes the first batch, and gives the batches again with that one at their head.

    ::

        first, batches = peek(dataset)
        for batch in batches:       # begins with that very batch
            train_step(batch)

    ``take(1)`` and ``skip(1)`` read the source twice: under shuffle the batch looked at is another
    than the one trained on, some elements come twice and others never. Here the source is read
    once, and the first batch is remembered.

    Args:
        batches: A tf.data.Dataset, a distributed dataset, a list, a generator, an iterator, or
            anything else that Python iterates.

    Returns:
        The first batch as the source gave it, and the batches for the training loop.

    Raises:
        ValueError: There is no batch; the message gives the element_spec where there is one.
        TypeError: The source cannot be iterated.
    """
    rest = iter(batches)
    try:
        first = next(rest)
    except StopIteration:
        spec = getattr(batches, "element_spec", None)
        of = f" (element_spec {spec})" if spec is not None else ""
        raise ValueError(
            f"peek: {type(batches).__name__}{of} has no batch; is a filter too strict, a path "
            "wrong, or an iterator used up?"
        ) from None
    return first, Batches(batches, first, rest)


class Batches:
    """The batches of a source whose first one was looked at.

    The first time it is iterated it gives the remembered batch and then the rest of that very
    iterator; from then on it starts the source afresh, as iterating the source itself would: a
    dataset shuffles anew, a generator is used up. Iterate it in Python, not inside a tf.function.
    """

    def __init__(self, source: Iterable[Any], first: Any, rest: Iterator[Any]) -> None:
        self._source = source
        self._started: Iterator[Any] | None = itertools.chain([first], rest)

    def __iter__(self) -> Iterator[Any]:
        started, self._started = self._started, None
        return iter(self._source) if started is None else started

    def __len__(self) -> int:
        """Returns the number of batches of one epoch, as the source gives it.

        Raises:
            TypeError: The source does not know.
        """
        return len(self._source)  # type: ignore[arg-type]

    @property
    def element_spec(self) -> Any:
        """What the source says that its batches look like.

        Raises:
            AttributeError: The source does not say.
        """
        return self._source.element_spec  # type: ignore[attr-defined]

    def as_generator(self, epochs: int = 1) -> Iterator[Any]:
        """Gives the batches of some epochs as a generator, for ``model.fit``.

        ``model.fit(batches.as_generator(epochs=3), epochs=3, steps_per_epoch=len(batches))``: Keras
        takes a generator for all epochs at once, so it has to be told where one ends.
        """
        for _ in range(epochs):
            yield from self
