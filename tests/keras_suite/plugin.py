"""A pytest plugin that notes what each fit of a test suite leaves, with a callback or without.

A pytest of its own loads it with ``-p``, over the tests that Keras installs with itself.
"""

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import logging
import random
import sys
import tempfile
import types
import unittest
import warnings
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

from tb_firstloss.errors import FirstLossWarning
from tb_firstloss.reading.recordings import read_first_losses
from tests.keras_suite.injected import INJECTED

SEED = 7


def pytest_addoption(parser):
    parser.addoption("--notes", help="file that the notes go to, one JSON object per line")
    parser.addoption("--inject", choices=list(INJECTED), help="which callback every fit gets")
    parser.addoption("--position", choices=["first", "last", "either"])


def pytest_configure(config):
    config.pluginmanager.register(Notes(config.option))


def pytest_collection():
    """Lets test modules import what only some of their tests use."""
    for name, module in {"jax": without_jax(), "conftest": of_keras()}.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = module


def pytest_collection_finish():
    for name in ("jax", "conftest"):
        if getattr(sys.modules.get(name), "stands_in", False):
            del sys.modules[name]


def without_jax():
    """Returns a module that skips the test that uses it."""

    def skip(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise unittest.SkipTest("needs jax")

    module = types.ModuleType("jax")
    module.__getattr__, module.stands_in = skip, True
    return module


def of_keras():
    """Returns what is used of the conftest of Keras's repository, which is not installed."""
    module = types.ModuleType("conftest")
    module.stands_in = True
    module.skip_if_backend = lambda backend, reason: pytest.mark.skipif(
        keras.backend.backend() == backend, reason=reason
    )
    return module


class Notes(logging.Handler):
    """Wraps ``fit``, and writes down what it and the test around it left."""

    def __init__(self, options):
        super().__init__(logging.WARNING)
        self._path = Path(options.notes)
        self._make = INJECTED[options.inject] if options.inject else None
        self._position = options.position
        self._test, self._fits, self._logdir = "", 0, None
        self._said: list[str] = []
        owner = next(base for base in keras.Model.__mro__ if "fit" in vars(base))
        owner.fit = self._noting(owner.fit)
        warnings.warn = self._listening(warnings.warn)
        logging.getLogger("tb_firstloss").addHandler(self)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        """Gives each test its seeds and a logdir, which all of its fits share."""
        self._test, self._fits = item.nodeid, 0
        with tempfile.TemporaryDirectory() as logdir, seeded():
            self._logdir = logdir
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        error = None if call.excinfo is None else call.excinfo.typename
        if call.when == "call" or error:
            self._write(
                test=item.nodeid,
                phase=call.when,
                outcome=report.outcome,
                error=error,
                report=str(report.longrepr)[-4000:] if report.failed else "",
            )
        return report

    def emit(self, record):
        self._said.append(record.getMessage())

    def _noting(self, fit):
        signature = inspect.signature(fit)

        @functools.wraps(fit)
        def noting_fit(model, *args, **kwargs):
            number, self._fits, self._said = self._fits, self._fits + 1, []
            before = iterations_of(model), getattr(model, "history", None)
            call = signature.bind(model, *args, **kwargs)
            injected = self._inject(call.arguments)
            error = None
            try:
                return fit(*call.args, **call.kwargs)
            except BaseException as raised:
                error = type(raised).__name__
                raise
            finally:
                self._write(
                    test=self._test,
                    fit=number,
                    error=error,
                    left=what_is_left(model),
                    trained=has_trained(model, *before),
                    logged=logged_for_one_batch(model),
                    **self._what_is_recorded(injected),
                    said=self._said,
                )

        return noting_fit

    def _what_is_recorded(self, injected):
        """Returns what the callback holds, and the digests of what can be read back."""
        first = getattr(injected, "first_batch", None)
        if first is None:
            return {"first": None}
        return {
            "first": first.digest,
            "on_disk": [each.digest for each in read_first_losses(self._logdir).values()],
            "loss": None if first.loss is None else float(first.loss),
        }

    def _inject(self, arguments):
        if self._make is None:
            return None
        callback, given = self._make(self._logdir), arguments.get("callbacks")
        if isinstance(given, keras.callbacks.CallbackList):
            given.append(callback)
            callback.set_params(given.params)
            callback.set_model(arguments["self"])
            return callback
        given = given if isinstance(given, (list, tuple)) else [given] if given else []
        chosen = zlib.crc32(f"{self._test} {self._fits}".encode()) % 2  # also when run alone
        at_the_front = {"first": True, "last": False}.get(self._position, chosen)
        arguments["callbacks"] = [callback, *given] if at_the_front else [*given, callback]
        return callback

    def _listening(self, warn):
        @functools.wraps(warn)
        def listening_warn(message, category=None, stacklevel=1, *args, **kwargs):
            kind = type(message) if isinstance(message, Warning) else category
            if isinstance(kind, type) and issubclass(kind, FirstLossWarning):
                self._said.append(str(message))
            return warn(message, category, stacklevel + 1, *args, **kwargs)

        return listening_warn

    def _write(self, **note):
        with self._path.open("a") as file:
            file.write(json.dumps(note) + "\n")


@contextlib.contextmanager
def seeded():
    """Seeds everything, also what a test would seed from the clock (as Keras's test data are)."""
    seed = np.random.seed
    keras.utils.set_random_seed(SEED)
    np.random.seed = lambda given=None: seed(SEED if given is None else given)
    try:
        yield
    finally:
        np.random.seed = seed


def what_is_left(model):
    """Returns everything that training changes, by name; variables as digests of their bits."""
    generators = repr((np.random.get_state(), random.getstate()))
    return {
        "weights": digest_of(model),
        "optimizer": digest_of(getattr(model, "optimizer", None)),
        "iterations": iterations_of(model),
        "history": repr(history_of(model)),  # repr tells every bit of a float
        "stop_training": getattr(model, "stop_training", None),
        "generators": hashlib.sha256(generators.encode()).hexdigest(),
    }


def digest_of(owner):
    """Returns a digest of the variables of a model or an optimizer."""
    digest = hashlib.sha256()
    for variable in getattr(owner, "variables", []):
        array = np.asarray(variable)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def history_of(model):
    return getattr(getattr(model, "history", None), "history", None)


def iterations_of(model):
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    return None if iterations is None else int(iterations)


def has_trained(model, iterations, history):
    """Returns whether a fit has trained on a batch, going by what was there before it."""
    if iterations_of(model) != iterations:
        return True
    return getattr(model, "history", None) is not history and bool(history_of(model))


def logged_for_one_batch(model):
    """Returns the loss that Keras logged for the first epoch, if that had a single batch."""
    params = getattr(getattr(model, "history", None), "params", None) or {}
    losses = (history_of(model) or {}).get("loss", [])
    return float(losses[0]) if losses and params.get("steps") == 1 else None
