"""Commands that run processes for a long time: `wallet up`, and `wallet api` with several workers."""
