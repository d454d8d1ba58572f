"""What money may do: pure rules without I/O, clock, randomness or logging."""
