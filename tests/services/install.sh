#!/bin/sh
# Install Debian packages that are missing, without starting the servers in them, now or at boot.
set -eu

is_missing() {
    ! dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

missing=""
for package in "$@"; do
    if is_missing "$package"; then missing="$missing $package"; fi
done
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        exec sudo -- "$0" "$@"
    fi
    echo "Missing Debian packages; install them as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

echo "Installing from Debian, servers neither started nor enabled:$missing"
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
# Another installation may be under way.
apt-get --option DPkg::Lock::Timeout=300 update --quiet=2
# shellcheck disable=SC2086
apt-get --option DPkg::Lock::Timeout=300 install --quiet=2 --yes --no-install-recommends $missing
if command -v systemctl >/dev/null; then
    for package in $missing; do
        case $package in
            postgresql) services="postgresql.service" ;;
            mariadb-server) services="mariadb.service" ;;
            haproxy) services="haproxy.service" ;;
            pgbouncer) services="pgbouncer.service" ;;
            prometheus) services="prometheus.service" ;;
            rabbitmq-server) services="rabbitmq-server.service epmd.service epmd.socket" ;;
            *) services="" ;;
        esac
        for service in $services; do systemctl disable --quiet "$service" 2>/dev/null || true; done
    done
fi
