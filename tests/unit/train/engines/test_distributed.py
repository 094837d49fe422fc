"""Collectives of a single process, and errors that one rank alone meets."""

import pytest
import torch

from emoji_ldm.errors import ModelError
from emoji_ldm.train.engines.distributed import DistributedContext, current_context

ALONE = DistributedContext(0, 1, torch.device("cpu"))


class WithFailingPeer(DistributedContext):
    """Rank 0 of two, whose peer raised an error."""

    def all_gather_objects(self, value):
        return [value, ModelError("the weights are missing on rank 1")]


def test_a_process_without_a_group_is_rank_0_of_1():
    context = current_context(torch.device("cpu"))
    assert (context.rank, context.world_size, context.is_main) == (0, 1, True)


def test_the_collectives_of_one_process_give_its_own_values():
    assert ALONE.broadcast("value") == "value"
    assert ALONE.all_gather(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]
    assert ALONE.all_gather_objects("value") == ["value"]
    assert ALONE.all_reduce_mean(torch.tensor(3.0)) == 3.0
    assert ALONE.run_on_all(lambda: 5) == 5


def test_an_error_of_another_rank_is_raised_here_and_marked_as_raised_everywhere():
    with pytest.raises(ModelError, match="on rank 1") as caught:
        WithFailingPeer(0, 2, torch.device("cpu")).run_on_all(lambda: 5)
    assert caught.value.raised_on_all_ranks
