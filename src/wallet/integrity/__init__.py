"""Checks that the books are right: `wallet verify` once, the integrity monitor continuously."""
