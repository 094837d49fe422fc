"""Private parts of DeepSpeed: where its ZeRO optimisers keep the fp32 masters, and how to write into them.

DeepSpeed's public functions (`safe_get_full_fp32_param` and its kin) gather one whole parameter at a time, and only
those for stage 3 work on the local shard. A checkpoint that needs neither communication nor memory for whole
parameters has to know which elements each rank holds:

* Stages 1 and 2 flatten all parameters of a group into one row and cut it into equal parts, one per rank. A parameter
  may straddle the border of two ranks. Its `_hp_mapping` says which of its elements are here and where.
* Stage 3 cuts every parameter into equal parts. The last part is padded, and may be nothing but padding.

`wrapper` below is DeepSpeed's ZeRO optimiser, `engine.optimizer`, which wraps the AdamW that it was given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.library_compat import hide_package, require_version
from emoji_ldm.train.engines.sharded_state import ShardSlice

KNOWN_VERSIONS = ("0.19",)

require_version("deepspeed", KNOWN_VERSIONS)


def import_deepspeed(device_type: str) -> Any:
    """The module, loaded for a `cpu` or `cuda` rank."""
    if device_type == "cpu":
        # DeepSpeed reads it at import. Without it a CPU rank on a machine with GPUs would use those.
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed's autotuner, unused here, would import MLflow: 2.5 s of a core per rank.
    with hide_package("mlflow"):
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On CPU ranks DeepSpeed would first compile a C++ extension, which takes minutes; gloo serves as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def skip_norm_computation(wrapper: Any) -> None:
    """Keep stage 3 from computing the gradient norm, for which it makes the host wait; the engine has its own."""
    assert hasattr(wrapper, "_get_norm_groups"), "stage 3 asks this method for the norm of each group"
    wrapper._get_norm_groups = lambda: [torch.zeros(())]


def averaged_gradients(wrapper: Any) -> list[Tensor]:
    """The local share of the gradients, averaged over ranks (stages 1 to 3)."""
    return [gradient for group in wrapper.averaged_gradients.values() for gradient in group]


def offloaded_gradients(masters: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same for masters in host memory: DeepSpeed copies each rank's share to the masters' own gradients."""
    if device.type == "cuda":
        # The copies are asynchronous, and DeepSpeed waits for them only when it makes its step.
        torch.cuda.synchronize(device)
    return [master.grad for master in masters if master.grad is not None]


def master_keys(wrapper: Any, stage: int) -> list[Tensor]:
    """The local fp32 master shards, which are the keys of the wrapped optimiser's state (stages 1 to 3)."""
    # Both hold fp32 tensors of this rank's elements only, one per group or sub-group.
    return list(wrapper.fp32_partitioned_groups_flat if stage == 3 else wrapper.single_partition_of_fp32_groups)


def locate_slice(wrapper: Any, stage: int, rank: int, name: str, parameter: nn.Parameter) -> ShardSlice | None:
    """Which elements of a parameter lie in this rank's shards, and where; none if none do (stages 1 to 3)."""
    if stage == 3:
        return _locate_partition(wrapper, rank, name, parameter)
    return _locate_fragment(name, parameter)


def _locate_fragment(name: str, parameter: Any) -> ShardSlice | None:
    # `hp` (high precision) is DeepSpeed's word for the fp32 masters, `lp` for the working weights. There is no mapping
    # if none of the parameter's elements fell to this rank.
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    within, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    return ShardSlice(name, tuple(parameter.shape), within.start, within.numel, mapping.param_group_index, flat.start)


def _locate_partition(wrapper: Any, rank: int, name: str, parameter: Any) -> ShardSlice | None:
    # All ranks have parts of equal size, so the last ranks' parts may reach beyond the parameter: what is there is
    # padding, which no slice names.
    shard, offset, part = wrapper.grad_position[parameter.ds_id]
    start = part * rank
    length = min(part, parameter.ds_numel - start)
    return ShardSlice(name, tuple(parameter.ds_shape), start, length, shard, offset) if length > 0 else None


def sync_working_weights(wrapper: Any, stage: int) -> None:
    """Cast the master shards into the working weights and share these among the ranks; a collective."""
    # At stage 0 the masters are the working weights, and there is nothing to do.
    if stage in (1, 2):
        wrapper.update_lp_params()
    if stage == 3:
        # Small weights are held whole between steps, see PERSISTENT_ELEMENTS. They are cut first and gathered again at
        # the end, since the loop between writes into the local parts only.
        wrapper._partition_all_parameters()
        for number in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(number)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)
