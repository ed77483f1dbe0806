"""Stage: the edge decides what is certain, the cloud answers the rest, RabbitMQ carries it."""
