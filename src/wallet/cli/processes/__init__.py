"""Commands that run for a long time: `wallet up`, and `wallet api` with several workers."""
