import hashlib
import json
import math
import pathlib

import ml_dtypes
import numpy as np
import pytest

from tb_firstloss import contract, errors
from tb_firstloss.arrays import LossStatistics
from tb_firstloss.capture.writing import packed
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.reading.recordings import read_first_loss

TENSOR_DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "uint16": np.uint16,
}


def recorded(loss=None, outputs=None, metadata=None, **options):
    first = FirstBatch(
        run="r",
        step=3,
        wall_time=0.1,
        losses={} if loss is None else {"loss": loss},
        outputs=outputs or {},
        metadata=metadata or {},
    )
    return first, contract.encode(first, tag="t", recording_id="id", **options)


def read(recording, **changes):
    manifest = json.dumps({**json.loads(recording.manifest), **changes})
    return contract.decode(manifest, dict(recording.tensors), path="somewhere")


@pytest.mark.parametrize("dtype", TENSOR_DTYPES.values(), ids=TENSOR_DTYPES.keys())
def test_every_bit_pattern_comes_back(dtype):
    size = np.dtype(dtype).itemsize
    bits = np.arange(256**size, dtype=f"u{size}")
    _, recording = recorded(outputs={"y": OutputLoss(per_example=bits.view(dtype))})
    back = read(recording).per_example
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.view(bits.dtype), bits)


@pytest.mark.parametrize("dtype", TENSOR_DTYPES.values(), ids=TENSOR_DTYPES.keys())
def test_stored_dtypes_are_known_to_every_reader(dtype):
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.ones(3, dtype))})
    assert all(array.dtype.isbuiltin == 1 for _, array in recording.tensors)
    assert recording.tensors[0][1].tolist() == [1, 1, 1]


def test_everything_of_an_output_comes_back():
    output = OutputLoss(
        per_example=np.arange(4.0),
        row_splits=(np.array([0, 1, 4], np.int32),),
        sample_weight=np.float32([1, 2, 3, 4]),
        mask=np.array([True, False, True, True]),
        reduction="sum_over_batch_size",
        loss_weight=0.5,
    )
    _, recording = recorded(np.float16(2), {"a/b": output})
    first = read(recording)
    back = first.outputs["a/b"]
    assert (first.step, first.loss, back.reduction, back.loss_weight) == (
        3,
        2,
        output.reduction,
        0.5,
    )
    for field in ("per_example", "sample_weight", "mask"):
        assert getattr(back, field).tobytes() == getattr(output, field).tobytes()
    assert back.row_splits[0].dtype == np.int32
    assert back.statistics == output.statistics


def test_unusual_output_names_stay_distinct():
    names = ["a/b", "a%2Fb", "", "%", "ü", "a b"]
    outputs = {name: OutputLoss(per_example=np.full(1, i)) for i, name in enumerate(names)}
    _, recording = recorded(outputs=outputs)
    assert len(dict(recording.tensors)) == len(names)
    assert {n: int(o.per_example[0]) for n, o in read(recording).outputs.items()} == {
        name: i for i, name in enumerate(names)
    }


def test_non_finite_statistics_are_valid_json():
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.array([np.nan]))})
    json.loads(recording.manifest, parse_constant=pytest.fail)
    assert np.isnan(read(recording).mean)


def test_a_tensor_above_the_limit_keeps_statistics_and_digest():
    values = np.arange(100.0)
    first, recording = recorded(
        np.float32(1), {"y": OutputLoss(per_example=values)}, max_tensor_bytes=799
    )
    assert recording.left_out == ["t/tensors/outputs/y/per_example"]
    back = read(recording)
    assert (back.mean, back.digest, back.loss) == (49.5, first.digest, 1)
    with pytest.raises(ValueError, match="max_tensor_bytes"):
        _ = back.per_example


def test_a_missing_tensor_is_an_incomplete_recording():
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.ones(2))})
    recording.tensors.clear()
    with pytest.raises(errors.IncompleteRecordingError, match="per_example is missing"):
        read(recording)


@pytest.mark.parametrize(
    "other",
    [np.array([1.0, 3.0]), np.float32([1, 2]), np.array([[1.0, 2.0]])],
    ids=["value", "dtype", "shape"],
)
def test_a_tensor_that_differs_is_an_incomplete_recording(other):
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.array([1.0, 2.0]))})
    recording.tensors[0] = (recording.tensors[0][0], other)
    with pytest.raises(errors.IncompleteRecordingError, match="the manifest says"):
        read(recording)


def test_a_newer_contract_asks_for_an_upgrade():
    _, recording = recorded(np.float32(1))
    with pytest.raises(errors.ContractVersionError, match="upgrade"):
        read(recording, contract_version=contract.VERSION + 1)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"{}", b'{"contract_version": 1}', b"\xff"],
    ids=["empty", "torn", "list", "nothing", "no-outputs", "not-utf-8"],
)
def test_a_malformed_manifest_is_an_incomplete_recording(manifest):
    with pytest.raises(errors.IncompleteRecordingError, match="somewhere"):
        contract.decode(manifest, {}, path="somewhere")


def test_the_names_on_disk_never_change():
    assert contract.PLUGIN_NAME == "tb_firstloss"
    assert contract.FILE_SUFFIX == ".tb_firstloss.v2"
    assert contract.HISTOGRAM == "loss_per_example"
    scalars = {"loss", "loss_mean", "loss_min", "loss_max", "nonfinite_count"}
    assert contract.SCALARS.keys() == scalars
    assert contract.manifest_tag("t") == "t/tensors/manifest"
    assert contract.output_prefix("t", "a/b", several=True) == "t/outputs/a%2Fb"
    assert contract.output_prefix("t", "a/b", several=False) == "t"


@pytest.mark.parametrize(
    ("tag", "plugin_name", "expected"),
    [
        ("t/tensors/manifest", "tb_firstloss", True),
        ("t/tensors/manifest", "scalars", False),
        ("t/tensors/manifest", "", False),
        ("t/tensors/loss", "tb_firstloss", False),
        ("manifest", "tb_firstloss", False),
    ],
)
def test_a_manifest_is_recognised_by_tag_and_plugin_together(tag, plugin_name, expected):
    assert contract.is_manifest(tag, plugin_name) is expected


def test_the_manifest_names_every_tensor_with_its_dtype_shape_and_digest():
    """Against a handwritten manifest, as other programs read it."""
    output = OutputLoss(
        per_example=np.arange(3, dtype="<f4"),
        row_splits=(np.array([0, 3], "<i8"),),
        sample_weight=np.array([1], ml_dtypes.float8_e5m2),
        mask=np.array([True]),
        reduction="sum",
        loss_weight=2.0,
    )
    bfloat16, float64 = np.array(1, ml_dtypes.bfloat16), np.array(2.5)
    first = FirstBatch(
        run="r",
        step=3,
        wall_time=0.5,
        losses={"d/loss": bfloat16, "g": float64},
        outputs={"a b": output},
        metadata={"note": "n"},
    )
    recording = contract.encode(first, tag="t", recording_id="id")

    def entry(name, array, dtype, encoding="exact"):
        return {
            "tag": f"t/tensors/{name}",
            "dtype": dtype,
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
            "encoding": encoding,
        }

    below = "outputs/a%20b"
    expected = {
        "contract_version": 2,
        "recording_id": "id",
        "run": "r",
        "tag": "t",
        "step": 3,
        "wall_time": 0.5,
        "digest": first.digest,
        "metadata": {"note": "n"},
        "losses": [
            {
                "name": "d/loss",
                **entry("losses/d%2Floss", bfloat16, "bfloat16", "bfloat16_in_float32"),
            },
            {"name": "g", **entry("losses/g", float64, "float64")},
        ],
        "outputs": [
            {
                "name": "a b",
                "per_example": entry(f"{below}/per_example", output.per_example, "float32"),
                "row_splits": [entry(f"{below}/row_splits_0", output.row_splits[0], "int64")],
                "sample_weight": entry(
                    f"{below}/sample_weight", output.sample_weight, "float8_e5m2", "bits"
                ),
                "mask": entry(f"{below}/mask", output.mask, "bool"),
                "reduction": "sum",
                "loss_weight": 2.0,
                "statistics": {
                    "count": 3,
                    "mean": 1.0,
                    "std": float(np.std([0, 1, 2])),
                    "min": 0.0,
                    "max": 2.0,
                    "nonfinite_count": 0,
                },
            }
        ],
    }
    manifest = json.loads(recording.manifest)
    assert {name: manifest.get(name) for name in expected} == expected
    assert [tag.removeprefix("t/tensors/") for tag, _ in recording.tensors] == [
        "losses/d%2Floss",
        "losses/g",
        f"{below}/per_example",
        f"{below}/row_splits_0",
        f"{below}/sample_weight",
        f"{below}/sample_weight.bits",
        f"{below}/mask",
    ]
    assert recording.left_out == []


def test_infinite_statistics_of_what_was_left_out_come_back_as_numbers():
    statistics = LossStatistics(
        count=3, mean=np.inf, std=np.nan, min=-np.inf, max=2.0, nonfinite_count=0
    )
    output = OutputLoss(per_example=np.ones(3), statistics=statistics)
    recording = recorded(outputs={"y": output}, max_tensor_bytes=1)[1]
    back = read(recording).outputs["y"].statistics
    assert (back.count, back.mean, back.min, back.max) == (3, np.inf, -np.inf, 2.0)
    assert np.isnan(back.std)


@pytest.mark.parametrize(
    ("dtype", "stored_bytes"),
    [(np.float64, 80), (ml_dtypes.bfloat16, 40), (ml_dtypes.float8_e5m2, 40)],
    ids=["float64", "bfloat16", "float8"],
)
def test_the_limit_applies_to_the_bytes_as_stored(dtype, stored_bytes):
    outputs = {"y": OutputLoss(per_example=np.ones(10, dtype))}
    _, kept = recorded(outputs=outputs, max_tensor_bytes=stored_bytes)
    assert kept.left_out == []
    assert read(kept).count == 10
    _, recording = recorded(outputs=outputs, max_tensor_bytes=stored_bytes - 1)
    assert recording.left_out == ["t/tensors/outputs/y/per_example"]
    assert recording.tensors == []


def test_no_limit_exceeds_what_a_protocol_buffer_holds(monkeypatch):
    assert 2**31 - 2**24 < contract.PROTO_LIMIT_BYTES < 2**31
    outputs = {"y": OutputLoss(per_example=np.ones(10))}
    monkeypatch.setattr(contract, "PROTO_LIMIT_BYTES", 79)
    assert recorded(outputs=outputs, max_tensor_bytes=80)[1].left_out


@pytest.mark.parametrize(("given", "found"), [(None, "r"), ("there", "there")])
def test_a_recording_keeps_its_run_name_unless_given_another(given, found):
    first, recording = recorded(np.float32(1), metadata={"note": ["n"]})
    back = contract.decode(recording.manifest, dict(recording.tensors), path="somewhere", run=given)
    assert (back.run, back.wall_time, back.digest) == (found, first.wall_time, first.digest)
    assert dict(back.metadata) == {"note": ["n"]}


OTHER = {"tag": "t/tensors/other", "dtype": "float32", "encoding": "exact"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "01" * 32}, "digest.*010101010101"),
        ({"contract_version": "1"}, "upgrade"),
        ({"contract_version": contract.VERSION + 1}, "upgrade"),
        ({"outputs": None}, "manifest"),
        ({"losses": [{"name": "a", **OTHER}]}, "other"),
    ],
    ids=["digest", "version of another type", "newer", "outputs", "missing tensor"],
)
def test_every_refusal_names_the_place(changes, message):
    _, recording = recorded(np.float32(1))
    with pytest.raises(errors.ReadError, match=message) as caught:
        read(recording, **changes)
    assert caught.value.path == "somewhere"
    assert str(caught.value).startswith("somewhere: ")


def test_a_malformed_manifest_names_the_place():
    with pytest.raises(errors.IncompleteRecordingError) as caught:
        contract.decode("[]", {}, path=pathlib.Path("some/where"))
    assert caught.value.path == "some/where"


def test_a_differing_tensor_is_named_with_both_digests():
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.float32([1]))})
    tensors = {tag: array + 1 for tag, array in recording.tensors}
    with pytest.raises(errors.IncompleteRecordingError) as caught:
        contract.decode(recording.manifest, tensors, path="somewhere")
    assert caught.value.path == "somewhere"
    for value in (1, 2):
        digest = hashlib.sha256(np.float32([value]).tobytes()).hexdigest()
        assert digest[:12] in str(caught.value)
        assert digest[:13] not in str(caught.value)


def test_metadata_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        recorded(metadata={"rate": np.nan})


@pytest.mark.parametrize(
    "names",
    [("d", "g"), ("a/b", "a%2Fb"), ("", "loss"), ("ü\x1b[2J", "\udc80")],
    ids=["plain", "slash", "empty", "odd"],
)
def test_losses_come_back_by_name_in_order(names):
    given = {name: np.array(i, ml_dtypes.bfloat16) for i, name in enumerate(names)}
    first = FirstBatch(run="r", step=0, wall_time=0.0, losses=given, outputs={})
    back = read(contract.encode(first, tag="t", recording_id="id"))
    assert list(back.losses) == list(names)
    assert [(loss.dtype, loss.tobytes()) for loss in back.losses.values()] == [
        (loss.dtype, loss.tobytes()) for loss in given.values()
    ]
    assert back.digest == first.digest


@pytest.mark.parametrize(
    "losses",
    [[], None, {}, [1], ["text"], [{"name": "a"}], [None]],
    ids=["none", "null", "mapping", "number", "text", "no-entry", "null-entry"],
)
def test_losses_that_the_manifest_garbles_are_an_incomplete_recording(losses):
    _, recording = recorded(np.float32(1))
    with pytest.raises(errors.IncompleteRecordingError, match="somewhere"):
        read(recording, losses=losses)


@pytest.mark.parametrize("change", ["name", "twice", "rank"])
def test_a_loss_has_a_name_of_its_own_and_no_dimension(change):
    _, recording = recorded(np.float32(1))
    (loss,) = json.loads(recording.manifest)["losses"]
    changed = {
        "name": [{**loss, "name": 3}],
        "twice": [loss, loss],
        "rank": [{**loss, "shape": [1]}],
    }[change]
    with pytest.raises(errors.IncompleteRecordingError, match="somewhere"):
        read(recording, losses=changed)


NESTED = json.loads("[" * 500 + "]" * 500)
WRONG = {
    "null": None,
    "truth": True,
    "text": "<b>0</b>",
    "fraction": 1.5,
    "NaN": np.nan,
    "too large": 10**400,
    "list": [],
    "mapping": {},
    "nested list": NESTED,
    "nested mapping": {"a": NESTED},
}
FITTING = {
    **dict.fromkeys(("name", "run", "tag", "recording_id"), ("text",)),
    **dict.fromkeys(("wall_time", "mean", "std", "min", "max"), ("fraction",)),
    "reduction": {"null", "text"},
    "loss_weight": {"null", "fraction"},
    "sample_weight": {"null"},
    "mask": {"null"},
    "metadata": {"mapping"},
}
"""What a field may hold without a tensor or a digest disagreeing."""


def places_in(value, place=()):
    """Yields where each field of a JSON value is."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*place, key)
        if isinstance(item, dict | list) and key != "metadata":
            yield from places_in(item, (*place, key))


def manifest_of(version):
    """Returns a manifest with every field in use, and its tensors."""
    output = OutputLoss(
        per_example=np.arange(3, dtype=ml_dtypes.float8_e5m2),
        row_splits=(np.array([0, 1, 3]),),
        sample_weight=np.float32([1, 2, 3]),
        mask=np.array([True, False, True]),
        reduction="sum",
        loss_weight=2.0,
    )
    _, recording = recorded(np.array(1, ml_dtypes.bfloat16), {"y": output}, {"note": ["n"]})
    facts = json.loads(recording.manifest)
    if version == 1:
        (loss,) = facts.pop("losses")
        del loss["name"]
        facts |= {"contract_version": 1, "loss": loss}
    return facts, dict(recording.tensors)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_field_of_the_wrong_kind_makes_a_damaged_recording(version, wrong):
    facts, tensors = manifest_of(version)
    assert contract.decode(json.dumps(facts), tensors, path="somewhere").loss == 1
    for place in places_in(facts):
        changed = json.loads(json.dumps(facts))
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        if wrong in FITTING.get(place[-1], ()) or holder[place[-1]] == WRONG[wrong]:
            continue
        holder[place[-1]] = WRONG[wrong]
        with pytest.raises(errors.ReadError, match=r"^somewhere: ") as caught:
            contract.decode(json.dumps(changed), tensors, path="somewhere")
        assert "\n" not in str(caught.value), place


@pytest.mark.parametrize(
    "metadata", ["[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000]
)
@pytest.mark.parametrize("whole", [True, False], ids=["manifest", "metadata"])
def test_nesting_beyond_any_stack_makes_a_damaged_recording(metadata, whole):
    _, recording = recorded(np.float32(1))
    manifest = metadata if whole else recording.manifest.replace("{}", metadata)
    with pytest.raises(errors.IncompleteRecordingError, match=r"^somewhere: .*manifest"):
        contract.decode(manifest, dict(recording.tensors), path="somewhere")


def test_a_manifest_of_any_size_is_refused_before_it_fills_memory():
    with pytest.raises(errors.IncompleteRecordingError, match="bytes, above"):
        contract.decode(f"[{'[],' * (1 << 22)}[]]", {}, path="somewhere")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_no_number_is_beyond_every_float(number):
    _, recording = recorded(np.float32(1))
    manifest = recording.manifest.replace('"wall_time": 0.1', f'"wall_time": {number}')
    with pytest.raises(errors.IncompleteRecordingError, match="somewhere"):
        contract.decode(manifest, dict(recording.tensors), path="somewhere")


LIES = {"mean": 0.001, "std": 5.0, "min": -3.0, "max": 1e300, "count": 99, "nonfinite_count": 1}


@pytest.mark.parametrize("name", LIES)
def test_statistics_are_those_of_the_values_whatever_the_manifest_says(name):
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.float32([1, 2, 4]))})
    facts = json.loads(recording.manifest)
    facts["outputs"][0]["statistics"][name] = LIES[name]
    said = []
    back = contract.decode(
        json.dumps(facts), dict(recording.tensors), path="somewhere", report=said.append
    )
    assert (back.count, back.min, back.max, back.nonfinite_count) == (3, 1.0, 4.0, 0)
    assert back.mean == pytest.approx(7 / 3)
    assert back.std == pytest.approx(math.sqrt(14 / 9))
    assert said == ["the manifest's statistics of 'y' are not those of its values"]


@pytest.mark.parametrize("last_digit", [0, 1e-12], ids=["same", "summed otherwise"])
def test_statistics_that_another_numpy_computed_are_no_lie(last_digit):
    values = np.array([1e30, -1e30, 3, np.nan])
    _, recording = recorded(outputs={"y": OutputLoss(per_example=values)})
    facts = json.loads(recording.manifest)
    facts["outputs"][0]["statistics"]["mean"] += last_digit * 1e30
    contract.decode(
        json.dumps(facts), dict(recording.tensors), path="somewhere", report=pytest.fail
    )


V1 = pathlib.Path(__file__).parent / "contract_v1"
EXPECTED_OF_V1 = json.loads((V1 / "expected.json").read_text())


def from_bits(described):
    if described is None:
        return None
    dtype, shape, text = described
    return np.frombuffer(bytes.fromhex(text), np.dtype(getattr(ml_dtypes, dtype, dtype))).reshape(
        shape
    )


def same(array, described):
    expected = from_bits(described)
    if expected is None or expected.nbytes > 256:  # left out by the case of that name
        return array is None
    return (array.dtype, array.shape, array.tobytes()) == (
        expected.dtype,
        expected.shape,
        expected.tobytes(),
    )


def check_first_batch_of_version_1(first, expected):
    assert (first.step, first.digest) == (expected["step"], expected["digest"])
    assert first.metadata.get("expected_loss") == expected["expected_loss"]
    loss = from_bits(expected["loss"])
    outputs = dict(expected["outputs"])
    if loss is None:
        assert not first.losses
    elif loss.ndim:
        assert first.loss.dtype == loss.dtype
        assert first.loss == pytest.approx(math.fsum(loss.tolist()), rel=1e-6)
        # Version 1 had no output for the values of such a loss.
        if not outputs:
            assert first.outputs["loss"].reduction == "sum"
            assert same(first.per_example, expected["loss"])
            return
    else:
        assert list(first.losses) == ["loss"]
        assert same(first.loss, expected["loss"])
    assert list(first.outputs) == list(outputs)
    for name, facts in outputs.items():
        output = first.outputs[name]
        for field in ("per_example", "sample_weight", "mask"):
            assert same(getattr(output, field), facts[field])
        for splits, described in zip(output.row_splits, facts["row_splits"], strict=True):
            assert same(splits, described)
        assert (output.reduction, output.loss_weight, output.statistics.mean) == (
            facts["reduction"],
            facts["loss_weight"],
            facts["mean"],
        )


@pytest.mark.parametrize("name", EXPECTED_OF_V1)
def test_a_recording_of_version_1_stays_readable(name):
    check_first_batch_of_version_1(read_first_loss(V1 / name), EXPECTED_OF_V1[name])


def test_a_checkpoint_of_version_1_stays_readable():
    first = packed.from_bytes((V1 / "checkpoint.bin").read_bytes())
    check_first_batch_of_version_1(first, EXPECTED_OF_V1["loop"])


def test_the_digest_of_version_1_is_still_checked():
    _, recording = recorded(np.float32(1))
    (loss,) = json.loads(recording.manifest)["losses"]
    del loss["name"]
    changes = {"contract_version": 1, "loss": loss, "losses": None}
    assert read(recording, **changes).loss == 1
    with pytest.raises(errors.IncompleteRecordingError, match="digest"):
        read(recording, **changes, digest="0" * 64)
