"""The bound-carrying array behaves as NumPy's arrays do, and never loses its bounds silently."""

from collections.abc import Callable

import numpy as np
import pytest
from arrays import draw
from beartype import beartype
from jaxtyping import Bool, Float, Int, TypeCheckError, jaxtyped
from tolerance import assert_same, assert_within

from minimind_ref.oracle.bounded import (
    Array,
    Bounded,
    bound,
    bound_inputs,
    decide,
    decide_top,
    logsumexp,
    softmax,
    store,
    undecided,
    value,
)


def assert_close(a, b):
    """Assert that bounds differ by no more than the allowance for computing them."""
    assert_within(a, b, 2.0**-46 * np.abs(b))


@pytest.fixture
def x() -> Bounded:
    """Twelve numbers with twelve different bounds."""
    return Bounded(draw(1, (3, 4)), np.arange(1.0, 13).reshape(3, 4) * 2.0**-20, "float32")


MOVES: dict[str, Callable] = {
    "transpose": np.transpose,
    "T": lambda x: x.T,
    "reshape": lambda x: np.reshape(x, (2, 6)),
    "method reshape": lambda x: x.reshape(2, -1),
    "method reshape to a tuple": lambda x: x.reshape((2, -1)),
    "method transpose": lambda x: x[None].transpose(1, 0, 2),
    "method transpose by a tuple": lambda x: x[None].transpose((1, 0, 2)),
    "method transpose of all": lambda x: x.transpose(),
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "expand_dims": lambda x: np.expand_dims(x, 1),
    "squeeze": lambda x: np.squeeze(x[None]),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 3, 4)),
    "ravel": np.ravel,
    "flip": lambda x: np.flip(x, axis=1),
    "roll": lambda x: np.roll(x, 1, axis=1),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "tile": lambda x: np.tile(x, (2, 1)),
    "tril": np.tril,
    "triu": np.triu,
    "stack": lambda x: np.stack([x, x], axis=1),
    "stack of one": lambda x: np.stack([x]),
    "concatenate": lambda x: np.concatenate([x[:1], x], axis=0),
    "take": lambda x: np.take(x, [2, 0], axis=1),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[1], [0], [3]]), axis=-1),
    "item": lambda x: x[1, 2],
    "slice": lambda x: x[1:, ::2],
    "mask": lambda x: x[np.array([True, False, True])],
    "fancy": lambda x: x[[0, 2], [1, 3]],
    "ellipsis": lambda x: x[..., None],
    "rows": lambda x: np.stack(list(x)),
    "where": lambda x: np.where(np.arange(4) < 2, x, x[::-1]),
}


@pytest.mark.parametrize("move", MOVES)
def test_moving_elements_moves_their_bounds(x, move):
    moved = MOVES[move](x)
    assert_same(value(moved), np.asarray(MOVES[move](value(x))))
    assert_same(bound(moved), np.asarray(MOVES[move](bound(x))))
    assert (moved.shape, moved.ndim, moved.size) == (value(moved).shape, value(moved).ndim, value(moved).size)


def test_assignment_writes_values_and_bounds(x):
    y = np.zeros_like(x, shape=(4, 3))
    y[1] = x[:3, 0]
    y[2, :2] += x[0, :2]
    y[[0, 3], 1] = 0.1
    view = y[1]
    view *= 2.0
    assert_same(value(y)[1], 2 * value(x)[:, 0])
    assert_close(bound(y)[2], np.append(bound(x)[0, :2], 0.0))
    assert np.all(bound(y)[[0, 3], 1] > 0) and not bound(y)[0, 0]
    assert len(y) == 4 and repr(y).startswith("Bounded(")


def test_creation_follows_the_prototype(x):
    for made, fill in (
        (np.zeros_like(x), 0.0),
        (np.empty_like(x, shape=(2,)), 0.0),
        (np.ones_like(x, shape=(2,)), 1.0),
    ):
        assert isinstance(made, Bounded) and np.all(value(made) == fill) and not bound(made).any()
    assert np.all(bound(np.full_like(x, 0.1)) > 0) and not bound(np.full_like(x, 0.5)).any()
    assert isinstance(np.zeros_like(x, dtype=bool), np.ndarray)
    assert np.ones_like(x, shape=(2,)).shape == (2,)
    assert Bounded(np.ones(2, np.float32), 0.0, "float32").dtype == float
    assert_same(bound(x[0, :2] * [0.5, 0.1]), np.stack([bound(x[0, 0] * 0.5), bound(x[0, 1] * 0.1)]))


def test_values_answer_questions(x):
    for question in (np.argmax, np.argsort, lambda x: x > 0.1, lambda x: x != x[0], np.isfinite, np.sign, np.shape):
        answer = question(x)
        assert not isinstance(answer, Bounded)
        assert np.array_equal(answer, question(value(x)))


def test_sums_and_extremes_agree_with_numpy(x):
    w = draw(2, (4, 5))
    functions = (
        np.sum,
        np.mean,
        np.add.reduce,
        lambda x: np.mean(x, axis=0, keepdims=True),
        lambda x: np.sum(x, axis=(0, 1)),
        lambda x: np.cumsum(x, axis=1),
        np.max,
        lambda x: np.min(x, axis=1),
        np.maximum.reduce,
        np.minimum.reduce,
        np.logaddexp.reduce,
        logsumexp,
        lambda x: softmax(x[0]),
        lambda x: logsumexp(x[0]),
        lambda x: np.maximum.reduce(x, axis=1),
        lambda x: np.minimum.reduce(x, axis=1),
        lambda x: np.logaddexp.reduce(x, axis=1),
        lambda x: np.clip(x, -0.5, 0.5),
        lambda x: x @ w,
        lambda x: w.T @ x.T,
        lambda x: np.dot(x, w),
        lambda x: np.einsum("ij,jk,k->i", x, w, w[0]),
        lambda x: np.outer(x[0], x[1]),
        lambda x: np.multiply.outer(x[0], w[0]),
        lambda x: np.inner(x, x),
        lambda x: np.tensordot(x, w, axes=1),
        lambda x: sum(x),
    )
    for function in functions:
        y = function(x)
        assert isinstance(y, Bounded)
        exact = np.asarray(function(value(x)))
        assert np.all(np.abs(value(y) - exact) <= bound(y)) and np.all(bound(y) < 1e-3) and y.shape == exact.shape


def test_adding_at_repeated_indices_is_a_sum(x):
    y = np.zeros_like(x, shape=(2,))
    np.add.at(y, [0, 1, 0, 0], x[0])
    assert value(y)[1] == value(x)[0, 1]
    assert_close(bound(y)[1], bound(x)[0, 1])
    together = np.sum(x[0, [0, 2, 3]])
    assert value(y)[0] == value(together)
    assert_close(bound(y)[0], bound(together))


def test_an_undecided_index_poisons_what_it_touches(x):
    index = decide_top(Bounded([1.0, 1.01, 5.0], 0.1, "float32"), 2)
    assert undecided(index).tolist() == [False, True]
    assert undecided(x[index]).tolist() == [[False] * 4, [True] * 4]
    assert undecided(x[0, index]).all() and undecided(np.take(x, index, axis=1)).all()
    y = np.zeros_like(x)
    y[index[1]] = x[0]
    assert undecided(y).tolist() == [[False] * 4, [True] * 4, [False] * 4]
    total = np.zeros_like(x, shape=(3,))
    np.add.at(total, index, x[0, :2])
    assert undecided(total).tolist() == [False, True, False]
    assert [0, 1, 2][index[0]] == 2
    mask = decide(Bounded([1.0, 1.1, 5.0], [0.0, 0.1, 0.0], "float32"), 1.05)
    assert undecided(mask).tolist() == [False, True, False] and undecided(x[mask]).all()
    assert undecided(x[index[:1], index[1:]]).all() and undecided(x[index[1:], index[:1]]).all()


@pytest.mark.parametrize(
    "lossy",
    [
        np.asarray,
        lambda x: np.array([x[0], x[1]]),
        lambda x: np.zeros(4).__setitem__(slice(None), x[0]),
        lambda x: np.zeros(4).__iadd__(x[0]),
        lambda x: float(x[0, 0]),
        lambda x: bool(x[0, 0]),
        lambda x: [1, 2][x[0, 0]],
        np.linalg.norm,
        np.median,
        np.floor,
        lambda x: np.add(x, x, where=value(x) > 0),
        lambda x: np.multiply.reduce(x),
    ],
)
def test_losing_a_bound_is_an_error(x, lossy):
    with pytest.raises(TypeError, match=r"would lose the bound|has no rule|integer"):
        lossy(x)


def test_refusals():
    with pytest.raises(ValueError, match="negative or NaN"):
        Bounded([1.0, 1.0], [-1.0, 1.0], "float32")
    with pytest.raises(ValueError, match="negative or NaN"):
        Bounded([1.0], [np.nan], "float32")
    with pytest.raises(ValueError, match="'half', expected one of float64"):
        bound_inputs(np.ones(2), profile="half")
    with pytest.raises(ValueError, match="float32 in one operand and float64"):
        Bounded([1.0], 0.0, "float64") + Bounded([1.0], 0.0, "float32")


def test_inputs_are_rounded_copies_and_choices_pass_through():
    table, ids = np.array([0.1, 0.2]), np.array([1, 2])
    x, same, flags, nothing = bound_inputs(table, ids, ids > 1, None, profile="bfloat16")
    assert same is ids and flags.dtype == bool and nothing is None
    x += 1.0
    assert table.tolist() == [0.1, 0.2]
    (y,) = bound_inputs(table, profile="float64")
    y[0] = 5.0
    assert table[0] == 0.1 and not bound(y).any()
    assert bound_inputs(y, profile="float64")[0] is y
    assert store(ids) is ids and not bound(table).any() and not undecided(3.0)


def test_shape_annotations_let_it_pass_and_stop_what_is_wrong(x):
    @jaxtyped(typechecker=beartype)
    def f(
        x: Float[Array, "s d"], y: Float[Array, ""], i: Int[Array, "s c"], m: Bool[Array, "s d"]
    ) -> Float[Array, "d s"]:
        return x.T

    for a in (x, value(x)):
        assert f(a, np.sum(a), decide_top(a, 2), decide(a, 0.0)).shape == (4, 3)
        with pytest.raises(TypeCheckError):
            f(a, a, decide_top(a, 2), decide(a, 0.0))
        with pytest.raises(TypeCheckError):
            f(a, np.sum(a), decide_top(a.T, 2), decide(a, 0.0))
        with pytest.raises(TypeCheckError):
            f(decide(a, 0.0), np.sum(a), decide_top(a, 2), decide(a, 0.0))
