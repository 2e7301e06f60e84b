# What both walk-throughs take their steps with; they read it by `.`, after having set $folder.

daemon="" listener="" prometheus=""

stop() {
    local process
    for process in $prometheus $daemon $listener; do
        kill -TERM "$process" 2>/dev/null && wait "$process" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

chapter() { printf '\n== %s\n' "$1"; }
tell() { printf '   %s\n' "$@"; }
deviates() {
    printf '\nIt is otherwise than it should be: %s\n' "$1" >&2
    exit 1
}

# run EXIT-CODE WHAT-IT-PRINTS COMMAND...: show a command and what it prints, which must be so.
run() {
    local code=0 wanted=$1 pattern=$2 shown
    shift 2
    printf '\n   $ %s\n' "$*"
    shown=$("$@" 2>&1) || code=$?
    printf '%s\n' "$shown" | sed 's/^/   | /'
    [ "$code" = "$wanted" ] || deviates "exit code $code instead of $wanted"
    grep --quiet --extended-regexp "$pattern" <<<"$shown" || deviates "nothing there matches $pattern"
}

# wait_for SECONDS WHAT COMMAND...: until a command succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt "$end" ] || deviates "waited in vain for $what"
        sleep 0.5
    done
    tell "$what: seen"
}

ready_code() { curl --silent --output /dev/null --write-out '%{http_code}' "$monitor/readyz"; }
is_ready() { [ "$(ready_code)" = 200 ]; }
is_not_ready() { [ "$(ready_code)" = 503 ]; }
events_are_stored() { [ "$(panko-ingest events list --since 1h --limit 100000 | tail -n +2 | wc -l)" -eq "$1" ]; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# install EXTRAS: the wheel, unless there is a virtual environment already.
install() {
    mkdir -p "$folder"
    if [ ! -x "$folder/venv/bin/panko-ingest" ]; then
        tell "into a virtual environment, $folder/venv"
        python3 -m venv "$folder/venv"
        "$folder/venv/bin/pip" install --quiet "$wheel[$1]"
    fi
    run 0 '^[0-9]+\.[0-9]+' panko-ingest --version
    shipped=$(python3 -c 'from panko_ingest import resources; print(resources.path("etc"))')
    samples=$shipped/samples.jsonl
}

# configure: what stands on standard input becomes the configuration of this walk alone.
configure() {
    export HOME=$folder
    umask 077
    mkdir -p "$folder/.panko-ingest"
    cat >"$folder/.panko-ingest/panko-ingest.conf"
    tell "In /etc/panko-ingest it would be for all; here it is for this walk alone. Passwords are not shown:" ""
    sed -E 's#([/,])[^/@,]*@#\1***@#g; s/^/   | /' "$folder/.panko-ingest/panko-ingest.conf"
}
