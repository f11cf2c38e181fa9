import dataclasses
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import FirstBatch, OutputLoss, read_first_loss
from tb_firstloss.checks import (
    check,
    check_recorded,
    check_tolerances,
    parse_expectation,
    parse_expectations,
)


@pytest.mark.parametrize(
    ("expect", "value"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ("2.5", 2.5),
        ("log(10)", math.log(10)),
        (" ln(1000) ", math.log(1000)),
        ("log2(8) + 1", 4.0),
        ("-(1 - 3) * 2 / 4", 1.0),
        ("sqrt(2 * pi) + e", math.sqrt(2 * math.pi) + math.e),
    ],
)
def test_an_expectation_is_a_number_or_simple_arithmetic(expect, value):
    assert parse_expectation(expect) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "expect",
    [
        "", "log(", "log(0)", "1/0", "__import__('os')", "log.__class__", "x", "[1]",
        "1 if 1 else 2", "log(10, 2)", "True", "'a'", "9" * 5000, "1e999", "2**9999",
        "(" * 500 + "1" + ")" * 500,
        math.nan, math.inf, "1\0",
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(expect):
    with pytest.raises(ValueError, match="expect: ") as caught:
        parse_expectation(expect)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expect", [None, True, [1], b"1"])
def test_other_types_are_refused(expect):
    with pytest.raises(TypeError, match="expect: "):
        parse_expectation(expect)


def first_batch(values=None, loss=None, **more):
    """A first batch with an output of these values, if any, and more outputs by name."""
    outputs = {} if values is None else {"out": np.asarray(values, np.float32)}
    outputs |= {name: np.asarray(array, np.float32) for name, array in more.items()}
    return FirstBatch(
        run="run",
        step=0,
        wall_time=0.0,
        losses={} if loss is None else {"loss": np.float32(loss)},
        outputs={name: OutputLoss(per_example=array) for name, array in outputs.items()},
    )


@pytest.mark.parametrize(
    ("values", "expect", "kind"),
    [
        ([1.9, 2.1], 2.0, "ok"),
        ([2.0, 2.375], "1 + 1", "ok"),  # off by 9 %, within 10 %
        ([2.0, 2.5], 2.0, "high"),
        ([1.0, 2.0], 2.0, "low"),
        ([2.0, np.nan], 2.0, "non-finite"),
        ([2.0, np.inf], 2.0, "non-finite"),
        ([2.0, 2.0, 2.0], 2.0, "constant"),
        ([5.0, 5.0, 5.0], 2.0, "constant"),
        ([2.0], 2.0, "ok"),  # a single example is not constant
    ],
)
def test_the_verdict_is_about_the_mean_of_the_values(values, expect, kind):
    verdict = check(first_batch(values, loss=9.0), expect)
    assert (verdict.kind, verdict.ok) == (kind, kind == "ok")
    assert verdict.compared == "mean per-example loss"
    assert verdict.expected == 2.0


@pytest.mark.parametrize(("loss", "kind"), [(2.0, "ok"), (3.0, "high"), (np.nan, "non-finite")])
@pytest.mark.parametrize("outputs", [{}, {"a": [1.0, 7.0], "b": [1.0, 2.0]}], ids=["none", "two"])
def test_without_a_single_output_the_verdict_is_about_the_loss_and_says_so(loss, kind, outputs):
    verdict = check(first_batch(loss=loss, **outputs), 2.0)
    assert verdict.kind == kind
    assert str(verdict).startswith("loss ")


def test_a_non_finite_loss_is_found_behind_finite_values():
    assert check(first_batch([1.9, 2.1], loss=np.inf), 2.0).kind == "non-finite"


@pytest.mark.parametrize(
    ("tolerance", "ok"),
    [({}, False), ({"rtol": 0.3}, True), ({"rtol": 0, "atol": 0.5}, True), ({"rtol": 0}, False)],
)
def test_tolerances_widen_the_expectation(tolerance, ok):
    assert check(first_batch([2.0, 3.0]), 2.0, **tolerance).ok is ok


@pytest.mark.parametrize("kind", ["high", "low", "non-finite", "constant"])
def test_every_finding_names_values_and_usual_causes_in_one_sentence(kind):
    values = {"high": [3, 4], "low": [0, 1], "non-finite": [np.nan, 2], "constant": [2, 2]}
    message = check(first_batch(values[kind]), 2.0).message
    assert "expected 2" in message
    assert "Usual causes: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"expect": "auto"}, "is for FirstLossCallback and probe"),
        ({"expect": 2, "rtol": -1}, "rtol: -1"),
        ({"expect": 2, "atol": math.nan}, "atol: nan"),
    ],
)
def test_unusable_options_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        check(first_batch([2.0]), **options)


def test_a_refusal_shows_the_shortened_expression_and_the_reason():
    with pytest.raises(ValueError, match=r"expect: 'os\.exit' .*log2.*sqrt") as caught:
        parse_expectation("os.exit")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match=r"expect: ") as caught:
        parse_expectation("x" * 5000)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"expect: inf .*finite"):
        parse_expectation(math.inf)
    with pytest.raises(TypeError, match=r"expect: \[1\]"):
        parse_expectation([1])


@pytest.mark.parametrize("text", ["1e999", "1e308 * 10"])
def test_an_expression_without_a_finite_value_is_refused(text):
    with pytest.raises(ValueError, match=r"finite"):
        parse_expectation(text)


@pytest.mark.parametrize("tolerance", [-1e-9, -math.inf, math.inf, math.nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_is_a_finite_number_of_at_least_0(name, tolerance):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        check(first_batch([2.0]), 2.0, **{name: tolerance})
    for accepted in (0, 1e300):
        check_tolerances(**{"rtol": 0.0, "atol": 0.0, name: accepted})


@pytest.mark.parametrize(
    ("expect", "tolerance", "kind"),
    [
        (2.0, {"rtol": 0.25}, "ok"),
        (2.0, {"rtol": 0.125, "atol": 0.25}, "ok"),
        (2.0, {"rtol": 0.125, "atol": 0.125}, "high"),
        (2.0, {"rtol": 0, "atol": 0.5}, "ok"),
        (3.0, {"rtol": 0, "atol": 0.5}, "ok"),
        (3.0, {"rtol": 0, "atol": 0.25}, "low"),
        (-2.5, {"rtol": 2.0}, "ok"),
        (-2.5, {"rtol": 1.0}, "high"),
        (2.5, {"rtol": 0}, "ok"),
    ],
)
def test_the_tolerance_is_atol_plus_a_share_of_the_expectations_size(expect, tolerance, kind):
    """The value is 2.5, so the boundaries are exact."""
    assert check(first_batch([2.0, 3.0]), expect, **tolerance).kind == kind


def test_the_default_tolerance_is_a_tenth():
    assert check(first_batch([11.0]), 10).ok
    assert not check(first_batch([11.5]), 10).ok
    assert check(first_batch([0.0]), 0).ok
    assert not check(first_batch([1e-6]), 0).ok


@pytest.mark.parametrize(
    ("values", "kind", "parts"),
    [
        ([2.0, 2.125], "ok", ["mean per-example loss 2.0625", "2"]),
        ([3.0, 4.0], "high", ["mean per-example loss 3.5", "expected 2", "1.5", "0.2", "weights"]),
        ([0.0, 1.0], "low", ["mean per-example loss 0.5", "expected 2", "1.5", "0.2", "labels"]),
        ([math.nan, 2, math.inf], "non-finite", ["expected 2", "2 of 3", "overflow"]),
        ([5.0, 5.0], "constant", ["expected 2", "all 2", "'out'", "last layer"]),
    ],
)
def test_the_message_says_what_was_found(values, kind, parts):
    verdict = check(first_batch(values), 2.0)
    assert verdict.kind == kind
    assert [part for part in parts if part not in verdict.message] == []
    assert str(verdict) == verdict.message


def test_the_verdict_carries_the_numbers_that_were_compared():
    verdict = check(first_batch([3.0, 4.0]), "1 + 1")
    assert (verdict.value, verdict.expected, verdict.ok) == (3.5, 2.0, False)
    verdict = check(first_batch(loss=3.0), 2)
    assert (verdict.value, verdict.compared, verdict.kind) == (3.0, "loss", "high")
    assert math.isnan(check(first_batch([math.nan]), 2.0).value)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"b": [1.0, math.nan]}, "non-finite"),
        ({"b": [4.0, 4.0]}, "constant"),
        ({"b": [4.0]}, "ok"),
        ({"b": []}, "ok"),
        ({"b": [1.0, 2.0]}, "ok"),
    ],
)
def test_every_output_is_examined_though_the_loss_is_compared(more, kind):
    assert check(first_batch(loss=2.0, a=[1.0, 3.0], **more), 2.0).kind == kind


def test_a_constant_output_is_named():
    assert "'b'" in check(first_batch(loss=2.0, a=[1.0, 3.0], b=[4.0, 4.0]), 2.0).message


def test_an_infinite_total_is_shown_with_its_value():
    for loss in (math.inf, -math.inf, math.nan):
        verdict = check(first_batch([1.9, 2.1], loss=loss), 2.0)
        assert verdict.kind == "non-finite"
        assert str(loss) in verdict.message
        assert verdict.value == pytest.approx(2.0)


def step(losses=(), outputs=(), **metadata):
    """A first batch with losses and outputs by name."""
    outputs = {name: np.asarray(values, np.float32) for name, values in dict(outputs).items()}
    return FirstBatch(
        run="run",
        step=0,
        wall_time=0.0,
        losses={name: np.float32(loss) for name, loss in dict(losses).items()},
        outputs={name: OutputLoss(per_example=values) for name, values in outputs.items()},
        metadata=metadata,
    )


GAN = {"d_loss": 1.5, "g_loss": 0.75}


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (
            step(GAN),
            "run: several losses ('d_loss', 'g_loss'); give a mapping such as {'d_loss': 2.303}",
        ),
        (
            step(GAN, {"real": [1.0, 2.0]}),
            "run: several losses ('d_loss', 'g_loss'); give a mapping such as {'d_loss': 2.303}",
        ),
        (
            step((), {"a": [1.0], "b": [2.0]}),
            "run: several outputs ('a', 'b') and no loss; give a mapping such as {'a': 2.303}",
        ),
        (
            step({"a": 1}, unseen_losses=["b", "c"]),
            "run: several losses ('a', 'b' not captured, 'c' not captured); give a mapping such "
            "as {'a': 2.303}",
        ),
        (
            step((), {"out": [1.0, 2.0]}, unseen_losses=["b"]),
            "run: a loss ('b' not captured); give a mapping such as {'out': 2.303}",
        ),
        (step(), "run: neither a loss nor an output to compare"),
    ],
    ids=["losses", "losses-and-output", "outputs", "unseen-too", "unseen", "nothing"],
)
def test_one_number_for_several_losses_is_refused_and_names_them(first, message):
    with pytest.raises(ValueError) as caught:
        check(first, "log(10)")
    assert str(caught.value) == message


def test_a_long_list_of_losses_is_cut_in_the_message():
    with pytest.raises(ValueError, match=r"'l9', …\); give") as caught:
        check(step({f"l{number}": 1.0 for number in range(50)}), 1.0)
    assert "'l10'" not in str(caught.value)


@pytest.mark.parametrize(
    ("expect", "value", "compared"),
    [
        ({"d_loss": "1 + 1"}, 1.5, "loss 'd_loss'"),
        ({"g_loss": 2}, 4.0, "mean per-example loss of 'g_loss'"),
        ({"real": 2.0}, 6.0, "mean per-example loss of 'real'"),
    ],
    ids=["loss", "output-before-loss", "output"],
)
def test_a_name_is_an_outputs_mean_else_a_loss(expect, value, compared):
    outputs = {"g_loss": [3.0, 5.0], "real": [5.0, 7.0]}
    verdict = check(step(GAN, outputs), expect)
    assert (verdict.value, verdict.expected, verdict.compared) == (value, 2.0, compared)
    assert list(verdict.parts) == list(expect)
    (part,) = verdict.parts.values()
    assert (part.kind, part.value, part.message) == (verdict.kind, value, verdict.message)
    assert verdict.message.startswith(f"{compared} {value:g}, expected 2: off by ")
    assert not part.parts


def test_a_single_expectation_has_no_parts():
    assert check(first_batch([1.0, 3.0]), 2.0).parts == {}


def test_every_named_loss_as_expected_is_named_in_one_sentence():
    verdict = check(step(GAN, {"g": [1.0, 3.0]}), {"g": 2, "d_loss": 1.5, "g_loss": 0.7})
    assert verdict.ok
    assert verdict.message == (
        "as expected: mean per-example loss of 'g' 2 (2), loss 'd_loss' 1.5 (1.5), "
        "loss 'g_loss' 0.75 (0.7)"
    )
    assert {name: part.ok for name, part in verdict.parts.items()} == {
        "g": True,
        "d_loss": True,
        "g_loss": True,
    }


def test_a_single_name_as_expected_reads_like_a_single_expectation():
    assert check(step(GAN), {"g_loss": 0.7}).message == "loss 'g_loss' 0.75 is as expected (0.7)"


def test_a_finding_does_not_hide_another():
    message = check(step(GAN), {"d_loss": 1, "g_loss": 3}).message
    assert message.startswith("loss 'd_loss' 1.5, expected 1: off by 0.5 (tolerance 0.1). Usual ")
    assert ". Loss 'g_loss' 0.75, expected 3: off by 2.25 (tolerance 0.3). Usual " in message


def test_each_finding_is_a_sentence_and_causes_are_given_once():
    first = step({"a": 1.5, "b": 4.0, "c": 8.0, "d": 0.5})
    message = check(first, {"d": 1, "a": 1.5, "b": 2, "c": 2}).message
    assert [sentence.partition(",")[0] for sentence in message.split(". ")] == [
        "loss 'b' 4",
        "Loss 'c' 8",
        "Usual causes: initial weights that are too large",
        "Loss 'd' 0.5",
        "Usual causes: weights that are already trained",
    ]
    assert "off by 2 (tolerance 0.2)" in message
    assert "off by 6 (tolerance 0.2)" in message


@pytest.mark.parametrize(
    ("worse", "better"),
    [("nan", "constant"), ("constant", "high"), ("high", "low"), ("low", "ok")],
)
@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_the_whole_verdict_is_the_worst_one(worse, better, order):
    values = {"nan": [math.nan, 1], "constant": [7, 7], "high": [3, 5], "low": [0, 1], "ok": [1, 3]}
    names = [worse, better][::order]
    verdict = check(step((), {name: values[name] for name in names}), dict.fromkeys(names, 2))
    part = verdict.parts[worse]
    assert verdict.kind == part.kind == ("non-finite" if worse == "nan" else worse)
    assert verdict.compared == part.compared == f"mean per-example loss of {worse!r}"
    assert str(verdict.value) == str(part.value)
    assert list(verdict.parts) == names


@pytest.mark.parametrize(
    ("broken", "kind"),
    [([math.nan, 1.0], "non-finite"), ([2.0, 2.0], "constant")],
)
def test_with_names_only_the_named_values_are_examined(broken, kind):
    first = step(
        {"good": 2.0, "bad": math.inf, "total": math.inf},
        {"good": [1.0, 3.0], "bad": broken, "total": [1.0, 3.0]},
    )
    assert check(first, {"good": 2}).ok
    assert check(first, {"bad": 2}).kind == "non-finite"
    assert check(step({"bad": 2.0}, {"bad": broken, "other": [1.0, 3.0]}), {"bad": 2}).kind == kind
    assert check(first, {"total": 2}).kind == "non-finite"  # the loss of the output's name


def test_tolerances_apply_to_each_expectation():
    expect = {"d_loss": 1.0, "g_loss": 0.5}  # off by 0.5 and 0.25: half of each
    assert check(step(GAN), expect, rtol=0.5).ok
    kinds = {n: p.ok for n, p in check(step(GAN), expect, rtol=0, atol=0.25).parts.items()}
    assert kinds == {"d_loss": False, "g_loss": True}


@pytest.mark.parametrize(
    ("expect", "error", "message"),
    [
        ({}, ValueError, r"^expect: an empty mapping; name at least one"),
        ({"x": 1}, ValueError, r"^run: no loss or output is named 'x'; known: 'd_loss', 'g_loss'$"),
        ({"d_loss": 1, "x": 1}, ValueError, r"is named 'x'; known"),
        ({"d_loss": "log("}, ValueError, r"^expect\['d_loss'\]: 'log\(' cannot be worked out"),
        ({"d_loss": math.nan}, ValueError, r"^expect\['d_loss'\]: nan is not a finite number"),
        ({"d_loss": "auto"}, ValueError, r"^expect\['d_loss'\]: 'auto' is for the whole step; giv"),
        ({"d_loss": {"d_loss": 1}}, TypeError, r"^expect\['d_loss'\]: {'d_loss': 1} is neither"),
        ({"d_loss": True}, TypeError, r"^expect\['d_loss'\]: True is neither"),
        ({1: 1.0}, TypeError, r"^expect: 1 is not the name"),
    ],
)
def test_an_unusable_mapping_is_refused(expect, error, message):
    with pytest.raises(error, match=message):
        check(step(GAN), expect)


def test_a_hostile_name_stays_on_one_line():
    name = "a\nb\x1b[31m"
    verdict = check(step({name: 2.0, "c": 2.0}), {name: 5})
    with pytest.raises(ValueError, match="known: ") as caught:
        check(step({name: 2.0}), {"x": 1})
    for text in (verdict.message, str(caught.value)):
        assert text.isprintable()


def test_a_mapping_becomes_numbers_in_a_copy():
    given = {"a": "log(1) + 2", "b": 3}
    parsed = parse_expectations(given)
    given["a"] = 5
    assert parsed == {"a": 2.0, "b": 3.0}
    assert {type(value) for value in parsed.values()} == {float}
    assert parse_expectations("1 + 1") == 2.0


def test_a_verdict_of_several_can_be_hashed_pickled_and_shown_as_a_dict():
    verdict = check(step(GAN), GAN)
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert hash(verdict) == hash(check(step(GAN), GAN))
    assert dataclasses.asdict(verdict)["parts"]["g_loss"]["expected"] == 0.75


@pytest.mark.parametrize(
    ("recorded", "kinds"),
    [
        (None, None),
        (1.0, {}),
        ({"out": 1.0}, {"out": "high"}),
        ({"loss": 2, "out": 2}, {"loss": "ok", "out": "ok"}),
    ],
)
def test_a_recorded_expectation_is_a_number_or_a_mapping(recorded, kinds):
    verdict = check_recorded(step({"loss": 2.0}, {"out": [1.0, 3.0]}, expected_loss=recorded))
    found = verdict and {name: part.kind for name, part in verdict.parts.items()}
    assert found == kinds


def test_the_tolerances_of_a_recorded_expectation_are_the_callers():
    first = step({"loss": 2.0}, expected_loss={"loss": 1.0})
    assert not check_recorded(first).ok
    assert check_recorded(first, rtol=1.0).ok
    assert check_recorded(first, atol=1.0).ok


@pytest.mark.parametrize(
    "recorded",
    [
        [1.0], [], {}, {"loss": [1.0]}, {"loss": {"loss": 1.0}}, {"loss": None}, {"x": 1.0}, {1: 1},
        math.nan, math.inf, {"loss": math.nan}, "nan", "auto", {"loss": "auto"}, "", "os.getcwd()",
        True, 10**400, {"loss": 10**400}, "1" + "+1" * 10**5, [[1.0] * 10**5], b"1", object(),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_an_unusable_recorded_expectation_is_one_short_value_error(recorded):
    with pytest.raises(ValueError, match=r"^run: ") as caught:
        check_recorded(step({"loss": 2.0}, expected_loss=recorded))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_wrong_with_a_recorded_expectation_is_said_with_its_place():
    message = r"^run: metadata\['expected_loss'\]: \[1.0\] is neither a number nor an expression$"
    with pytest.raises(ValueError, match=message):
        check_recorded(step({"loss": 2.0}, expected_loss=[1.0]))


def test_without_anything_to_compare_no_name_is_known():
    with pytest.raises(ValueError, match=r"named 'x'; known: none$"):
        check(step(), {"x": 1})


@pytest.mark.parametrize("unseen", ["b", 3, {"b": 1}, [None, ["x"] * 1000], True, [10**400]])
def test_hostile_names_of_unseen_losses_keep_a_number_from_being_judged(unseen):
    first = step({"loss": 2.0}, unseen_losses=unseen, expected_loss=2.0)
    with pytest.raises(ValueError, match="not captured") as caught:
        check_recorded(first)
    assert len(str(caught.value)) < 300
    assert check(first, {"loss": 2.0}).ok


@pytest.mark.parametrize("unseen", [None, [], ""])
def test_without_unseen_losses_a_number_is_judged(unseen):
    assert check(step({"loss": 2.0}, unseen_losses=unseen), 2.0).ok


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "path"])
def test_a_path_is_judged_as_what_is_recorded_there(kind):
    path = Path(__file__).parent / "contract_v1" / "values_alone"
    assert check(kind(path), {"c": 0.5}) == check(read_first_loss(path), {"c": 0.5})
    with pytest.raises(FileNotFoundError):
        check(kind(path / "nowhere"), 0.5)
