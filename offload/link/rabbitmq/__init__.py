"""The RabbitMQ connections of client and worker; the only package that imports pika."""
