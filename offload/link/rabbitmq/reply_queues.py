"""Which clients have left: a worker need not compute what no one waits for.

A client's reply queue is exclusive to its connection and has a fresh name, so that a queue that is gone never returns.
"""

from collections.abc import Callable
from typing import Any, Final

from pika import exceptions

MOST_KNOWN: Final = 4096
"""Reply queues that are remembered; the oldest are forgotten first, since anyone may name any."""
_NOT_FOUND: Final = 404


class ReplyQueues:
    """Remembers which reply queues exist and which are gone, and asks RabbitMQ about others.

    To be used in the thread that owns the connection, but for ``is_gone``.
    """

    def __init__(self) -> None:
        self._exists: dict[str, bool] = {}

    def is_gone(self, name: str) -> bool:
        """Return whether a queue is known to be gone; safe in any thread."""
        return self._exists.get(name) is False

    def is_known(self, name: str) -> bool:
        """Return whether it was seen that a queue exists, or that it is gone."""
        return name in self._exists

    def note(self, name: str, *, exists: bool) -> None:
        """Remember that a queue exists, or that it is gone, which is final."""
        exists = exists and not self.is_gone(name)
        self._exists.pop(name, None)
        self._exists[name] = exists
        if len(self._exists) > MOST_KNOWN:
            del self._exists[next(iter(self._exists))]

    def ask(self, connection: Any, name: str, then: Callable[[], object]) -> None:
        """Ask RabbitMQ whether a queue exists, and call ``then`` once that is known; never if the connection is lost.

        A passive declaration needs no right. If the queue is gone, RabbitMQ closes the channel with 404, and with 405
        if it is exclusive to another connection, as a client's is: hence a channel for each question.
        """

        def answer(exists: bool) -> None:
            self.note(name, exists=exists)
            then()

        def closed(_channel: Any, problem: BaseException) -> None:
            if isinstance(problem, exceptions.ChannelClosedByBroker):
                answer(problem.reply_code != _NOT_FOUND)

        def declared(channel: Any) -> None:  # by someone who shares it
            channel.close()
            answer(True)

        def opened(channel: Any) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(name, passive=True, callback=lambda _frame: declared(channel))

        try:
            connection.channel(on_open_callback=opened)
        except exceptions.NoFreeChannels:
            then()  # as if the client were there
