"""Translate exceptions of pika, TLS and sockets into the toolkit's errors of one line."""

import re
import socket
import ssl
from typing import Final

from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from offload.link.broker import Broker, Host
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

BROKER_FAILED: Final = "broker-failed"
"""Code of an internal error of the broker: another attempt may succeed."""

BROKER_BLOCKED: Final = "broker-blocked"
"""Code of the error while RabbitMQ blocks publishers."""

_REFUSAL: Final = re.compile(r"\((403|530)\)")  # pika quotes these reply codes: access refused, not allowed
# The TLS alerts with which a server refuses a client certificate.
_CERTIFICATE_ALERT: Final = re.compile(r"\w*ALERT_\w*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|ACCESS_DENIED)\w*")
_QUOTED_ERROR: Final = re.compile(r"\(-?\d+, '(?:\[.*?\] )?(.*?)(?: \(_ssl\.c.*)?'\)")  # how pika quotes an OSError


def make_blocked_error(host: Host, reason: str) -> CloudUnavailableError:
    """Return the error to report while RabbitMQ blocks publishers, for a reason such as ``low on memory``."""
    return CloudUnavailableError(
        f"RabbitMQ at {host} blocks publishers: its memory or disk alarm is on ({quote(reason)}); free memory or disk "
        "space on its machine",
        BROKER_BLOCKED,
    )


def translate_error(problem: BaseException, broker: Broker, host: Host) -> CloudError:
    """Return the error to report for an exception on a connection to ``host``."""
    problem = _unwrap(problem)
    match problem:
        case CloudError():
            return problem
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError():
            return _translate_refusal(problem, broker, host)
        case exceptions.ConnectionClosedByBroker(reply_code=541):
            # RabbitMQ 3.10 fails this way if a worker consumes a quorum queue while another worker declares it.
            said = quote(problem.reply_text)
            return CloudUnavailableError(f"RabbitMQ at {host} failed ({said}); its log says why", BROKER_FAILED)
        # The virtual host was deleted, or the user lacks a right.
        case exceptions.ConnectionClosedByBroker(reply_code=530) | exceptions.ChannelClosedByBroker(reply_code=403):
            return BrokerRefusedError(
                f"RabbitMQ at {host} refuses user {broker.username!r}: {quote(problem.reply_text)}"
            )
        case exceptions.ChannelClosedByBroker():
            return CloudUnavailableError(f"RabbitMQ at {host} closed the channel: {quote(problem.reply_text)}")
        case ssl.SSLCertVerificationError():
            return BrokerRefusedError(
                f"the certificate of RabbitMQ at {host} is not trusted ({problem.verify_message.rstrip('.')}); "
                "check --mq-ca-file and the name in --mq-hostname"
            )
        case ssl.SSLError() if alert := _CERTIFICATE_ALERT.search(problem.reason or ""):
            return _translate_certificate_alert(alert[0], broker, host)
        case ssl.SSLError():
            return CloudUnavailableError(
                f"the server at {host} does not speak TLS ({_format_alert(problem.reason or 'TLS error')}); "
                "check --mq-port, or leave out --mq-tls"
            )
        case exceptions.IncompatibleProtocolError() if broker.tls is None:
            return CloudUnavailableError(
                f"the server at {host} is not RabbitMQ without TLS; check --mq-port, or add --mq-tls"
            )
        # In TLS 1.3 the handshake ends for the client before the broker checks the client certificate.
        case exceptions.IncompatibleProtocolError() if alert := _CERTIFICATE_ALERT.search(str(problem)):
            return _translate_certificate_alert(alert[0], broker, host)
        case exceptions.IncompatibleProtocolError():
            return CloudUnavailableError(
                f"the server at {host} does not answer as RabbitMQ after the TLS handshake; check --mq-port"
            )
    return CloudUnavailableError(
        f"no RabbitMQ at {host} ({_describe_cause(problem)}); start it, or check --mq-hostname and --mq-port"
    )


def _unwrap(problem: BaseException) -> BaseException:
    """Return the exception that pika has wrapped; if several addresses failed, that of the last one."""
    while True:
        inner: object = None
        if isinstance(problem, workflow.AMQPConnectionWorkflowFailed):
            inner = problem.exceptions[-1]
        elif isinstance(problem, workflow.AMQPConnectorPhaseErrorBase):
            inner = problem.exception
        elif isinstance(problem, exceptions.AMQPConnectionError) and problem.args:
            inner = problem.args[0]
        if not isinstance(inner, BaseException):
            return problem
        problem = inner


def _translate_refusal(problem: exceptions.AMQPError, broker: Broker, host: Host) -> CloudError:
    if not _REFUSAL.search(str(problem)):
        return CloudUnavailableError(
            f"RabbitMQ at {host} ended the handshake, as a node does while it starts or stops; try again"
        )
    if "connection limit" in str(problem):
        return CloudUnavailableError(
            f"RabbitMQ at {host} accepts no more connections of user {broker.username!r} or to virtual host "
            f"{broker.virtual_host!r}: a limit is reached; raise it, or stop other clients"
        )
    if isinstance(problem, exceptions.ProbableAccessDeniedError):
        return BrokerRefusedError(
            f"RabbitMQ at {host} refuses user {broker.username!r} the virtual host {broker.virtual_host!r}; "
            "check --mq-vhost"
        )
    return BrokerRefusedError(
        f"RabbitMQ at {host} refuses user {broker.username!r} or the password; check --mq-username and --mq-password"
    )


def _translate_certificate_alert(alert: str, broker: Broker, host: Host) -> CloudError:
    if broker.tls is not None and broker.tls.certificate_file is None:
        return BrokerRefusedError(
            f"RabbitMQ at {host} requires a client certificate ({_format_alert(alert)}); "
            "give --mq-certificate-file and --mq-key-file"
        )
    return BrokerRefusedError(
        f"RabbitMQ at {host} refuses the client certificate ({_format_alert(alert)}); "
        "check --mq-certificate-file and --mq-key-file"
    )


def _describe_cause(problem: BaseException) -> str:
    match problem:
        case workflow.AMQPConnectorStackTimeout() | TimeoutError():
            return "no answer in time"
        case exceptions.AMQPHeartbeatTimeout():
            return "it stopped answering"
        case exceptions.ConnectionClosedByBroker():
            return quote(problem.reply_text)
        case exceptions.StreamLostError() if said := _QUOTED_ERROR.search(str(problem)):
            return said[1].lower()
        case exceptions.StreamLostError() if "EOF" in str(problem):
            return "it closed the connection"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "its name cannot be resolved at present"
        case socket.gaierror() | UnicodeError():
            return "unknown host name"
        case OSError(strerror=str(text)) if text:
            return text.lower()
    return quote(problem) or type(problem).__name__


def quote(said: object) -> str:
    """Return the text of a peer as part of one line, in at most 200 characters."""
    return " ".join(str(said).split())[:200]


def _format_alert(reason: str) -> str:
    return reason.lower().replace("_", " ")
