#!/bin/sh
# Install Chromium from Debian's packages if it is missing and can be had; never fails.
set -u

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Chromium is missing and can only be installed here by root with apt-get (package chromium)."
    exit 0
fi
echo "installing Chromium (package chromium) ..."
export DEBIAN_FRONTEND=noninteractive
if log=$(apt-get update -qq 2>&1 && apt-get install -y -qq --no-install-recommends chromium 2>&1); then
    echo "Chromium is installed."
else
    echo "Chromium could not be installed: $(printf %s "$log" | tail -n 1)"
fi
exit 0
