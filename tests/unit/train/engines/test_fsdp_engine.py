"""Which parts of a network FSDP2 gathers as a whole."""

from __future__ import annotations

from torch import nn

from emoji_ldm.train.engines.fsdp_engine import sharding_units


class Block(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(4)


def test_layers_of_lists_are_units_and_the_ends_of_the_network_are_not():
    network = nn.Module()
    network.first, network.last = nn.Linear(4, 4), nn.Linear(4, 4)
    network.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(32))
    assert sharding_units(network) == list(network.blocks)


def test_a_large_layer_is_taken_apart_and_what_is_left_of_it_comes_last():
    large = Block(*(nn.Linear(16, 16) for _ in range(20)))
    network = nn.Module()
    network.blocks = nn.ModuleList([large, nn.Linear(4, 4), nn.SiLU()])
    assert sharding_units(network) == [*large.layers, large, network.blocks[1]]
