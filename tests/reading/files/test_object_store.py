"""Reading from object stores: s3:// through s3fs, from a real S3 server on loopback."""

import json
import logging
from pathlib import Path

import boto3
import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer

import tb_firstloss
from tb_firstloss import errors
from tb_firstloss.cli import main
from tests.helpers.event_files import content, event, frame, scalar, version
from tests.reading.test_hostile_recordings import NAME, record

LOG = "events.out.tfevents.1.host"


class Requests(logging.Handler):
    """The requests that the server has answered, as ``GET /bucket/key``."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, entry):
        words = entry.getMessage().split()
        at = next(i for i, word in enumerate(words) if word.startswith("/"))
        self.lines.append(f"{words[at - 1][-4:].strip('m')} {words[at].partition('?')[0]}")


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield boto3.client("s3")
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(server, request):
    """A bucket of the test's own: its name."""
    name = f"runs-{abs(hash(request.node.name))}"
    server.create_bucket(Bucket=name)
    return name


@pytest.fixture
def logdir(tmp_path):
    """Two recordings, one of them in front of 5 MB, and training logs."""
    record(tmp_path / "a" / "first_batch")
    with (record(tmp_path / "b" / "first_batch") / NAME).open("ab") as file:
        file.write(frame(event(scalar("late", 1.0))) + bytes(5 << 20))
    (tmp_path / "a" / LOG).write_bytes(log(3))
    return tmp_path


def log(count):
    steps = (frame(event(scalar("loss", float(i)), step=i)) for i in range(count))
    return frame(version()) + b"".join(steps)


def upload(server, bucket, directory):
    for path in directory.rglob("events*"):
        server.upload_file(str(path), bucket, f"logs/{path.relative_to(directory)}")
    return f"s3://{bucket}/logs"


def deny(server, bucket, action):
    names = f"arn:aws:s3:::{bucket}"
    rule = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": [names, f"{names}/*"]}
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    server.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


READERS = {
    "read_first_loss": lambda p: tb_firstloss.read_first_loss(f"{p}/a").digest,
    "read_first_losses": lambda p: {
        run: first.digest for run, first in tb_firstloss.read_first_losses(p).items()
    },
    "iter_tensors": lambda p: [
        (t.run, t.tag, t.step, str(t.value)) for t in tb_firstloss.iter_tensors(p, tags="loss*")
    ],
    "read_scalars": lambda p: tb_firstloss.read_scalars(p, on_damage="ignore").value.tolist(),
    "a glob": lambda p: tb_firstloss.read_scalars(f"{p}/a*").run_names,
    "iter_events": lambda p: [
        (run, e.SerializeToString()) for run, e in tb_firstloss.iter_events(p, on_damage="ignore")
    ],
    "verify": lambda p: [
        (Path(d.path).name, d.start, d.end, d.kind, d.message) for d in tb_firstloss.verify(p)
    ],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore::tb_firstloss.errors.DamageWarning")
def test_every_reader_finds_there_what_it_finds_here(server, bucket, logdir, reader):
    url = upload(server, bucket, logdir)
    expected = READERS[reader](str(logdir))
    assert expected
    assert READERS[reader](url) == expected


@pytest.mark.parametrize("command", ["show", "tags", "check --expect 2.33", "export --tag loss"])
def test_commands_read_from_there(server, bucket, logdir, capsys, command):
    url = upload(server, bucket, logdir / "a")
    words = command.split()
    assert main([words[0], url, *words[1:]]) == 0
    there = capsys.readouterr()
    assert main([words[0], str(logdir / "a"), *words[1:]]) == 0
    assert there == capsys.readouterr()
    assert main(["compare", url, url]) == 0


def test_of_a_recording_only_the_head_is_requested(server, bucket, logdir):
    url = upload(server, bucket, logdir)
    requests, werkzeug = Requests(), logging.getLogger("werkzeug")
    werkzeug.addHandler(requests)
    try:
        assert len(tb_firstloss.read_first_losses(url)) == 2
    finally:
        werkzeug.removeHandler(requests)
    of_objects = [line for line in requests.lines if line.endswith(NAME)]
    expected = [f"GET /{bucket}/logs/{run}/first_batch/{NAME}" for run in "ab"]
    assert sorted(of_objects) == expected
    assert len(requests.lines) <= len(expected) + 5  # listing


@pytest.mark.parametrize("place", ["", f"/a/{LOG}"], ids=["logdir", "file"])
def test_what_has_grown_since_the_last_call_is_seen(server, bucket, logdir, place):
    url = upload(server, bucket, logdir)
    assert len(tb_firstloss.read_scalars(url + place, runs=["a", "."])) == 3
    server.put_object(Bucket=bucket, Key=f"logs/a/{LOG}", Body=log(5))
    assert len(tb_firstloss.read_scalars(url + place, runs=["a", "."])) == 5


def test_an_object_that_vanishes_after_the_listing_hides_no_other(server, bucket, logdir):
    url = upload(server, bucket, logdir)
    found = tb_firstloss.iter_tensors(url, tags=["loss", "late"], on_damage="warn")
    server.delete_object(Bucket=bucket, Key=f"logs/a/{LOG}")
    with pytest.warns(errors.DamageWarning) as caught:
        assert [(datum.run, datum.tag) for datum in found] == [("b/first_batch", "late")]
    gone = next(str(w.message) for w in caught if LOG in str(w.message))
    assert gone.startswith(f"{url}/a/{LOG}: cannot be read (FileNotFoundError: ")
    assert "\n" not in gone


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:*"], ids=["objects", "everything"])
def test_a_bucket_that_denies_says_so(server, bucket, logdir, capsys, action):
    url = upload(server, bucket, logdir)
    deny(server, bucket, action)
    if action == "s3:*":
        for read in (tb_firstloss.read_first_losses, tb_firstloss.read_scalars):
            with pytest.raises(errors.EventFileError, match=r"cannot be read \(PermissionError"):
                read(url)
    else:
        with pytest.warns(errors.DamageWarning, match=r"cannot be read \(PermissionError") as told:
            assert not tb_firstloss.read_first_losses(url)
        assert len(told) == 2
    assert main(["show", url]) == (2 if action == "s3:*" else 1)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"tb-firstloss: {url}") for line in lines)
    assert len(lines) == (1 if action == "s3:*" else 3)


@pytest.mark.parametrize("place", ["s3://no-such-bucket/logs", "s3://{bucket}/nothing"])
def test_what_is_not_there_says_so(bucket, capsys, place):
    url = place.format(bucket=bucket)
    for read in (tb_firstloss.read_first_loss, tb_firstloss.read_scalars, tb_firstloss.verify):
        with pytest.raises(FileNotFoundError, match=f"^{url}: no such file or directory$"):
            read(url)
    assert main(["show", url]) == 2
    assert capsys.readouterr().err == f"tb-firstloss: {url}: no such file or directory\n"


def test_following_there_is_refused_with_a_way_out(capsys):
    with pytest.raises(ValueError, match=r"follow\(\) watches local files; mount the bucket"):
        tb_firstloss.follow("s3://runs/logs")
    assert main(["watch", "s3://runs/logs"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_capturing_there_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"cannot write to s3://; it knows .*tensorflow-io adds"):
        tb_firstloss.FirstLoss("s3://runs/logs")


def test_an_array_larger_than_a_request_comes_back(server, bucket, tmp_path):
    values = np.arange(3 << 18, dtype=np.float32)
    record(tmp_path, values, stored=content(list(values.shape), values, 1))
    url = upload(server, bucket, tmp_path)
    assert tb_firstloss.read_first_loss(url).per_example.tobytes() == values.tobytes()
