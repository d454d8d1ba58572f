"""The measurement of each scenario; the goals are in `benchmarks.scenarios`."""
