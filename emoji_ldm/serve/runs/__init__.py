"""`/v1/runs`: trainings of the store while they run and afterwards, as they write them: log, samples, checkpoints.

`run_logs` reads a log as curves of bounded length; `run_routes` answers with runs, their samples and checkpoints.
"""
