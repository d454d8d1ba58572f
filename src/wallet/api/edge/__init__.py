"""What runs for every request before and after its route."""
