import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tb_firstloss import FirstBatch, OutputLoss, compare, read_first_loss
from tb_firstloss.errors import NoRecordingError

QUIET_NAN, OTHER_NAN = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)


def first_batch(values=(1.0, 2.0, 3.0), *, loss=2.0, dtype=np.float32, **facts):
    """A recording with one output; facts become metadata."""
    return FirstBatch(
        run=facts.pop("run", "run"),
        step=0,
        wall_time=0.0,
        losses={} if loss is None else {"loss": np.asarray(loss, dtype)},
        outputs={"out": OutputLoss(per_example=np.asarray(values, dtype))},
        metadata=facts,
    )


def with_output(**fields):
    output = OutputLoss(**{"per_example": np.ones(2, np.float32), **fields})
    return FirstBatch(run="run", step=0, wall_time=0.0, losses={}, outputs={"out": output})


def prints(batch, weights):
    found = {"batch": batch, "weights": weights}
    return {"fingerprint": {key: value for key, value in found.items() if value is not None}}


@pytest.mark.parametrize(
    ("other", "tolerance", "agreement"),
    [
        ((1.0, 2.0, 3.0), {}, "identical"),
        ((1.0, 2.0, 3.5), {}, "different"),
        ((1.0, 2.0, 3.5), {"atol": 0.5}, "within tolerance"),
        ((1.0, 2.0, 3.5), {"rtol": 0.17}, "within tolerance"),  # 0.5 / 3 = 0.1667
        ((1.0, 2.0, 3.5), {"rtol": 0.16}, "different"),
        ((1.0, 2.0), {"atol": 9}, "different"),
        ((1.0, 2.0, math.nan), {"rtol": 1e9, "atol": 1e9}, "different"),
        ((1.0, 2.0, math.inf), {"rtol": 1e9, "atol": 1e9}, "different"),
    ],
)
def test_values_are_compared_with_the_baselines(other, tolerance, agreement):
    found = compare(first_batch(), first_batch(other), **tolerance)
    assert found.agreement == found.outputs["out"].agreement == agreement
    assert found.ok is (agreement != "different")
    assert found.losses["loss"].agreement == "identical"
    assert (found.losses["loss"].max_abs, found.losses["loss"].max_rel) == (0, 0)


def test_tolerance_is_relative_to_the_baseline():
    low, high = first_batch([1.0]), first_batch([2.0])
    assert compare(high, low, rtol=0.5).ok
    assert not compare(low, high, rtol=0.5).ok


def test_equal_values_with_different_bits_are_not_identical():
    found = compare(first_batch([0.0, 1.0]), first_batch([-0.0, 1.0]))
    assert found.agreement == "within tolerance"
    assert found.outputs["out"].different_count == 0
    assert compare(first_batch([math.nan, math.inf]), first_batch([math.nan, math.inf])).ok


@pytest.mark.parametrize(
    ("a", "b", "different", "different_bits"),
    [
        ([0.0, 1.0], [-0.0, 1.0], 0, 1),
        ([0.0, 1.0], [-0.0, 1.5], 1, 2),
        ([QUIET_NAN, 1.0], [OTHER_NAN, 1.0], 0, 1),
        ([QUIET_NAN, 0.0, 1.0], [OTHER_NAN, 0.0, 1.5], 1, 2),
    ],
    ids=["signed-zero", "signed-zero-and-more", "nan-payload", "nan-payload-and-more"],
)
def test_differing_bits_and_differing_values_are_counted_separately(
    a, b, different, different_bits
):
    found = compare(first_batch(a), first_batch(b)).outputs["out"]
    assert (found.different_count, found.different_bits_count) == (different, different_bits)
    assert found.agreement == ("different" if different else "within tolerance")
    assert len(found.worst) == different


def test_nan_in_both_is_equal_next_to_values_that_differ():
    found = compare(first_batch([math.nan, 1.0]), first_batch([math.nan, 1.5]), atol=0.5)
    assert found.agreement == "within tolerance"
    assert found.outputs["out"].different_count == 1


def test_an_infinite_baseline_tolerates_no_number():
    assert not compare(first_batch([math.inf]), first_batch([1.0]), rtol=0.5).ok
    assert not compare(first_batch([math.inf]), first_batch([-math.inf]), rtol=0.5).ok


def test_equal_values_of_another_dtype_are_within_tolerance_and_the_dtypes_are_listed():
    found = compare(first_batch(), first_batch(dtype=ml_dtypes.bfloat16))
    assert found.agreement == "within tolerance"
    assert found.differences["dtype of the loss 'loss'"] == ("float32", "bfloat16")
    assert found.differences["per_example of 'out'"] == ("float32[3]", "bfloat16[3]")


def test_differences_are_those_of_numpy():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 5)).astype(np.float32)
    b = a.copy()
    b[2, 3], b[0, 1], b[3, 0] = 9, -4, a[3, 0] + 0.25
    found = compare(first_batch(a), first_batch(b)).outputs["out"]
    apart = np.abs(b.astype(np.float64) - a)
    assert (found.count, found.different_count) == (20, 3)
    assert found.max_abs == apart.max()
    assert found.max_rel == (apart / np.abs(a.astype(np.float64))).max()
    assert [worst.index for worst in found.worst] == [(2, 3), (0, 1), (3, 0)]
    assert (found.worst[0].baseline, found.worst[0].value) == (a[2, 3], 9)


def test_a_value_that_was_zero_is_infinitely_far_in_relative_terms():
    found = compare(first_batch([0.0]), first_batch([1.0])).outputs["out"]
    assert (found.max_abs, found.max_rel) == (1, math.inf)


@pytest.mark.parametrize(("a", "b"), [(None, 2.0), (2.0, None)])
def test_a_loss_on_one_side_only_is_a_difference(a, b):
    found = compare(first_batch(loss=a), first_batch(loss=b))
    assert found.agreement == found.losses["loss"].agreement == "different"
    lacks_it = "the baseline" if a is None else "the other run"
    assert found.losses["loss"].reason == f"{lacks_it} has no such loss"


def with_losses(**losses):
    losses = {name: np.float32(value) for name, value in losses.items()}
    return FirstBatch(run="run", step=0, wall_time=0.0, losses=losses, outputs={})


def test_losses_are_compared_by_name_whatever_their_order():
    found = compare(with_losses(d=1.0, g=2.0, c=4.0), with_losses(g=2.5, d=1.0, e=4.0))
    assert {name: part.agreement for name, part in found.losses.items()} == {
        "d": "identical",
        "g": "different",
        "c": "different",
        "e": "different",
    }
    assert found.losses["g"].max_abs == 0.5
    assert found.losses["c"].reason == "the other run has no such loss"
    assert found.losses["e"].reason == "the baseline has no such loss"
    assert found.differences == {"names of the losses": ("d, g, c", "g, d, e")}


def test_losses_that_swap_names_are_not_identical():
    a, b = with_losses(d=1.0, g=2.0), with_losses(g=1.0, d=2.0)
    assert a.digest == b.digest
    assert compare(a, b).agreement == "different"


def test_one_loss_of_several_is_compared_under_its_name():
    found = compare(with_losses(loss=1.0), with_losses(d=1.0, loss=1.0))
    assert [part.agreement for part in found.losses.values()] == ["identical", "different"]


def test_the_only_loss_and_output_of_each_run_are_compared_whatever_their_names():
    a = first_batch()
    b = FirstBatch(
        run="b",
        step=0,
        wall_time=0,
        losses={"total_loss": np.float32(2.5)},
        outputs={"new": a.outputs["out"]},
    )
    found = compare(a, b)
    assert {name: part.max_abs for name, part in found.losses.items()} == {"loss": 0.5}
    assert {name: part.agreement for name, part in found.outputs.items()} == {"out": "identical"}
    assert found.differences == {
        "names of the losses": ("loss", "total_loss"),
        "names of the outputs": ("out", "new"),
    }


def test_outputs_of_one_run_only_are_named():
    a = first_batch()
    pair = {"out": a.outputs["out"], "new": a.outputs["out"]}
    b = FirstBatch(run="b", step=0, wall_time=0, losses=a.losses, outputs=pair)
    assert compare(a, b).outputs["out"].agreement == "identical"
    assert compare(a, b).outputs["new"].reason == "an output of the other run only"
    assert compare(b, a).outputs["new"].reason == "an output of the baseline only"


def test_a_vector_total_of_version_1_is_compared_with_what_is_recorded_today():
    old = read_first_loss(Path(__file__).parent / "contract_v1" / "vector_total")
    (values,) = (output.per_example for output in old.outputs.values())
    new = FirstBatch(
        run="new",
        step=0,
        wall_time=0.0,
        losses={"loss": np.float32(math.fsum(values.tolist()))},
        outputs={"dense": OutputLoss(per_example=values, reduction="sum")},
        metadata=old.metadata,
    )
    found = compare(old, new, rtol=1e-6)
    assert found.ok
    assert found.outputs["loss"].agreement == "identical"
    assert found.differences == {"names of the outputs": ("loss", "dense")}


def test_outputs_that_swap_names_are_not_identical():
    one, two = (OutputLoss(per_example=np.full(2, v, np.float32)) for v in (1, 2))
    a, b = (
        FirstBatch(run="r", step=0, wall_time=0, losses={}, outputs={names[0]: one, names[1]: two})
        for names in ("xy", "yx")
    )
    assert a.digest == b.digest
    assert compare(a, b).agreement == "different"


def test_a_differing_ragged_value_is_located_by_its_example():
    a, b = (
        with_output(per_example=np.array(values), row_splits=(np.array([0, 2, 2, 3]),))
        for values in ([1.0, 2.0, 3.0], [1.0, 2.0, 3.5])
    )
    assert compare(a, b).outputs["out"].worst[0].index == (2, 0)


def test_ragged_values_in_different_rows_are_different():
    a, b = (with_output(row_splits=(np.array(splits),)) for splits in ([0, 1, 2], [0, 2, 2]))
    assert compare(a, b).outputs["out"].reason == "ragged in different places"
    assert compare(a, a).agreement == "identical"


def test_values_that_were_left_out_are_compared_by_digest():
    statistics = with_output().outputs["out"].statistics
    a, b, renamed = (
        FirstBatch(
            run="r",
            step=0,
            wall_time=0,
            losses={},
            outputs={name: OutputLoss(per_example=None, statistics=statistics)},
            digest=digest,
        )
        for name, digest in (("out", "one"), ("out", "two"), ("loss", "one"))
    )
    assert compare(a, a).agreement == compare(a, renamed).agreement == "identical"
    assert "left it out" in compare(a, b).outputs["out"].reason


@pytest.mark.parametrize(
    ("a", "b", "cause", "unknown"),
    [
        (prints("1", "2"), prints("9", "2"), "data", ()),
        (prints("1", "2"), prints("1", "9"), "weights", ()),
        (prints("1", "2"), prints("8", "9"), "data and weights", ()),
        (prints("1", "2"), prints("1", "2"), "code or randomness", ()),
        (prints("1", None), prints("1", "2"), "weights, code or randomness", ("weights",)),
        (prints("1", None), prints("9", None), "data", ("weights",)),
        ({}, prints("1", "2"), "data, weights, code or randomness", ("data", "weights")),
        ({"fingerprint": "mine"}, {}, "data, weights, code or randomness", ("data", "weights")),
    ],
)
def test_fingerprints_show_where_a_difference_comes_from(a, b, cause, unknown):
    found = compare(first_batch(**a), first_batch([7.0, 8.0, 9.0], **b))
    assert (found.cause, found.unknown) == (cause, unknown)
    assert cause in str(found)


def test_identical_losses_have_no_cause_but_other_weights_are_listed():
    found = compare(first_batch(**prints("1", "2")), first_batch(**prints("1", "9")))
    assert (found.agreement, found.cause) == ("identical", "")
    assert found.differences == {"fingerprint of the weights": ("2", "9")}


def test_differing_metadata_is_listed_by_name():
    a = first_batch(tensorflow="2.20.0", devices=["/CPU:0"], mine={"lr": 1, "same": 0})
    b = first_batch(tensorflow="2.21.0", devices=["/GPU:0"], mine={"lr": 2, "same": 0}, more=1)
    assert compare(a, b).differences == {
        "tensorflow": ("2.20.0", "2.21.0"),
        "devices": (["/CPU:0"], ["/GPU:0"]),
        "mine.lr": (1, 2),
        "more": (None, 1),
    }


def test_differing_weights_masks_and_reductions_are_listed():
    a = with_output(sample_weight=np.ones(2), mask=np.array([True, True]), reduction="sum")
    b = with_output(sample_weight=np.zeros(2), reduction="mean")
    assert compare(a, b).differences == {
        "sample_weight of 'out'": ("one set of values", "another"),
        "mask of 'out'": ("bool[2]", None),
        "reduction of 'out'": ("sum", "mean"),
    }


@pytest.mark.parametrize("options", [{"rtol": -1}, {"atol": math.inf}, {"atol": math.nan}])
def test_unusable_tolerances_are_refused(options):
    with pytest.raises(ValueError, match="give a finite number"):
        compare(first_batch(), first_batch(), **options)


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "path"])
def test_paths_are_compared_as_what_is_recorded_there(tmp_path, kind):
    one, other = (Path(__file__).parent / "contract_v1" / name for name in ("loop", "values_alone"))
    read = read_first_loss(one), read_first_loss(other)
    assert compare(kind(one), kind(other)) == compare(*read)
    assert compare(read[0], kind(one)).agreement == "identical"
    with pytest.raises(NoRecordingError, match="no first-batch recording"):
        compare(kind(one), kind(tmp_path))
