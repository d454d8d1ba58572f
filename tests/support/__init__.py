"""The infrastructure of the tests: a real PostgreSQL, a real RabbitMQ, the real processes, waiting for conditions."""
