"""The benchmark: what the service does on this machine, next to what a careful team would write instead."""
