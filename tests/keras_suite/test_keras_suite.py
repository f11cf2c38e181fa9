"""Keras's own tests come to the same with FirstLossCallback in every fit as without it.

The tests are those that Keras installs with itself. By default these are the tests of callbacks
and of training, except what fits nothing, what needs Orbax, the slowest test, and most of the
many that vary the number of steps. All of a file is run, with the callback in front, at the end,
and with graph and profile, if the files are named, as patterns below ``keras/src``::

    KERAS_SUITE="trainers/trainer_test.py callbacks/*_test.py" pytest tests/keras_suite
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.keras_suite.suite import INSTALLED, differences, run, unsaid, wrong

PATTERNS = os.environ.get("KERAS_SUITE", "")
TESTS = [
    str(path.relative_to(INSTALLED))
    for pattern in (PATTERNS or "trainers/trainer_test.py callbacks/*_test.py").split()
    for path in sorted(INSTALLED.glob(pattern))
]
SOME = (
    "not predict and not evaluate and not Orbax and not checkpoint_options"
    " and (not steps_per or (non_jit and (match_one or size_3 or count_3_)))"
)
WAYS = [
    {"inject": "values", "position": "first"},
    {"inject": "values", "position": "last"},
    {"inject": "everything", "position": "either"},
]

FITS = 1 if PATTERNS else 120
"""How many fits must at least have been compared, and how many recorded."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200 if PATTERNS else 1800),
    pytest.mark.skipif(not TESTS, reason="this Keras is installed without its tests"),
]


def run_all(*runs):
    """Runs suites, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda options: run(**options), runs))


def test_keras_passes_its_own_tests_as_it_does_without_the_callback(capsys):
    suite = {"tests": TESTS, "matching": "" if PATTERNS else SOME}
    ways = WAYS if PATTERNS else [{"inject": "values", "position": "either"}]
    plain, *injected = run_all(suite, *({**suite, **way} for way in ways))

    for way, captured in zip(ways, injected, strict=True):
        differ, by_chance = confirmed(differences(plain, captured), way)
        assert differ == {}
        assert unsaid(captured) == {}
        assert wrong(captured) == {}
        assert len(captured.fits.keys() - by_chance) >= FITS
        assert captured.recordings >= FITS
        with capsys.disabled():
            print(f"\n{way}: {summary(captured, by_chance)}")


def confirmed(differ, way):
    """Returns the differences that show again where their tests run alone, and what chance made.

    Chance is what differs between two plain runs, or does not show again.
    """
    by_chance = set()
    for _ in range(2):
        if differ:
            suite = {"tests": sorted({test for test, _ in differ})}
            plain, again, captured = run_all(suite, suite, {**suite, **way})
            shown = differences(plain, captured).keys() - differences(plain, again).keys()
            by_chance |= differ.keys() - shown
            differ = {key: text for key, text in differ.items() if key in shown}
    return differ, by_chance


def summary(captured, by_chance):
    outcomes = Counter(str(phases) for phases in captured.tests.values())
    messages = Counter(m.split(": ", 2)[-1] for n in captured.fits.values() for m in n["said"])
    return (
        f"{len(captured.tests)} tests, {len(captured.fits)} fits, {captured.recordings} recordings;"
        f" different by chance: {sorted(by_chance)}; {dict(outcomes)}; {dict(messages)}"
    )


SABOTAGE = {
    "moves a weight": "weights",
    "stops training": "iterations",
    "raises": "LookupError",
    "draws a number": "generators",
}


def test_what_a_harmful_callback_does_is_noticed():
    suite = {"tests": ["trainers/trainer_test.py"], "matching": "fit_flow_jit or fit_sparse_tf"}
    plain, silent, *harmed = run_all(
        suite,
        {**suite, "inject": "records nothing"},
        *({**suite, "inject": harm} for harm in SABOTAGE),
    )
    assert differences(plain, silent) == {}
    assert unsaid(silent).keys() == silent.fits.keys()
    for named, harmful in zip(SABOTAGE.values(), harmed, strict=True):
        found = differences(plain, harmful)
        assert any(named in text for text in found.values())
        assert found.keys() >= harmful.fits.keys()
