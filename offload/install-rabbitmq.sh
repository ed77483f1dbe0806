#!/bin/sh
# Install RabbitMQ from Debian's packages if it is missing and root runs this script; exit code 0 in any case.
# Its services are neither left running nor enabled at boot: the demo and the tests start private nodes.
set -u

for found in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server; do
    [ -x "$found" ] && exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "RabbitMQ is missing and can only be installed here by root with apt-get (package rabbitmq-server)."
    exit 0
fi

# Only the units that this installation adds are disabled; existing units stay as they are.
added=
for unit in rabbitmq-server.service epmd.service epmd.socket; do
    [ -e "/usr/lib/systemd/system/$unit" ] || [ -e "/lib/systemd/system/$unit" ] || added="$added $unit"
done
policy=/usr/sbin/policy-rc.d
made_policy=no
log=$(mktemp)

clean_up() {
    trap '' HUP INT PIPE TERM
    [ "$made_policy" = no ] || rm -f "$policy"
    rm -f "$log"
    for unit in $added; do
        if command -v systemctl; then
            systemctl --quiet disable "$unit"
            [ ! -d /run/systemd/system ] || systemctl --quiet stop "$unit"
        fi
        [ "$unit" != rabbitmq-server.service ] || [ ! -e /etc/init.d/rabbitmq-server ] \
            || update-rc.d rabbitmq-server disable
    done >/dev/null 2>&1
}
# A shell that ends by a signal without a trap does not run the trap on EXIT.
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

echo "installing RabbitMQ (package rabbitmq-server) ..."
# Without this, the package would start a broker on all interfaces as soon as it is unpacked.
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
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
