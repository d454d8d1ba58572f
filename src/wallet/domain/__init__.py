"""The business rules for money, as pure functions: no I/O, no clock, no randomness and no logging."""
