"""MultiWorkerMirroredStrategy with two real processes; one run of both serves all cases."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import read_first_loss, read_first_losses
from tb_firstloss.capture.distribution.workers import check_strategy_is_known
from tb_firstloss.errors import CaptureError

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2).sum(1)
"""Loss per example at the initial weight 1; a global batch is four of them."""

FITTED = 2 - 0.001 * 2 * sum(
    batch.sum(1).mean() for batch in np.split(np.arange(20.0).reshape(10, 2), [4, 8])
)
"""Sum of the two weights after two epochs of gradient descent on the mean of ROWS' absolutes."""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Logdir, and by case what worker 0 and worker 1 reported."""
    folder = tmp_path_factory.mktemp("workers")
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        root = Path(__file__).parents[3]
        command = [
            sys.executable,
            "-m",
            "tests.helpers.worker",
            folder / "logs",
            folder / f"{index}.json",
        ]
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(
            subprocess.Popen(
                command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    try:
        printed = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text[-3000:]
    said = [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
    return folder / "logs", {case: (said[0][case], said[1][case]) for case in said[0]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "expected", "counts"),
    [
        ("data", ROWS[:4], [2, 2]),
        ("off", [*ROWS[:2], *ROWS[:2]], [2, 2]),
        ("empty", ROWS[:2], [2, 0]),
        ("bfloat16", ROWS[:4], [2, 2]),
        ("fit", ROWS[:4], [2, 2]),
    ],
)
def test_the_chief_writes_every_example_in_global_order(trained, case, expected, counts):
    logdir, said = trained
    first = read_first_loss(logdir / case)
    assert first.per_example.astype(np.float32).tolist() == list(expected)
    assert first.metadata["replica_counts"] == counts
    assert first.metadata["global_batch_size"] == sum(counts)
    assert first.metadata["replicas"] == 2
    assert [worker["digest"] for worker in said[case]] == [first.digest] * 2


@pytest.mark.slow
def test_only_the_chief_writes(trained):
    logdir, said = trained
    for case, (chief, other) in said.items():
        assert other["run_dir"] is None, case
        run = "first_batch-no-loss" if other["warnings"] else "first_batch"
        if case != "fit-declines":
            assert chief["run_dir"] == str(logdir / case / run)
            assert list(read_first_losses(logdir / case)) == [run]
    assert len(list((logdir / "data").rglob("*.xplane.pb"))) == 1


@pytest.mark.slow
def test_different_trailing_shapes_become_one_ragged_tensor(trained):
    (output,) = read_first_loss(trained[0] / "ragged").outputs.values()
    assert output.row_splits[0].tolist() == [0, 2, 4, 7, 10]
    assert output.per_example.tolist() == [1] * 4 + [2] * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "loss"),
    [("scalar", ROWS[:4].sum() / 4), ("reduced", ROWS[:4].sum()), ("fit", ROWS[:4].mean())],
)
def test_a_scalar_is_combined_once(trained, case, loss):
    """Summed if each worker has a share; taken as it is if training has reduced it."""
    assert read_first_loss(trained[0] / case).loss == loss


@pytest.mark.slow
def test_each_of_several_losses_is_combined_once(trained):
    losses = read_first_loss(trained[0] / "losses").losses
    assert list(losses.items()) == [("d", ROWS[:4].sum() / 4), ("g", ROWS[:4].sum() / 2)]


@pytest.mark.slow
def test_a_tensor_that_is_differentiated_is_added_up_over_all_workers(trained):
    """Though both workers' sums are equal, as if training had combined them."""
    first = read_first_loss(trained[0] / "vector-total")
    assert (first.loss, first.per_example.tolist()) == (4, [1, 1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("names", "do not fit together: losses [['d'], ['g']]"),
        ("ranks", "do not fit together: float32[2], float32[2, 1]"),
        ("one-fails", "worker 0 records, worker 1 failed"),
        ("one-declines", "worker 0 records, worker 1 does not record"),
        ("fit-declines", "worker 0 records, worker 1 does not record"),
    ],
)
def test_a_disagreement_is_one_warning_on_each_worker_and_training_goes_on(trained, case, message):
    logdir, said = trained
    chief, other = said[case]
    assert len(chief["warnings"]) == 1
    assert message in chief["warnings"][0]
    assert len(other["warnings"]) == 1
    assert not (logdir / case / "first_batch").exists() or not read_first_losses(logdir / case)


@pytest.mark.slow
def test_training_ends_with_the_same_weights_on_both(trained):
    for case, workers in trained[1].items():
        if case.startswith("fit"):
            assert workers[0]["weight"] == workers[1]["weight"] == pytest.approx(FITTED), case
            continue
        steps = 5 if case == "off" else 3  # unsharded, each worker takes two of ten rows per step
        assert [worker["weight"] for worker in workers] == [1 + 0.5 * steps] * 2, case


@pytest.mark.parametrize(
    ("cluster", "several"),
    [
        ({"worker": ["a:1", "b:1"]}, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, True),
        ({"worker": ["a:1"]}, False),
        ({"worker": ["a:1", "b:1"], "ps": ["c:1"]}, False),
        (None, False),
    ],
    ids=["two-workers", "chief-and-worker", "one-worker", "parameter-servers", "none"],
)
def test_a_worker_without_a_strategy_does_not_mistake_itself_for_the_only_one(
    monkeypatch, cluster, several
):
    import tensorflow as tf

    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}} if cluster else {}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with contextlib.ExitStack() as stack:
        if several:
            stack.enter_context(pytest.raises(CaptureError, match="strategy=strategy"))
        check_strategy_is_known(tf.distribute.get_strategy())
