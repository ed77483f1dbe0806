"""What pika, TLS and the sockets raise, as the toolkit's errors of one line."""

import re
import socket
import ssl
from typing import Final

from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from offload.link.broker import Broker, Host
from utils.errors import BrokerRefusedError, CloudError, CloudUnavailableError

BROKER_FAILED: Final = "broker-failed"
"""Code of an error within a broker that is there: trying again may help."""

BROKER_BLOCKED: Final = "broker-blocked"
"""Code of the error while RabbitMQ blocks those who publish."""

_REFUSAL: Final = re.compile(r"\((403|530)\)")  # as pika quotes the broker: access refused, not allowed
# A server that turns a client's certificate down says so in an alert, in one of these words.
_CERTIFICATE_ALERT: Final = re.compile(r"\w*ALERT_\w*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|ACCESS_DENIED)\w*")
_QUOTED_ERROR: Final = re.compile(r"\(-?\d+, '(?:\[.*?\] )?(.*?)(?: \(_ssl\.c.*)?'\)")  # as pika quotes an OSError


def blocked_error(host: Host, reason: str) -> CloudUnavailableError:
    """Return the error to show while RabbitMQ takes no messages, for a reason such as ``low on memory``."""
    return CloudUnavailableError(
        f"RabbitMQ at {host} blocks publishers: its memory or disk alarm is on ({quoted(reason)}); free memory or disk "
        "space on its machine",
        BROKER_BLOCKED,
    )


def plain_error(problem: BaseException, broker: Broker, host: Host) -> CloudError:
    """Return the error to show for what went wrong on a connection to ``host``."""
    problem = _innermost(problem)
    match problem:
        case CloudError():
            return problem
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError():
            return _refusal(problem, broker, host)
        case exceptions.ConnectionClosedByBroker(reply_code=530):  # not allowed: the virtual host is gone
            return BrokerRefusedError(
                f"RabbitMQ at {host} refuses user {broker.username!r}: {quoted(problem.reply_text)}"
            )
        case exceptions.ConnectionClosedByBroker(reply_code=541):
            # So does 3.10 with a worker that consumes a new quorum queue just as another one's declaration starts it.
            said = quoted(problem.reply_text)
            return CloudUnavailableError(f"RabbitMQ at {host} failed ({said}); its log says why", BROKER_FAILED)
        case exceptions.ChannelClosedByBroker(reply_code=403):
            return BrokerRefusedError(
                f"RabbitMQ at {host} refuses user {broker.username!r}: {quoted(problem.reply_text)}"
            )
        case exceptions.ChannelClosedByBroker():
            return CloudUnavailableError(f"RabbitMQ at {host} closed the channel: {quoted(problem.reply_text)}")
        case ssl.SSLCertVerificationError():
            return BrokerRefusedError(
                f"the certificate of RabbitMQ at {host} is not to be trusted ({problem.verify_message.rstrip('.')}); "
                "check --mq-ca-file and the name in --mq-hostname"
            )
        case ssl.SSLError() if alert := _CERTIFICATE_ALERT.search(problem.reason or ""):
            return _certificate_refusal(alert[0], broker, host)
        case ssl.SSLError():
            return CloudUnavailableError(
                f"what answers at {host} does not speak TLS ({_words(problem.reason or 'TLS error')}); "
                "check --mq-port, or leave out --mq-tls"
            )
        case exceptions.IncompatibleProtocolError() if broker.tls is None:
            return CloudUnavailableError(
                f"what answers at {host} is not RabbitMQ without TLS; check --mq-port, or add --mq-tls"
            )
        # In TLS 1.3 the handshake is over for us before the broker has seen our certificate.
        case exceptions.IncompatibleProtocolError() if alert := _CERTIFICATE_ALERT.search(str(problem)):
            return _certificate_refusal(alert[0], broker, host)
        case exceptions.IncompatibleProtocolError():
            return CloudUnavailableError(
                f"what answers at {host} does not go on as RabbitMQ after TLS's handshake; check --mq-port"
            )
    return CloudUnavailableError(
        f"no RabbitMQ at {host} ({_reason(problem)}); start it, or check --mq-hostname and --mq-port"
    )


def _innermost(problem: BaseException) -> BaseException:
    """Return what pika wraps; of several addresses tried, what happened at the last."""
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


def _refusal(problem: exceptions.AMQPError, broker: Broker, host: Host) -> CloudError:
    if not _REFUSAL.search(str(problem)):
        return CloudUnavailableError(
            f"RabbitMQ at {host} broke off the greeting, as a node does that starts or stops; try again"
        )
    if "connection limit" in str(problem):
        return CloudUnavailableError(
            f"RabbitMQ at {host} takes no more connections of user {broker.username!r} or to virtual host "
            f"{broker.virtual_host!r} at present: a limit is reached"
        )
    if isinstance(problem, exceptions.ProbableAccessDeniedError):
        return BrokerRefusedError(
            f"RabbitMQ at {host} refuses user {broker.username!r} the virtual host {broker.virtual_host!r}; "
            "check --mq-vhost"
        )
    return BrokerRefusedError(
        f"RabbitMQ at {host} refuses user {broker.username!r} or the password; check --mq-username and --mq-password"
    )


def _certificate_refusal(alert: str, broker: Broker, host: Host) -> CloudError:
    if broker.tls is not None and broker.tls.certificate_file is None:
        return BrokerRefusedError(
            f"RabbitMQ at {host} asks for a certificate of ours ({_words(alert)}); "
            "give --mq-certificate-file and --mq-key-file"
        )
    return BrokerRefusedError(
        f"RabbitMQ at {host} refuses our certificate ({_words(alert)}); check --mq-certificate-file and --mq-key-file"
    )


def _reason(problem: BaseException) -> str:
    match problem:
        case workflow.AMQPConnectorStackTimeout() | TimeoutError():
            return "no answer in time"
        case exceptions.AMQPHeartbeatTimeout():
            return "it stopped answering"
        case exceptions.ConnectionClosedByBroker():
            return quoted(problem.reply_text)
        case exceptions.StreamLostError() if said := _QUOTED_ERROR.search(str(problem)):
            return said[1].lower()
        case exceptions.StreamLostError() if "EOF" in str(problem):
            return "it closed the connection"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "its name cannot be looked up at present"
        case socket.gaierror() | UnicodeError():
            return "unknown host name"
        case OSError(strerror=str(text)) if text:
            return text.lower()
    return quoted(problem) or type(problem).__name__


def quoted(said: object) -> str:
    """Return what the other side said, of any length, as part of one line."""
    return " ".join(str(said).split())[:200]


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
