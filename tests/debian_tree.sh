#!/bin/sh
# Make a folder that holds a fresh Debian: tests/debian_tree.sh SUITE FOLDER [PACKAGE...]
#
# A minimal SUITE is made by debootstrap from the mirror that this machine's apt uses, and cached; each call
# unpacks a new copy into FOLDER and installs the packages there. How this machine reaches its package
# registries (apt, pip, certificates) is handed in: what is a variable stands in its /etc/environment.
set -eu

suite=$1
tree=$2
shift 2
repository=$(cd "$(dirname "$0")/.." && pwd)
cache=${PANKO_INGEST_CHROOTS:-/var/tmp/panko-ingest-chroots}

if [ "$(id -u)" != 0 ]; then
    echo "A fresh Debian is made by debootstrap and chroot, which need root" >&2
    exit 1
fi
"$repository/tests/services/install.sh" debootstrap

mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' |
    awk '$2 == "Debian" { print $1; exit }')
if [ -z "$mirror" ]; then
    echo "apt knows no Debian mirror: check its sources" >&2
    exit 1
fi

mkdir -p "$cache"
base=$cache/$suite.tar
if [ ! -e "$base" ]; then
    echo "Making a minimal Debian $suite in $base"
    fresh=$(mktemp -d "$cache/making.XXXXXX")
    # A suite that is newer than this debootstrap has no script of its own in it; all are sid's.
    script=/usr/share/debootstrap/scripts/$suite
    if [ ! -e "$script" ]; then script=/usr/share/debootstrap/scripts/sid; fi
    debootstrap --variant=minbase --include=ca-certificates,git,make,python3 "$suite" "$fresh" "$mirror" "$script" \
        >"$cache/$suite.log" 2>&1 || { tail "$cache/$suite.log" >&2; rm -rf "$fresh"; exit 1; }
    rm -f "$fresh"/var/cache/apt/archives/*.deb
    tar --create --file="$base.part" --directory="$fresh" --one-file-system .
    mv "$base.part" "$base"
    rm -rf "$fresh"
fi

mkdir -p "$tree"
tar --extract --file="$base" --directory="$tree"
chmod 755 "$tree"

cp --dereference /etc/resolv.conf /etc/hosts "$tree/etc/"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/"
apt-config dump | grep -E '^Acquire::(Check-Valid-Until|(https?|ftp)::[^ ]*(Proxy|CaInfo|Verify))' >"$tree/etc/apt/apt.conf.d/90-host" || true
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf"; do
    if [ -e "$file" ]; then install -D -m 644 "$file" "$tree/${file#/}"; fi
done
env | grep -E '^(PIP_[A-Z_]*|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)=[^ ]*$' >"$tree/etc/environment" || true

if [ $# != 0 ]; then
    # Some packages of newer suites can't be installed where there is no /proc.
    # shellcheck disable=SC2016,SC2046
    unshare --mount -- sh -c '
        tree=$1; shift
        mount -t proc proc "$tree/proc"
        exec chroot "$tree" env -i "$@"' sh "$tree" \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive $(cat "$tree/etc/environment") sh -euc '
        apt-get update --quiet=2
        apt-get install --quiet=2 --yes --no-install-recommends "$@"
        apt-get clean' sh "$@" >"$tree.log" 2>&1 || { tail "$tree.log" >&2; exit 1; }
fi
