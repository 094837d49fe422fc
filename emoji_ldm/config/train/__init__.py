"""Section `train`, put together from groups of fields: network, objective, optimiser, distribution, monitoring."""
