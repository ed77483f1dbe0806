"""The link between edge and workers: messages, client, worker, RabbitMQ."""
