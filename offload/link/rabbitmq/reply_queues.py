"""Find out which clients have left, so that a worker does not compute their requests.

The reply queue of a client is exclusive to its connection and has a random name, so a queue that is gone never returns.
"""

from collections.abc import Callable
from typing import Any, Final

from pika import exceptions

MAX_QUEUES: Final = 4096
"""Most reply queues that are remembered, because a sender may invent names; the oldest are forgotten first."""
_NOT_FOUND: Final = 404


class ReplyQueues:
    """Remembers which reply queues exist and which are gone, and asks RabbitMQ about others.

    Use it in the thread that owns the connection; only ``is_gone`` is safe in others.
    """

    def __init__(self) -> None:
        self._exists: dict[str, bool] = {}

    def is_gone(self, name: str) -> bool:
        """Return whether a queue is known to be gone; safe in any thread."""
        return self._exists.get(name) is False

    def is_known(self, name: str) -> bool:
        """Return whether it is known that a queue exists, or that it is gone."""
        return name in self._exists

    def remember(self, name: str, *, exists: bool) -> None:
        """Remember that a queue exists or is gone; a queue that is gone stays so."""
        exists = exists and not self.is_gone(name)
        self._exists.pop(name, None)
        self._exists[name] = exists
        if len(self._exists) > MAX_QUEUES:
            del self._exists[next(iter(self._exists))]

    def ask(self, connection: Any, name: str, then: Callable[[], object]) -> None:
        """Ask RabbitMQ whether a queue exists, and call ``then`` with the reply; never if the connection is lost.

        A passive declaration needs no permission. RabbitMQ closes the channel with 404 if the queue is gone, and with
        405 if it is exclusive to another connection, as that of a client is; so each question has its own channel.
        """

        def answer(exists: bool) -> None:
            self.remember(name, exists=exists)
            then()

        def closed(_channel: Any, problem: BaseException) -> None:
            if isinstance(problem, exceptions.ChannelClosedByBroker):
                answer(problem.reply_code != _NOT_FOUND)

        def declared(channel: Any) -> None:  # the queue is not exclusive
            channel.close()
            answer(True)

        def opened(channel: Any) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(name, passive=True, callback=lambda _frame: declared(channel))

        try:
            connection.channel(on_open_callback=opened)
        except exceptions.NoFreeChannels:
            then()  # as if the queue existed
