"""What tests stand on: a real PostgreSQL, a real RabbitMQ, the real processes, and waiting for conditions."""
