"""Functions and attributes that are replaced for a while, and then exactly restored.

Keras tracks what is assigned to a model; ``vars`` bypasses that.
"""

import collections
import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def temporary_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an object an attribute while the block runs."""
    attributes = vars(owner)
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            attributes.pop(name, None)


_lock = threading.Lock()
_hooks: dict[tuple[int, str], tuple[Any, Any]] = {}  # with what vars held before it, or None
_users: collections.Counter[tuple[int, str]] = collections.Counter()


@contextlib.contextmanager
def hooked(owner: Any, name: str, watch: Callable[[Any], Any]) -> Iterator[list[str]]:
    """Puts a hook in front of a function of a module, class or object while any thread needs it.

    ``watch`` makes the hook out of the function. The owner is None where this version of Keras has
    none. Yields why there is no hook, if the owner has no such function.
    """
    original = getattr(owner, name, None)
    if original is None:
        yield [f"this version of Keras has no {name} where it is looked for"]
        return
    key = (id(owner), name)
    with _lock:
        if key not in _hooks:
            _hooks[key] = watch(original), vars(owner).get(name)
            _put(owner, name, _hooks[key][0])
        _users[key] += 1
    try:
        yield []
    finally:
        with _lock:
            _users[key] -= 1
            if not _users[key]:
                del _users[key]
                hook, before = _hooks.pop(key)
                # Other code may have hooked this hook; it then stays, and passes every call on.
                if vars(owner).get(name) is hook:
                    _put(owner, name, before)


def _put(owner: Any, name: str, function: Any) -> None:
    """Sets a function; None takes it away."""
    if isinstance(owner, (type, types.ModuleType)):
        setattr(owner, name, function) if function is not None else delattr(owner, name)
    elif function is None:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = function
