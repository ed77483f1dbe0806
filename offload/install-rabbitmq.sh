#!/bin/sh
# Install RabbitMQ from Debian's packages if it is missing and can be had; never fails.
# Its service is not left running: the demo and the tests start nodes of their own.
set -u

for found in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server; do
    [ -x "$found" ] && exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "RabbitMQ is missing and can only be installed here by root with apt-get (package rabbitmq-server)."
    exit 0
fi
echo "installing RabbitMQ (package rabbitmq-server) ..."
# Without this, the package would start a broker on all interfaces as soon as it is unpacked.
policy=/usr/sbin/policy-rc.d
made_policy=no
log=$(mktemp)
trap '[ "$made_policy" = no ] || rm -f "$policy"; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq >"$log" 2>&1 && apt-get install -y -qq --no-install-recommends rabbitmq-server >>"$log" 2>&1; then
    echo "RabbitMQ is installed."
else
    echo "RabbitMQ could not be installed: $(tail -n 1 "$log")"
fi
exit 0
