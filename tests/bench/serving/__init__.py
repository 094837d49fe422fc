"""What `tests.bench.serve` is made of: one network, four rigs, paired traffic, and the rows T1 to T14."""
