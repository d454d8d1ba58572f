"""The experiments, one function each, in the rooms of what they break; registry.py lists them all."""
