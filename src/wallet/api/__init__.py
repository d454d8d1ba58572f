"""The HTTP edge: bytes in, frozen commands onward; outcomes back."""
