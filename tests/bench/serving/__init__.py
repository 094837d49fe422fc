"""The rows T1 to T14 of `tests.bench.serve`: one model, four serving methods, the same traffic for all of them."""
