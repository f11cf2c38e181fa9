"""What all tests share: a quiet, CPU-only TensorFlow with two logical devices."""

import os
import signal
import sys

import pytest

from tb_firstloss import reading
from tb_firstloss.reading.format import extension

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

pytest.register_assert_rewrite("tests.helpers.fit_cases")

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and ends.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def chromium():
    """A browser; Playwright runs once in a process."""
    from playwright.sync_api import sync_playwright

    from tests.tensorboard_tab.browser.serving import CHROMIUM_FLAGS, find_chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=["python", "compiled"] if reading.compiled else ["python"])
def engine(request, monkeypatch):
    """Reads with the Python reference, and with the extension where it was built."""
    if request.param == "python":
        monkeypatch.setattr(extension, "scan", None)
        monkeypatch.setattr(extension, "google_crc32c", None)
    return request.param


@pytest.fixture
def ours(caplog):
    """Gives the messages that this package has logged.

    TensorFlow logs into the same process, for example that functions are traced too often, which
    depends on the tests that ran before.
    """
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("tb_firstloss")]


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Sees after every test that neither a default writer, a trace nor a profiler is left.

    A thread's default writer outlives what set it, and every later summary would go there.
    """
    yield
    if "tensorflow" in sys.modules:
        import tensorflow as tf
        from tensorflow.python.ops import summary_ops_v2
        from tensorflow.python.profiler import profiler_v2

        assert not tf.summary.should_record_summaries(), "a default summary writer is left"
        assert summary_ops_v2._current_trace_context is None, "a trace is left"
        assert profiler_v2._profiler is None, "a profiler is left"
