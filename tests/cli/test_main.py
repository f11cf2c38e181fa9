import contextlib
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tb_firstloss import read_first_loss
from tb_firstloss.cli import commands
from tb_firstloss.cli.commands import show
from tb_firstloss.cli.main import COMMANDS, main
from tb_firstloss.errors import UnexpectedLossError
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tests.helpers.recorded import record, run_on_terminal


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two runs: one with NaN and an expectation, one with a scalar only."""
    logdir = tmp_path_factory.mktemp("runs")
    with contextlib.suppress(UnexpectedLossError):
        record(logdir / "a", [1.0, 3.0, np.nan], total=2.5, expect="log(10)")
    record(logdir / "b", 7.25)
    return logdir


@pytest.fixture
def logdir(recordings, tmp_path):
    """A copy of them to damage."""
    return shutil.copytree(recordings, tmp_path / "copy")


def test_show_prints_a_row_per_run(logdir, capsys):
    assert main(["show", str(logdir)]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["a/first_batch", "0", "2.5", "2.30259", "3", "1", "2", "3", "1"] in [
        r[:9] for r in rows
    ]
    assert ["b/first_batch", "0", "7.25"] in rows
    assert err == ""


def test_show_as_json_gives_the_same_numbers(logdir, capsys):
    assert main(["show", "--json", str(logdir)]) == 0
    first, second = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (first["run"], first["loss"], second["loss"]) == ("a/first_batch", 2.5, 7.25)
    output = first["outputs"]["loss"]
    assert (output["count"], output["mean"], output["nonfinite_count"]) == (3, 2, 1)
    assert first["digest"] == read_first_loss(logdir / "a").digest


GAN = FirstBatch(
    run="gan",
    step=0,
    wall_time=1.0,
    losses={"d_loss": np.float32(1.375), "g_loss": np.float32(0.75)},
    outputs={"d_loss": OutputLoss(per_example=np.float32([1.0, 2.0]))},
    metadata={"expected_loss": {"g_loss": "0.7"}},
)


def test_show_prints_a_row_per_loss_with_its_output(capsys):
    show.print_losses([GAN])
    _, _, *rows = capsys.readouterr().out.splitlines()
    d_loss, g_loss = (row.split() for row in rows)
    assert d_loss[:8] == ["gan:", "d_loss", "0", "1.375", "2", "1", "1.5", "2"]
    assert g_loss == ["gan:", "g_loss", "0", "0.75", "0.7"]


def test_show_as_json_gives_every_loss_by_name():
    found = show.to_json(GAN)
    assert (found["loss"], found["losses"]) == (None, {"d_loss": 1.375, "g_loss": 0.75})
    assert list(found["outputs"]) == ["d_loss"]


def test_show_takes_a_file_a_run_and_a_logdir(logdir, capsys):
    run_dir = logdir / "b" / "first_batch"
    (file,) = run_dir.glob("events*")
    for path in (logdir / "b", run_dir, file):
        assert main(["show", str(path)]) == 0
        assert "7.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda path: path / "missing", 2, "missing"),
        (lambda path: path, 1, "no intact first-batch recording"),
        (lambda path: write(path / "notes.txt", b"hello"), 2, "notes.txt"),
        (lambda path: write(path / "events.out.tfevents.1", b""), 1, "events.out.tfevents.1"),
    ],
    ids=["missing-path", "empty-folder", "no-event-file", "empty-event-file"],
)
def test_an_error_is_one_line(tmp_path, capsys, make, code, message):
    assert main(["show", str(make(tmp_path))]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("tb-firstloss: ")


def write(path, content):
    path.write_bytes(content)
    return path


def test_show_prints_the_intact_recordings_next_to_a_damaged_one(logdir, capsys):
    (file,) = (logdir / "a" / "first_batch").glob("events*")
    file.write_bytes(file.read_bytes()[:900])
    assert main(["show", str(logdir)]) == 1
    out, err = capsys.readouterr()
    assert "7.25" in out
    assert "a/first_batch" in err


def test_alone_it_prints_its_help(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: tb-firstloss")
    assert "export" in out
    assert err == ""


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("shows", "no command 'shows'; did you mean show?"),
        ("verif", "no command 'verif'; did you mean verify?"),
        ("nothing-like-it", "no command 'nothing-like-it'; --help lists them"),
        ("exp\x1b[31mort", r"no command 'exp\x1b[31mort'; did you mean export?"),
    ],
    ids=["added", "left-out", "unlike", "hostile"],
)
def test_a_misspelt_command_is_answered_with_the_nearest(word, hint, capsys):
    with pytest.raises(SystemExit) as caught:
        main([word])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"tb-firstloss: error: {hint}"


ASK_BASH = """
complete() { :; }; source /dev/stdin
complete_for() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_tb_firstloss; echo ${COMPREPLY[*]}
}
complete_for tb-firstloss che; complete_for tb-firstloss check --rt
complete_for tb-firstloss export --format pa; complete_for tb-firstloss show my_
"""


def test_bash_completes_commands_options_choices_and_paths(tmp_path, capsys):
    (tmp_path / "my_runs").mkdir()
    assert main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    words = ["bash", "-c", ASK_BASH]
    done = subprocess.run(
        words, input=script, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == ["check", "--rtol", "parquet", "my_runs"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_knows_every_command(shell, capsys):
    assert main(["--completion", shell]) == 0
    assert set(COMMANDS) <= set(re.findall(r"[\w-]+", capsys.readouterr().out))


def test_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "bash"]) == 2
    assert capsys.readouterr() == ("", "tb-firstloss: shtab is not installed; pip install shtab\n")


@pytest.mark.parametrize("arguments", [["nothing"], ["show", "--nothing"], ["--completion", "sh"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tb-firstloss" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback(logdir):
    command = f"{sys.executable} -m tb_firstloss show --json {logdir} | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[", "")


def test_a_terminal_without_unicode_gets_plain_bars(logdir):
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "show", str(logdir)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"first_batch" in done.stdout


def test_runs_can_be_chosen_by_name_and_glob(recordings, capsys):
    for arguments in (["--run", "b/first_batch"], ["--run", "b*"], ["--run", "x", "--run", "b*"]):
        assert main(["show", str(recordings), "--json", *arguments]) == 0
        assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["b/first_batch"]


def test_a_glob_without_a_match_lists_the_runs(recordings, capsys):
    assert main(["show", str(recordings), "--run", "c*"]) == 1
    assert "no run matches --run; available: a/first_batch, b/first_batch" in (
        capsys.readouterr().err
    )


def test_runs_of_several_paths_carry_their_path(recordings, capsys):
    (file,) = (recordings / "b" / "first_batch").glob("events*")
    paths = [recordings / "a", recordings / "b" / "first_batch", file]
    assert main(["show", "--json", *map(str, paths)]) == 0
    names = [row["run"] for row in json.loads(capsys.readouterr().out)]
    last = str(recordings / "b" / "first_batch")
    assert names == [str(recordings / "a" / "first_batch"), last, last]


def test_colours_are_for_terminals_without_no_color(recordings, capsys):
    main(["show", str(recordings)])
    assert "\x1b" not in capsys.readouterr().out
    for colours, environment in ((True, {}), (False, {"NO_COLOR": "1"}), (False, {"TERM": "dumb"})):
        code, shown = run_on_terminal("show", recordings, **environment)
        assert code == 0
        assert ("\x1b[31m1\x1b[0m" in shown) is colours  # one value is NaN
        assert ("\x1b" in shown) is colours


@pytest.mark.parametrize("columns", [85, 40])
def test_a_narrow_terminal_loses_no_number(recordings, columns):
    _, shown = run_on_terminal("show", recordings, columns=columns, NO_COLOR="1")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    words = shown.split()
    for word in ("a/first_batch", "b/first_batch", "2.5", "7.25", "2.30259", "non-finite"):
        assert word in words


def test_a_run_name_cannot_steer_the_terminal(tmp_path, capsys):
    record(tmp_path / "\x1b[31mred\nrow", [1.0, 2.0])
    assert main(["show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31mred\\nrow/first_batch" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, encoding):
    record(tmp_path / "läuft-日本", [1.0, 2.0])
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "show", str(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = "läuft-日本".encode(encoding, "backslashreplace")
    assert shown + b"/first_batch" in done.stdout


def help_of(*command):
    """Returns what --help prints, and the modules that it has imported."""
    code = (
        "import sys\nfrom tb_firstloss.cli import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True
    )
    text, _, modules = done.stdout.rstrip().rpartition("\n")
    return text, set(modules.split())


@pytest.mark.parametrize("command", [[], ["doctor"], ["profile"]], ids=" ".join)
def test_help_imports_nothing_heavy(command):
    # doctor has to run whatever is broken.
    heavy = {"tensorflow", "keras", "tensorboard", "numpy", "google", "xprof"}
    assert not help_of(*command)[1] & heavy


def test_help_imports_no_command():
    text, modules = help_of()
    assert not [name for name in modules if name.startswith("tb_firstloss.cli.commands.")]
    for name, summary in COMMANDS.items():
        assert f"    {name} " in text
        assert " ".join(summary.split()) in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_has_an_example_and_imports_nothing_optional(command):
    text, modules = help_of(command)
    assert not modules & {"tensorflow", "keras", "xprof", "sklearn", "pandas", "pyarrow", "fsspec"}
    assert text.startswith(f"usage: tb-firstloss {command}")
    assert f"Examples:\n  tb-firstloss {command}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_docstring_begins_with_its_summary(command):
    module = importlib.import_module(f"tb_firstloss.cli.commands.{command}")
    assert module.__doc__.splitlines()[0] == f"{COMMANDS[command]}."


def test_every_module_of_commands_is_a_command():
    assert {module.name for module in pkgutil.iter_modules(commands.__path__)} == set(COMMANDS)


def test_ctrl_c_while_a_command_is_imported_is_exit_code_130(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupt)
    assert main(["show"]) == 130
    assert capsys.readouterr().err == "tb-firstloss: interrupted\n"


@pytest.mark.slow
def test_the_demo_prints_what_it_wrote(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "demo", "--logdir", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    back = read_first_loss(tmp_path / "runs")
    assert f"The first loss is {back.mean:.4f}; ln 10 is 2.3026" in done.stdout
    assert f"--logdir {tmp_path / 'runs'}" in done.stdout
    assert "Traceback" not in done.stderr
    assert "I0000" not in done.stderr
