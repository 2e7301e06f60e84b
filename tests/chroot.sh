#!/bin/sh
# Run `make test`, or another command, on a fresh Debian: tests/chroot.sh SUITE [COMMAND...]
#
# A minimal SUITE is made by debootstrap from the mirror that this machine's apt uses, and cached. Each
# run unpacks a new copy, clones HEAD of this repository into it and runs the command there as root.
# How this machine reaches its package registries (apt, pip, certificates) is handed in at run time.
set -eu

suite=$1
shift
if [ $# = 0 ]; then set -- make test; fi
repository=$(cd "$(dirname "$0")/.." && pwd)
cache=${PANKO_INGEST_CHROOTS:-/var/tmp/panko-ingest-chroots}

if [ "$(id -u)" != 0 ]; then
    echo "tests/chroot.sh needs root, for debootstrap and chroot" >&2
    exit 1
fi
"$repository/tests/services/install.sh" debootstrap git

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
    debootstrap --variant=minbase --include=ca-certificates,git,make,python3 "$suite" "$fresh" "$mirror" \
        >"$cache/$suite.log" 2>&1 || { tail "$cache/$suite.log" >&2; rm -rf "$fresh"; exit 1; }
    rm -f "$fresh"/var/cache/apt/archives/*.deb
    tar --create --file="$base.part" --directory="$fresh" --one-file-system .
    mv "$base.part" "$base"
    rm -rf "$fresh"
fi

root=$(mktemp -d "$cache/$suite.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM
tar --extract --file="$base" --directory="$root"
chmod 755 "$root"

cp --dereference /etc/resolv.conf /etc/hosts "$root/etc/"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
apt-config dump | grep -E '^Acquire::(https?|ftp)::[^ ]*(Proxy|CaInfo|Verify)' >"$root/etc/apt/apt.conf.d/90-host" || true
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf"; do
    if [ -e "$file" ]; then install -D -m 644 "$file" "$root/${file#/}"; fi
done

mkdir -p "$root/srv"
git clone --quiet --no-hardlinks "$repository" "$root/srv/panko_ingest"
if [ -d "$repository/../shared" ]; then cp --recursive "$repository/../shared" "$root/srv/shared"; fi

environment=$(env | grep -E '^(PIP_[A-Z_]*|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)=[^ ]*$' || true)
# shellcheck disable=SC2016,SC2086
unshare --mount --pid --fork --kill-child -- sh -c '
    root=$1; shift
    mount -t proc proc "$root/proc"
    mount --rbind --make-rslave /sys "$root/sys"
    mount --rbind --make-rslave /dev "$root/dev"
    exec chroot "$root" env -i "$@"
' sh "$root" HOME="$HOME" LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" CI=true \
    $environment sh -c 'cd /srv/panko_ingest && exec "$@"' sh "$@" </dev/null
