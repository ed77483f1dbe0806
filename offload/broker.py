"""Where RabbitMQ is, and as whom to speak to it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Broker:
    """Where RabbitMQ is and who asks. The password never shows in its repr."""

    hostname: str
    port: int = 5672
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"

    def __str__(self) -> str:
        return f"{self.hostname}:{self.port}"
