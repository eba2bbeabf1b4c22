"""Properties of the learning rate schedule; each test names the clause of specs/cosine_schedule.md that it checks."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_blocks import definition
from tolerance import assert_within

from minimind_ref.optim.cosine_schedule import cosine_schedule
from minimind_ref.oracle import cosine_schedule as oracle
from minimind_ref.oracle.bounded import bound_inputs

FORMS = ["cosine", "minimind2"]
FACES = [cosine_schedule, oracle.cosine_schedule]


@st.composite
def schedules(draw) -> dict:
    """A length, a warm-up that is mostly there, a peak with all its bits, a floor."""
    total = draw(st.integers(2, 60))
    return {
        "total_steps": total,
        "warmup_steps": draw(st.integers(0, total - 1)),
        "peak": draw(st.floats(1e-8, 1e3)),
        "floor_ratio": draw(st.sampled_from([0.0, 0.1]) | st.floats(2.0**-64, 1)),  # far from subnormal products
    }


def rates(schedule: dict, face=cosine_schedule, **changes) -> np.ndarray:
    """The rate of every update of the run, and of ten more."""
    options = schedule | changes
    return np.array([face(step, **options) for step in range(options["total_steps"] + 10)], np.float64)


def bounded_rates(schedule: dict, **changes):
    options = schedule | changes
    peak = options.pop("peak")
    (peak,) = bound_inputs(np.array(peak), profile="float64")
    steps = range(options["total_steps"] + 10)
    return np.stack([oracle.cosine_schedule(step, peak=peak, **options) for step in steps])


@pytest.mark.parametrize("form", FORMS)
@given(schedule=schedules())
def test_cosine_schedule_3_agrees_with_oracle(form, schedule):
    assert_within(rates(schedule, form=form), bounded_rates(schedule, form=form))


@pytest.mark.parametrize("kind", ["float", "decimal"])
@pytest.mark.parametrize("form", FORMS)
@given(schedule=schedules(), share=st.floats(0, 1))
def test_cosine_schedule_9_agrees_with_spec(form, kind, schedule, share):
    step = int(share * schedule["total_steps"])
    got = definition("cosine_schedule", kind).cosine_schedule(step, form=form, **schedule)
    (peak,) = bound_inputs(np.array(schedule["peak"]), profile="float64")
    expected = oracle.cosine_schedule(step, form=form, **(schedule | {"peak": peak}))
    assert_within(np.array(float(got)), expected)


@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_1_warm_up_starts_above_zero_and_is_linear(face, schedule):
    warm = schedule["warmup_steps"]
    rising = rates(schedule, face)[: warm + 1]
    assert rising[0] > 0
    expected = bounded_rates(schedule | {"total_steps": warm + 1})[: warm + 1]
    assert_within(rising, expected)
    straight = rising[0] * np.arange(1, warm + 2)
    assert_within(rising, straight, bound=4 * 2.0**-53 * straight)  # two roundings on either side


@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_2_peak_is_exact(face, schedule):
    assert rates(schedule, face)[schedule["warmup_steps"]] == schedule["peak"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_4_stays_at_the_floor(face, form, schedule):
    last = rates(schedule, face, form=form)[schedule["total_steps"] :]
    assert set(last) == {schedule["floor_ratio"] * schedule["peak"]}
    assert face(2 * schedule["total_steps"], form=form, **schedule) == last[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_5_rises_then_falls_within_its_limits(face, form, schedule):
    schedule = schedule | {"floor_ratio": min(schedule["floor_ratio"], 0.9)}
    warm, total = schedule["warmup_steps"], schedule["total_steps"]
    lr = rates(schedule, face, form=form)
    assert np.all(np.diff(lr[: warm + 1]) > 0)
    assert np.all(np.diff(lr[warm : total + 1]) < 0)
    top = lr[warm] if form == "minimind2" else schedule["peak"]
    assert lr.max() == top and lr.min() >= min(lr[0], lr[total])


@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_6_is_point_symmetric(face, schedule):
    falling = rates(schedule, face)[schedule["warmup_steps"] : schedule["total_steps"] + 1]
    both = schedule["peak"] * (1 + schedule["floor_ratio"])
    assert_within(
        falling + falling[::-1], np.full(len(falling), both), bound=np.full(len(falling), 32 * 2.0**-53 * both)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", FACES)
@given(schedule=schedules())
def test_cosine_schedule_7_is_linear_in_the_peak(face, form, schedule):
    doubled = rates(schedule, face, peak=2 * schedule["peak"], form=form)
    assert np.array_equal(doubled, 2 * rates(schedule, face, form=form))


def test_cosine_schedule_8_is_a_function_of_the_step_alone():
    """Asked in any order it answers the same, and nothing about micro-batches can be told to it."""
    options = {"total_steps": 23, "peak": 0.3, "warmup_steps": 5}
    forward = [cosine_schedule(step, **options) for step in range(30)]
    assert [cosine_schedule(step, **options) for step in reversed(range(30))] == forward[::-1]
    names = set(inspect.signature(cosine_schedule).parameters)
    assert names == {"step", "total_steps", "peak", "warmup_steps", "floor_ratio", "form"}


@pytest.mark.parametrize("face", FACES)
def test_cosine_schedule_9_minimind2_starts_above_the_peak(face):
    """The released curve: 1.1 times the rate at first, 0.6 at half, 0.1 at the end."""
    run = rates({"total_steps": 8, "peak": 1.0}, face, form="minimind2")
    assert_within(run[[0, 4, 8]], np.array([1.1, 0.6, 0.1]), bound=np.full(3, 2.0**-52))


@pytest.mark.parametrize("face", FACES)
def test_cosine_schedule_3_mean_rate_is_the_middle(face):
    """The trapezoid sum of the decay is exact for a cosine: its mean is (peak + floor)/2."""
    run = rates({"total_steps": 64, "peak": 1.0, "warmup_steps": 0}, face)[:65]
    mean = (run[1:-1].sum() + (run[0] + run[-1]) / 2) / 64
    assert_within(np.array(mean), np.array(0.55), bound=2.0**-53 * 64)


# --- edges and refusals


@pytest.mark.parametrize("face", FACES)
def test_cosine_schedule_2_one_step_run_has_the_peak(face):
    assert [float(face(step, total_steps=1, peak=0.3)) for step in (0, 1)] == [0.3, 0.1 * 0.3]


@pytest.mark.parametrize("face", FACES)
def test_cosine_schedule_1_run_of_warm_up_only(face):
    run = rates({"total_steps": 4, "peak": 1.0, "warmup_steps": 4}, face)
    assert_within(run[:5], np.array([0.2, 0.4, 0.6, 0.8, 0.1]), bound=np.full(5, 2.0**-53))


@pytest.mark.parametrize("face", FACES)
def test_cosine_schedule_10_zero_is_a_rate_and_a_floor(face):
    assert not rates({"total_steps": 4, "peak": 0.0}, face).any()
    assert not rates({"total_steps": 4, "peak": 1.0}, face, floor_ratio=0.0)[4:].any()
    assert (rates({"total_steps": 4, "peak": 1.0}, face, floor_ratio=1.0) == 1).all()


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("name", "value", "step"),
    [
        ("step", -1, -1), ("total_steps", 0, 0), ("warmup_steps", -1, 0), ("warmup_steps", 8, 0),
        ("warmup_steps", 90, 0), ("peak", -0.1, 0), ("peak", math.nan, 0), ("peak", math.inf, 0),
        ("floor_ratio", -0.1, 0), ("floor_ratio", 1.5, 0), ("floor_ratio", math.nan, 0), ("form", "linear", 0),
    ],
)  # fmt: skip
def test_cosine_schedule_10_refuses(face, name, value, step):
    options = {"total_steps": 7, "peak": 0.3} | ({name: value} if name != "step" else {})
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        face(step, **options)
