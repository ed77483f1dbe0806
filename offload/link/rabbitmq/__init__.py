"""RabbitMQ, for both ends of the link; the only package that imports pika."""
