"""What TensorBoard's stock dashboards get of the losses of a recording."""

import json

import pytest

from tb_firstloss import read_scalars
from tests.helpers.recorded import write_losses
from tests.tensorboard_tab.browser import serving


def test_each_of_several_losses_is_a_scalar(tmp_path):
    losses = {"g/loss": 0.75, "d": 1.5}
    write_losses(tmp_path / "several", losses)
    write_losses(tmp_path / "one", {"total_loss": 2.5})
    write_losses(tmp_path / "loss-and-more", {"loss": 3.5, "d": 0.5})
    found = read_scalars(tmp_path)
    rows = zip(found.run, found.tag, found.value, strict=True)
    assert {(run.removesuffix("/first_batch"), tag): value for run, tag, value in rows} == {
        ("several", "first_batch/losses/g%2Floss"): 0.75,
        ("several", "first_batch/losses/d"): 1.5,
        ("one", "first_batch/loss"): 2.5,
        ("loss-and-more", "first_batch/loss"): 3.5,
        ("loss-and-more", "first_batch/losses/loss"): 3.5,
        ("loss-and-more", "first_batch/losses/d"): 0.5,
    }


@pytest.mark.slow
def test_the_hparams_dashboard_shows_every_loss_of_runs_of_different_losses(tmp_path):
    write_losses(tmp_path / "a", {"loss": 2.5}, hparams={"rate": 0.1, "name": "x"})
    write_losses(tmp_path / "b", {"d": 1.5, "g": 0.75}, hparams={"rate": 0.2, "momentum": 0.9})
    with serving.tensorboard(tmp_path) as server:
        metrics = {"first_batch/loss", "first_batch/losses/d", "first_batch/losses/g"}
        experiment = server.await_json(
            "data/plugin/hparams/experiment",
            lambda found: {m["name"]["tag"] for m in found.get("metricInfos", [])} >= metrics,
            request=json.dumps({"experimentName": "x"}),
        )
        request = {"startIndex": 0, "sliceSize": 10}
        request["allowedStatuses"] = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"]
        request["colParams"] = [
            *({"metric": metric["name"]} for metric in experiment["metricInfos"]),
            *({"hparam": hparam["name"]} for hparam in experiment["hparamInfos"]),
        ]
        found = server.get_json("data/plugin/hparams/session_groups", request=json.dumps(request))
    assert {h["name"] for h in experiment["hparamInfos"]} == {"rate", "name", "momentum"}
    shown = {
        group["name"].split("/")[0]: {
            metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]
        }
        for group in found["sessionGroups"]
    }
    assert shown == {
        "a": {"first_batch/loss": 2.5},
        "b": {"first_batch/losses/d": 1.5, "first_batch/losses/g": 0.75},
    }
