"""A RabbitMQ cluster of three, made by the README's lines: a node is killed under load, and no request is lost."""

import shlex
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from offload.link.broker import Broker, Host
from offload.link.pending_requests import RetryPolicy
from offload.link.protocol import Answer
from offload.link.worker_settings import WorkerSettings
from offload.operations.metrics import ClientMetrics
from tests.controlled_broker import ControlledBroker
from tests.offload.link_ends import (
    PATIENCE,
    Sleeper,
    is_answer_to,
    make_client,
    make_request,
    make_worker,
    run_worker,
    wait_until,
)
from tests.offload.test_deployment import BLOCKS

REQUESTS = "requests"


class Node(ControlledBroker):
    """One of a cluster's nodes on this machine, which share a cookie and epmd.

    Args:
        first: node of the cluster, None for that one itself.
    """

    def __init__(self, first: "Node | None" = None) -> None:
        self._first = first
        super().__init__()

    def _make_node_environment(self) -> dict[str, str]:
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text("COOKIE")
        cookie.chmod(0o400)
        if self._first is not None:
            self._epmd_port = self._first._epmd_port
        return super()._make_node_environment()

    def join(self) -> None:
        """Run the README's lines on how to join the first."""
        assert self._first is not None
        start, *lines = BLOCKS["join"].splitlines()
        assert start == "systemctl start rabbitmq-server"
        for tool, *words in map(shlex.split, lines):
            assert tool == "rabbitmqctl"
            self.control(*(self._first._node if word == "rabbit@mq1" else word for word in words))


def under_way(answers: Sequence[Future[Answer]]) -> int:
    return sum(not answer.done() for answer in answers)


def test_a_cluster_of_three_loses_a_node_under_load_without_losing_a_request(broker: ControlledBroker) -> None:
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    requests = [make_request() for _ in range(1500)]
    answers: list[Future[Answer]] = []
    metrics = ClientMetrics()
    with ExitStack() as running:
        first = running.enter_context(Node())
        with ThreadPoolExecutor() as starting:
            others = [running.enter_context(node) for node in starting.map(Node, [first, first])]
        for node in others:
            node.join()
        hosts = tuple(Host("127.0.0.1", node.port) for node in (first, *others))
        link = Broker(hosts, first.username, first.password)
        workers = []
        for turn in range(3):  # a worker at each node
            at_node = replace(link, hosts=hosts[turn:] + hosts[:turn])
            workers.append(make_worker(at_node, REQUESTS, Sleeper(0.005), WorkerSettings(queue_type="quorum")))
            running.enter_context(run_worker(workers[-1]))
        (members,) = others[0].control("list_queues", "members").splitlines()[-1:]
        assert members.count("private") == 3
        client = running.enter_context(make_client(link, REQUESTS, RetryPolicy.from_options(5, 50, PATIENCE), metrics))
        for number, request in enumerate(requests):
            wait_until(lambda: under_way(answers[-100:]) < 50)
            answers.append(client.submit(request))
            if number == len(requests) // 3:
                assert under_way(answers) > 0
                first.kill()
        for request, answer in zip(requests, answers, strict=True):
            assert is_answer_to(answer.result(PATIENCE), request)
    # A second one where RabbitMQ rejects all that is published on the new connection: see REJECTION_LIMIT.
    assert metrics.registry.get_sample_value("ee_client_connection_losses_total") in {1, 2}
    assert sum(worker.answered for worker in workers) >= len(requests)
    assert all(worker.answered > 0 for worker in workers)
