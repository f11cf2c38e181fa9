"""peek: a look at the first batch before training, with no batch read twice or lost."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any


def peek(batches: Iterable[Any]) -> tuple[Any, "Batches"]:
    """Returns the first batch, and all batches for training, beginning with that one.

    ::

        first, batches = peek(dataset)
        for batch in batches:       # begins with the very same batch
            train_step(batch)

    ``take(1)`` and ``skip(1)`` would read the source twice: under shuffle, the batch you look at is
    not the one you train on, some elements come twice and others never. ``peek`` reads the source
    once and remembers the first batch.

    Args:
        batches: A tf.data.Dataset, a distributed dataset, a list, a generator, an iterator, or
            any other iterable.

    Returns:
        The first batch, as the source yields it, and the batches for the training loop.

    Raises:
        ValueError: There is no batch; the message shows the source's element_spec if it has one.
        TypeError: The source is not iterable.
    """
    rest = iter(batches)
    try:
        first = next(rest)
    except StopIteration:
        spec = getattr(batches, "element_spec", None)
        of = f" (element_spec {spec})" if spec is not None else ""
        raise ValueError(
            f"peek: {type(batches).__name__}{of} has no batch; check for a filter that is too "
            "strict, a wrong path, or an iterator that is used up"
        ) from None
    return first, Batches(batches, first, rest)


class Batches:
    """The batches of a source, after a look at the first one.

    The first iteration yields the remembered batch and then the rest of the same iterator. Every
    later one iterates the source afresh: a dataset shuffles anew, a generator is used up. Iterate
    it in Python, not inside a tf.function.
    """

    def __init__(self, source: Iterable[Any], first: Any, rest: Iterator[Any]) -> None:
        self._source = source
        self._started: Iterator[Any] | None = itertools.chain([first], rest)

    def __iter__(self) -> Iterator[Any]:
        started, self._started = self._started, None
        return iter(self._source) if started is None else started

    def __len__(self) -> int:
        """Returns the source's number of batches per epoch.

        Raises:
            TypeError: The source has no length.
        """
        return len(self._source)  # type: ignore[arg-type]

    @property
    def element_spec(self) -> Any:
        """Shape and dtype of the batches, as the source declares them.

        Raises:
            AttributeError: The source declares none.
        """
        return self._source.element_spec  # type: ignore[attr-defined]

    def as_generator(self, epochs: int = 1) -> Iterator[Any]:
        """Yields the batches of several epochs, for ``model.fit``.

        ``model.fit(batches.as_generator(epochs=3), epochs=3, steps_per_epoch=len(batches))``: Keras
        reads one generator through all epochs, so it needs to know where each one ends.
        """
        for _ in range(epochs):
            yield from self
