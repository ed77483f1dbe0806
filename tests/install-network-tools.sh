#!/bin/sh
# Install what the tests' own network and its events need from Debian's packages if it is missing and can be had; never fails.
set -u

missing=
for pair in ethtool:ethtool ip:iproute2 jq:jq logrotate:logrotate ping:iputils-ping tcpdump:tcpdump; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Network tools are missing and can only be installed here by root with apt-get (packages$missing)."
    exit 0
fi
echo "installing network tools (packages$missing) ..."
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # several packages
if log=$(apt-get update -qq 2>&1 && apt-get install -y -qq --no-install-recommends $missing 2>&1); then
    echo "Network tools are installed."
else
    echo "Network tools could not be installed: $(printf %s "$log" | tail -n 1)"
fi
exit 0
