"""The first hour on a GPU: an offline bundle, and a runner of tests, benchmarks and the starter's training."""
