#!/bin/sh
# Run `make test`, or another command, on a fresh Debian: tests/chroot.sh SUITE [COMMAND...]
#
# HEAD of this repository is cloned into a new tree of tests/debian_tree.sh, and the command runs there as root.
set -eu

suite=$1
shift
if [ $# = 0 ]; then set -- make test; fi
repository=$(cd "$(dirname "$0")/.." && pwd)

"$repository/tests/services/install.sh" git
cache=${PANKO_INGEST_CHROOTS:-/var/tmp/panko-ingest-chroots}
mkdir -p "$cache"
root=$(mktemp -d "$cache/$suite.XXXXXX")
noted=test-results/compatibility
leave() {
    if [ -d "$root/srv/panko_ingest/$noted" ]; then
        mkdir -p "$repository/$noted"
        cp "$root/srv/panko_ingest/$noted"/* "$repository/$noted/"
    fi
    rm -rf --one-file-system "$root"
}
trap leave EXIT
trap 'exit 130' INT TERM
"$repository/tests/debian_tree.sh" "$suite" "$root"

mkdir -p "$root/srv"
git clone --quiet --no-hardlinks "$repository" "$root/srv/panko_ingest"
if [ -d "$repository/../shared" ]; then cp --recursive -H "$repository/../shared" "$root/srv/shared"; fi

# shellcheck disable=SC2016,SC2046
unshare --mount --pid --fork --kill-child -- sh -c '
    root=$1; shift
    # Of a root that is no mount nobody can unshare the mounts, as tests do.
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind --make-rslave /sys "$root/sys"
    mount --rbind --make-rslave /dev "$root/dev"
    exec chroot "$root" env -i "$@"
' sh "$root" HOME="$HOME" LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" CI=true \
    PANKO_INGEST_RUN="$suite" PANKO_INGEST_RUN_COMMAND="make test-$suite" \
    $(cat "$root/etc/environment") sh -c 'cd /srv/panko_ingest && exec "$@"' sh "$@" </dev/null
