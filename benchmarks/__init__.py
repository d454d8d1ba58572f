"""The benchmark: measures the service on this machine, and compares it with a simpler design on the same server."""
