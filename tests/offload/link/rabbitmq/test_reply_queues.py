from offload.link.rabbitmq.reply_queues import MAX_QUEUES, ReplyQueues


def test_a_queue_that_is_gone_never_returns() -> None:
    queues = ReplyQueues()
    assert not queues.is_known("a") and not queues.is_gone("a")
    queues.remember("a", exists=True)
    assert queues.is_known("a") and not queues.is_gone("a")
    queues.remember("a", exists=False)
    queues.remember("a", exists=True)
    assert queues.is_gone("a")


def test_the_oldest_queues_are_forgotten() -> None:
    queues = ReplyQueues()
    for number in range(MAX_QUEUES + 10):
        queues.remember(str(number), exists=False)
        queues.remember("busy", exists=True)
    assert queues.is_known("busy")
    assert [queues.is_gone(str(number)) for number in (0, 10, 11, MAX_QUEUES + 9)] == [False, False, True, True]
