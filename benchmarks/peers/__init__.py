"""How others read scalars from a logdir: at their fastest documented setting, everything kept.

Each reader takes a logdir and returns {(run, tag): (steps, values)}, both as NumPy arrays.
RustBoard serves while it loads, so it is also told the last step that every run and tag will have.
"""

import contextlib
import logging
import os
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

KEEP_ALL = {"scalars": 0, "tensors": 0, "histograms": 0, "images": 0, "audio": 0}


def versions():
    """Returns what is compared, as text."""
    names = ["tb-firstloss", "tensorboard", "tensorboard-data-server", "tbparse", "numpy"]
    found = []
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def tb_firstloss(logdir):
    from tb_firstloss import read_scalars

    found = read_scalars(logdir, on_damage="ignore")
    if not len(found):
        return {}
    codes = found.run_codes.astype(np.int64) * len(found.tag_names) + found.tag_codes
    order = np.argsort(codes, kind="stable")
    parts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    groups = zip(parts, [*parts[1:], len(order)], strict=True)
    return {
        (found.run[order[a]], found.tag[order[a]]): (
            found.step[order[a:b]],
            found.value[order[a:b]],
        )
        for a, b in groups
    }


def event_accumulator(logdir):
    """Through the multiplexer, one accumulator per run."""
    from tensorboard.backend.event_processing import plugin_event_multiplexer
    from tensorboard.util import tensor_util

    logging.disable(logging.ERROR)
    multiplexer = plugin_event_multiplexer.EventMultiplexer(
        size_guidance={"tensors": 0}, tensor_size_guidance=KEEP_ALL
    )
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    found = {}
    for run in multiplexer.Runs():
        for tag in multiplexer.GetAccumulator(run).Tags()["tensors"]:
            metadata = multiplexer.SummaryMetadata(run, tag)
            if metadata.plugin_data.plugin_name == "scalars":
                events = multiplexer.Tensors(run, tag)
                values = [tensor_util.make_ndarray(e.tensor_proto) for e in events]
                found[run, tag] = (np.array([e.step for e in events]), np.array(values))
    return found


def tbparse(logdir):
    """Scalars of TensorFlow 2 are among its tensors, the older ones among its scalars."""
    from tbparse import SummaryReader

    kinds = {"scalars", "tensors"}
    reader = SummaryReader(str(logdir), event_types=kinds, extra_columns={"dir_name"})
    found = {}
    for frame in (reader.scalars, reader.tensors):
        for names, group in frame.groupby(["dir_name", "tag"]) if len(frame) else ():
            found[names] = (group["step"].to_numpy(), group["value"].to_numpy())
    return found


def rustboard(logdir, *, last_step=None, runs=None, patience=600.0):
    """Without a last step, waits until nothing has changed for a second."""
    with _serving(logdir) as (stub, messages):
        plugin = messages.PluginFilter(plugin_name="scalars")
        _wait(stub, messages, plugin, last_step, runs, patience)
        request = messages.ReadScalarsRequest(plugin_filter=plugin)
        request.downsample.num_points = 2**31 - 1
        return {
            (run.run_name, tag.tag_name): (np.array(tag.data.step), np.array(tag.data.value))
            for run in stub.ReadScalars(request).runs
            for tag in run.tags
        }


def _wait(stub, messages, plugin, last_step, runs, patience):
    request = messages.ListScalarsRequest(plugin_filter=plugin)
    deadline, before, since = time.monotonic() + patience, None, time.monotonic()
    while time.monotonic() < deadline:
        listed = stub.ListScalars(request).runs
        steps = [tag.metadata.max_step for run in listed for tag in run.tags]
        if last_step is not None:
            if steps and min(steps) >= last_step and len(listed) >= (runs or 1):
                return
            time.sleep(0.02)  # asked without a pause, it loads more slowly
            continue
        if steps != before:
            before, since = steps, time.monotonic()
        elif time.monotonic() > since + 1:
            return
        time.sleep(0.05)
    raise TimeoutError("RustBoard did not finish")


@contextlib.contextmanager
def _serving(logdir):
    import grpc
    import tensorboard_data_server
    from tensorboard.data.proto import data_provider_pb2, data_provider_pb2_grpc

    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        server = subprocess.Popen(
            [
                tensorboard_data_server.server_binary(),
                f"--logdir={logdir}",
                "--reload=once",
                "--samples-per-plugin=scalars=all,tensors=all",
                "--port=0",
                f"--port-file={port_file}",
                "--die-after-stdin",
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (port_file.exists() and port_file.read_text().endswith("\n")):
                if server.poll() is not None:
                    raise RuntimeError(f"RustBoard ended with {server.returncode}")
                time.sleep(0.002)
            options = [("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(
                f"localhost:{int(port_file.read_text())}", options
            ) as channel:
                yield data_provider_pb2_grpc.TensorBoardDataProviderStub(channel), data_provider_pb2
        finally:
            server.kill()
            server.wait()


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
READERS = {
    "tb_firstloss": tb_firstloss,
    "RustBoard": rustboard,
    "EventAccumulator": event_accumulator,
    "tbparse": tbparse,
}
