"""RabbitMQ: topology, publisher, consumer."""
