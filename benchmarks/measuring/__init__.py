"""How each scenario is measured; what it must reach is in `benchmarks.scenarios`."""
