"""What clients may send and receive: bodies, answers, problems, OpenAPI."""
