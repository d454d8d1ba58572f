"""The integrity monitor: checks continuously what `wallet verify` checks once."""
