"""The experiments, one function each, in one file for each part that they break; registry.py lists them all."""
