import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tb_firstloss.cli import main
from tb_firstloss.cli.examine import machine, packages
from tb_firstloss.reading.format import extension


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    """What doctor says about this installation."""
    logdir = tmp_path_factory.mktemp("logs") / "not" / "yet"
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "doctor", str(logdir), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert not logdir.exists()
    return done.returncode, {found["subject"]: found for found in json.loads(done.stdout)}


@pytest.mark.slow
def test_this_installation_has_no_problem(diagnosis):
    code, found = diagnosis
    assert code == 0
    assert not [each for each in found.values() if each["level"] == "problem"]
    for subject in ("Python", "TensorFlow", "Keras", "TensorBoard", "protobuf", "logdir"):
        assert found[subject]["level"] == "ok"
    assert "GPU" in found


@pytest.mark.slow
def test_versions_are_those_that_get_imported(diagnosis):
    import keras
    import tensorboard
    import tensorflow as tf

    _, found = diagnosis
    for subject, module in (
        ("TensorFlow", tf),
        ("Keras", keras),
        ("TensorBoard", tensorboard),
    ):
        assert found[subject]["found"] == module.__version__


@pytest.mark.slow
def test_only_findings_that_are_not_ok_have_a_remedy(diagnosis):
    for each in diagnosis[1].values():
        assert bool(each["remedy"]) is (each["level"] != "ok")


def stand_in(tmp_path, name, code):
    """A package that fails like a broken one, on the path before the installed one."""
    package = tmp_path / "site" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    return str(package.parent)


@pytest.mark.parametrize(
    ("package", "code", "examine", "remedy"),
    [
        (
            "tensorboard",
            "import pkg_resources_is_gone as _; raise SystemExit",
            packages.examine_tensorboard,
            "pip install",
        ),
        (
            "tensorboard",
            "raise ModuleNotFoundError(\"No module named 'pkg_resources'\")",
            packages.examine_tensorboard,
            "pip install 'setuptools<82'",
        ),
        (
            "tensorboard",
            "import not_there.inner",
            packages.examine_tensorboard,
            "pip install not_there",
        ),
        (
            "tensorflow",
            "raise ImportError('libstdc++.so.6: version `GLIBCXX_3.4.30` not found')",
            packages.examine_tensorflow,
            "newer system image",
        ),
        (
            "tensorflow",
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            packages.examine_tensorflow,
            "install another build",
        ),
    ],
    ids=["missing-module", "setuptools", "nested-module", "libstdc++", "illegal-instruction"],
)
def test_a_package_that_fails_to_import_is_a_problem_with_a_remedy(
    tmp_path, monkeypatch, package, code, examine, remedy
):
    path = stand_in(tmp_path, package, code)
    monkeypatch.setenv("PYTHONPATH", f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (finding,) = examine()
    assert finding.level == "problem"
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("module", "package"),
    [("absl", "absl-py"), ("grpc", "grpcio"), ("PIL", "pillow"), ("markdown", "markdown")],
)
def test_a_missing_module_is_named_as_pip_knows_it(module, package):
    assert packages._remedy_for(f"No module named '{module}'") == f"pip install {package}"


@pytest.mark.slow
def test_a_plugin_that_stops_tensorboard_is_named(tmp_path, monkeypatch):
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[tensorboard_plugins]\nodd = not_there:Plugin\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = {finding.subject: finding for finding in packages.examine_tensorboard()}
    assert found["TensorBoard"].level == "ok"
    assert found["plugin odd"].level == "problem"
    assert "No module named 'not_there'" in found["plugin odd"].found
    assert "pip uninstall broken" in found["plugin odd"].remedy


def test_problems_are_exit_code_1_with_their_remedies_below(tmp_path, monkeypatch, capsys):
    for name in ("tensorflow", "tensorboard"):
        path = stand_in(tmp_path, name, "raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", path)
    assert main(["doctor", str(tmp_path)]) == 1
    table, _, remedies = capsys.readouterr().out.partition("\n\n")
    rows = [line.split()[:2] for line in table.splitlines()]
    assert [row for row in rows if row[0] == "problem"] == [
        ["problem", "TensorFlow"],
        ["problem", "TensorBoard"],
    ]
    assert remedies.count("problem with ") == 2
    assert "ImportError: no such library" in table
    assert main(["doctor", str(tmp_path), "--quiet"]) == 1
    assert "ok " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "backend", "level"),
    [
        ("3.0.5", "tensorflow", "ok"),
        ("3.15.1", None, "ok"),
        ("3.0.4", "tensorflow", "problem"),
        ("2.15.0", "tensorflow", "problem"),
        ("3.15.1-custom_build", "tensorflow", "ok"),
        ("3.15.1", "jax", "problem"),
    ],
)
def test_keras_is_judged_by_version_and_backend(version, backend, level):
    assert packages.judge_keras(version, backend).level == level


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.15.1", "problem"),
        ("2.16.0rc1", "ok"),
        ("2.21.0+nv26.1", "ok"),
        ("2.18.0-rc1-custom_build", "ok"),  # TF_VERSION_SUFFIX, which need not follow PEP 440
        ("2.22.0.dev20260101", "note"),
        ("2.100.0", "note"),
    ],
)
def test_tensorflow_is_judged_by_its_minor_version(version, level):
    assert packages.judge_version("TensorFlow", version).level == level


@pytest.mark.parametrize("installed", [None, object()], ids=["alone", "with-google-crc32c"])
def test_a_reader_that_was_not_built_names_what_else_helps(monkeypatch, installed):
    monkeypatch.delenv("TB_FIRSTLOSS_PURE_PYTHON", raising=False)
    monkeypatch.setattr(extension, "compiled", False)
    monkeypatch.setattr(extension, "google_crc32c", installed)
    found = packages.examine_reader()
    assert found.level == "note"
    checkout = Path(packages.__file__).parents[3]
    assert f"--no-cache-dir --editable {checkout}" in found.remedy  # not pip's cached wheel again
    assert ("pip install google-crc32c" in found.remedy) is (installed is None)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_missing_numpy_is_reported_like_any_other_problem(tmp_path, options):
    path = stand_in(tmp_path, "numpy", "raise ModuleNotFoundError(\"No module named 'numpy'\")")
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "doctor", str(tmp_path), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([path, *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "pip install numpy" in done.stdout
    if options:
        assert {"problem"} <= {found["level"] for found in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("plugins", "levels"),
    [
        (["profile", "tb_firstloss"], ["ok", "ok"]),
        (["profile"], ["note", "ok"]),
        (["tb_firstloss"], ["ok", "note"]),
    ],
)
def test_missing_plugins_are_notes(plugins, levels):
    assert [found.level for found in packages.judge_plugins(dict.fromkeys(plugins))] == levels


@pytest.mark.parametrize(
    ("gpus", "driver", "built", "hidden", "level"),
    [
        (["/GPU:0"], True, True, None, "ok"),
        ([], False, True, None, "ok"),
        ([], True, True, None, "problem"),
        ([], True, False, None, "problem"),
        ([], True, True, "", "note"),
        ([], True, True, "-1", "note"),
    ],
    ids=["seen", "no-driver", "unseen", "cpu-build", "hidden", "hidden-by-number"],
)
def test_a_gpu_that_tensorflow_does_not_see_is_reported(
    tmp_path, monkeypatch, gpus, driver, built, hidden, level
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    place = tmp_path if driver else tmp_path / "missing"
    assert machine.examine_gpu(gpus, built_with_gpu=built, driver=place).level == level


@pytest.mark.parametrize(
    ("restricted", "capabilities", "level"),
    [
        (0, "0000000000000000", "ok"),
        (1, "0000000000000000", "problem"),
        (1, "0000000000200000", "ok"),  # CAP_SYS_ADMIN
        (1, "0000004000000000", "ok"),  # CAP_PERFMON
        (1, "00000000a80425fb", "problem"),  # what Docker gives
    ],
)
def test_the_driver_and_the_capabilities_decide_whether_a_gpu_may_be_profiled(
    tmp_path, restricted, capabilities, level
):
    (tmp_path / "params").write_text(f"Other: 3\nRmProfilingAdminOnly: {restricted}\n")
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapEff:\t{capabilities}\n")
    found = machine.examine_profiling(driver=tmp_path, status=status)
    assert found.level == level
    assert ("NVreg_RestrictProfilingToAdminUsers=0" in found.remedy) is (level == "problem")


def test_without_a_driver_profiling_needs_no_permission(tmp_path):
    assert machine.examine_profiling(driver=tmp_path) is None


@pytest.mark.parametrize(
    ("kind", "level"),
    [("ext4", "ok"), ("nfs4", "note"), ("fuse.sshfs", "note"), ("tmpfs", "note"), ("", "ok")],
)
def test_the_innermost_mount_decides_the_file_system(tmp_path, kind, level):
    spaced = tmp_path / "with space"
    spaced.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(spaced).replace(" ", "\\040")
    mounts.write_text(f"a / overlay rw 0 0\nb {escaped} {kind} rw 0 0\nc {escaped}x bad rw 0 0\n")
    assert machine.file_system_of(spaced, mounts) == kind
    found = {each.subject: each for each in machine.examine_logdir(str(spaced), mounts=mounts)}
    assert found["logdir"].level == "ok"
    assert found["file system"].level == level


def test_the_mount_table_agrees_with_the_system(tmp_path):
    asked = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = asked.stdout.strip().replace("ext2/ext3", "ext4").replace("overlayfs", "overlay")
    assert machine.file_system_of(tmp_path) == expected


def test_a_file_in_place_of_the_logdir_is_a_problem(tmp_path):
    (tmp_path / "runs").write_text("")
    (found,) = machine.examine_logdir(str(tmp_path / "runs" / "deeper"))
    assert (found.level, found.subject) == ("problem", "logdir")


def test_a_read_only_logdir_is_a_problem():
    (found,) = machine.examine_logdir("/proc/nowhere")
    assert found.level == "problem"
    assert "not writable" in found.found


def test_a_remote_logdir_is_not_tried():
    (found,) = machine.examine_logdir("gs://bucket/runs")
    assert found.level == "note"


def test_wrong_usage_of_doctor_is_exit_code_2():
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "one", "two"])
    assert caught.value.code == 2
