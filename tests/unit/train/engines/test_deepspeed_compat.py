"""The private parts of the real DeepSpeed exist; tests/train/test_deepspeed_engine.py runs them on several ranks."""

import pytest


@pytest.mark.slow  # importing DeepSpeed takes seconds
def test_the_zero_optimizers_have_the_methods_that_are_called():
    from emoji_ldm.train.engines.deepspeed_compat import import_deepspeed

    deepspeed = import_deepspeed("cpu")
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert callable(DeepSpeedZeroOptimizer.update_lp_params)
    for name in ("_get_norm_groups", "_partition_all_parameters", "_reassign_or_swap_out_partitioned_parameters"):
        assert callable(getattr(DeepSpeedZeroOptimizer_Stage3, name))
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False


def test_the_norm_of_stage_3_is_replaced_by_one_that_costs_nothing():
    from emoji_ldm.train.engines.deepspeed_compat import skip_norm_computation

    class Wrapper:
        def _get_norm_groups(self):
            raise AssertionError("the host would wait here")

    wrapper = Wrapper()
    skip_norm_computation(wrapper)
    assert [float(norm) for norm in wrapper._get_norm_groups()] == [0.0]
    with pytest.raises(AssertionError, match="norm of each group"):
        skip_norm_computation(object())
