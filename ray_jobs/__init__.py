"""The library on Ray: one thin file per stage, and packages for the command line, execution, workers and serving."""
