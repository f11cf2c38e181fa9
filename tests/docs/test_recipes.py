"""The recipes' Python runs as it stands, in one process, from top to bottom."""

import re
import runpy
import statistics
from pathlib import Path

import pytest
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.helpers.event_files import event, simple, version, write

RECIPES = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
RATES, SEEDS, STEPS = (0.1, 0.01), range(3), range(0, 30, 10)


def loss(rate, seed, step):
    return (1 + seed) / (1 + rate * step)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place with the logdir that the recipes' introduction describes."""
    for rate in RATES:
        for seed in SEEDS:
            data = plugin_data_pb2.HParamsPluginData()
            data.session_start_info.hparams["rate"].number_value = rate
            start = simple("_hparams_/session_start_info", 0.0)
            start.ClearField("simple_value")
            start.metadata.plugin_data.plugin_name = "hparams"
            start.metadata.plugin_data.content = data.SerializeToString()
            values = [
                [simple("loss", loss(rate, seed, s)), simple("accuracy", s / 100 + rate)]
                for s in STEPS
            ]
            events = [event(*v, step=s) for v, s in zip(values, STEPS, strict=True)]
            file = (
                tmp_path / "runs" / f"rate={rate}" / f"seed={seed}" / "events.out.tfevents.1.host"
            )
            write(file, version(), event(start), *events)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_runs_and_gives_what_it_says(folder, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", RECIPES, re.MULTILINE | re.DOTALL)
    assert len(blocks) == RECIPES.count("```python") == 6
    (folder / "recipes.py").write_text("\n".join(blocks))
    names = runpy.run_path(str(folder / "recipes.py"))
    printed = capsys.readouterr().out
    for rate in RATES:
        for step in STEPS:
            losses = [loss(rate, seed, step) for seed in SEEDS]
            row = names["over_seeds"].loc[f"rate={rate}", step]
            assert row["mean"] == pytest.approx(statistics.mean(losses))
            assert row["std"] == pytest.approx(statistics.stdev(losses))
    final = names["final"].reset_index()
    assert final["hparams/rate"].tolist() == sorted(RATES * len(SEEDS))
    assert final["accuracy"].tolist() == pytest.approx([0.2 + r for r in final["hparams/rate"]])
    lowest = dict(names["best"].rows())
    assert lowest["rate=0.1/seed=0"] == pytest.approx(loss(0.1, 0, 20))
    assert "arg_max" in printed
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    upload = names["uploads"]["rate=0.01/seed=2"]
    assert upload["params"] == {"rate": 0.01}
    assert [step for step, _ in upload["steps"]] == list(STEPS)
    assert upload["steps"][1][1] == pytest.approx({"loss": loss(0.01, 2, 10), "accuracy": 0.11})


def test_the_block_for_services_that_are_not_installed_is_python():
    (block,) = re.findall(r"^```py\n(.*?)^```", RECIPES, re.MULTILINE | re.DOTALL)
    names = compile(block, "recipes.md", "exec").co_names
    assert {"uploads", "mlflow", "wandb", "start_run", "log_metrics", "init"} <= set(names)
