"""Wrong loss scalers."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.grad_scaler import ScalerState, unscale, update


@mutant("grad_scaler.unscale", "GRAD_SCALER-M01", owner="GRAD_SCALER-3",
        summary="only the first gradient is searched for overflow", source="a check before the loop")  # fmt: skip
def first_gradient_only(gradients, *, scale):
    return unscale(gradients, scale=scale)[0], bool(np.any(~np.isfinite(gradients[0])))


@mutant("grad_scaler.unscale", "GRAD_SCALER-M02", owner="GRAD_SCALER-3", summary="NaN is no overflow",
        source="a test for infinity")  # fmt: skip
def nan_passes(gradients, *, scale):
    return unscale(gradients, scale=scale)[0], any(bool(np.any(np.isinf(grad))) for grad in gradients)


@mutant("grad_scaler.unscale", "GRAD_SCALER-M03", owner="GRAD_SCALER-2", summary="gradients are unscaled twice",
        source="unscale_ by hand, then again in step (GRD-2)")  # fmt: skip
def unscaled_twice(gradients, *, scale):
    return unscale(gradients, scale=scale**2)


@mutant("grad_scaler.unscale", "GRAD_SCALER-M04", owner="GRAD_SCALER-2", summary="gradients keep their scale",
        source="pytorch/examples #1196: clipped before they are unscaled (GRD-1)")  # fmt: skip
def not_unscaled(gradients, *, scale):
    return unscale(gradients, scale=1.0)


@mutant("grad_scaler.unscale", "GRAD_SCALER-M05", owner="GRAD_SCALER-3",
        summary="infinities become 0 and the step is taken", source="nan_to_num on the gradients")  # fmt: skip
def infinities_zeroed(gradients, *, scale):
    return [np.nan_to_num(grad / scale, posinf=0.0, neginf=0.0) for grad in gradients], False


@mutant("grad_scaler.update", "GRAD_SCALER-M06", owner="GRAD_SCALER-4",
        summary="an overflow leaves the count of good windows",
        source="growth after N good windows, not N in a row")  # fmt: skip
def count_survives(state, found_inf, **options):
    after = update(state, found_inf, **options)
    return ScalerState(after.scale, state.good_steps if found_inf else after.good_steps)


@mutant("grad_scaler.update", "GRAD_SCALER-M07", owner="GRAD_SCALER-5", summary="the scale grows one window late",
        source="> for >=")  # fmt: skip
def grows_late(state, found_inf, *, growth_interval=2000, **options):
    return update(state, found_inf, growth_interval=growth_interval + 1, **options)


@mutant("grad_scaler.update", "GRAD_SCALER-M08", owner="GRAD_SCALER-5", summary="after growing the count goes on",
        source="a counter that is not reset")  # fmt: skip
def count_goes_on(state, found_inf, **options):
    after = update(state, found_inf, **options)
    return ScalerState(after.scale, 0 if found_inf else state.good_steps + 1)


@mutant("grad_scaler.update", "GRAD_SCALER-M09", owner="GRAD_SCALER-6",
        summary="the scale falls below the smallest normal number",
        source="torch.amp.GradScaler, whose scale reaches 0 after 166 overflows")  # fmt: skip
def falls_to_zero(state, found_inf, *, backoff_factor=0.5, **options):
    after = update(state, found_inf, backoff_factor=backoff_factor, **options)
    return ScalerState(float(np.float32(state.scale * backoff_factor)), 0) if found_inf else after


@mutant("grad_scaler.update", "GRAD_SCALER-M10", owner="GRAD_SCALER-6", summary="the scale grows to infinity",
        source="a product that nothing limits")  # fmt: skip
def grows_to_infinity(state, found_inf, *, growth_factor=2.0, growth_interval=2000, **options):
    after = update(state, found_inf, growth_factor=growth_factor, growth_interval=growth_interval, **options)
    grew = not found_inf and state.good_steps + 1 >= growth_interval
    return ScalerState(float(np.float32(state.scale * growth_factor)), 0) if grew else after


@mutant("grad_scaler.update", "GRAD_SCALER-M11", owner="GRAD_SCALER-4",
        summary="an overflow halves the scale, whatever is asked",
        source="a backoff that is the reciprocal of the growth")  # fmt: skip
def halves(state, found_inf, *, backoff_factor=0.5, growth_factor=2.0, **options):
    return update(state, found_inf, backoff_factor=1 / growth_factor, growth_factor=growth_factor, **options)


@mutant("grad_scaler.update", "GRAD_SCALER-M12", owner="GRAD_SCALER-4",
        summary="a window with an overflow is not updated at all", source="LVSM PR #19 (GRD-2)")  # fmt: skip
def update_skipped(state, found_inf, **options):
    return state if found_inf else update(state, found_inf, **options)


@mutant("grad_scaler.update", "GRAD_SCALER-M13", owner="GRAD_SCALER-5",
        summary="a window of two optimisers counts twice",
        source="update called for each optimiser, not for each window")  # fmt: skip
def counted_twice(state, found_inf, **options):
    return update(update(state, found_inf, **options), found_inf, **options)
