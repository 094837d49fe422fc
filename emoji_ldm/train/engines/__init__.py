"""Engines that make optimiser steps (plain torch, DeepSpeed), and the state that they shard and store."""
