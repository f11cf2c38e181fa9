"""What all tests share: a quiet, CPU-only TensorFlow with two logical devices."""

import contextlib
import os
import sys

import pytest

from tb_firstloss import reading
from tb_firstloss.reading import extension

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session", autouse=True)
def two_logical_cpus():
    """Splits the CPU in two, so that strategies have real replicas.

    It has to come before TensorFlow's first operation. When this runs, collection has imported
    TensorFlow if any test needs it; reading alone never does. So no test module may make a tensor
    at import, in a parametrisation for example.
    """
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])


@pytest.fixture(params=["python", "compiled"] if reading.compiled else ["python"])
def engine(request, monkeypatch):
    """Reads with the Python reference, and with the extension where it was built."""
    if request.param == "python":
        monkeypatch.setattr(extension, "scan", None)
    return request.param


@pytest.fixture
def ours(caplog):
    """Gives the messages that this package has logged.

    TensorFlow logs into the same process, for example that functions are traced too often, which
    depends on the tests that ran before.
    """
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("tb_firstloss")]


@pytest.fixture(autouse=True)
def no_profiler_of_an_earlier_test():
    """Stops a profiler that an earlier test in this process has left running."""
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        with contextlib.suppress(tf.errors.UnavailableError):
            tf.profiler.experimental.stop(save=False)
