#!/bin/bash
# Run the main job once in front of your eyes, then until Ctrl-C: try-it.sh PANKO_INGEST FOLDER
#
# FOLDER holds panko-ingest.conf; `make run` writes it and calls this.
set -euo pipefail

folder=$2
samples=$(realpath "$(dirname "$0")/../etc/samples.jsonl")
ingest=("$1" --config-file "$folder/panko-ingest.conf")
daemon=""
if [ -t 0 ]; then terminal=yes; else terminal=no; fi

stop() {
    trap '' INT TERM HUP
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        echo "Stopping: what was read is being committed." || true  # the terminal may be gone
        kill -TERM "$daemon"
        wait "$daemon" || code=$?
    fi
    exit "${code:-0}"
}
trap stop INT TERM HUP

daemon_must_live() {
    if kill -0 "$daemon" 2>/dev/null; then return; fi
    wait "$daemon" || code=$?
    tail -n 20 "$folder/serve.log" >&2
    echo "The daemon has ended (exit code ${code:-0}); its log is $folder/serve.log" >&2
    exit 1
}

events() {
    "${ingest[@]}" events list --limit 20
}

state_of_the_database() {
    stat --format='%Y %s' "$folder"/events.sqlite* 2>/dev/null || true
}

"${ingest[@]}" db sync
"${ingest[@]}" publish --create "$samples"
"${ingest[@]}" serve >"$folder/serve.log" 2>&1 &
daemon=$!

echo "Waiting for their events..."
shown=$(events)
until [ "$(wc -l <<<"$shown")" -gt "$(wc -l <"$samples")" ]; do
    daemon_must_live
    sleep 0.5
    shown=$(events)
done
cat <<TEXT
$shown

It goes on reading; its log is $folder/serve.log. From a second terminal, try
  ${ingest[*]} publish --count 3 $samples
  ${ingest[*]} events show MESSAGE_ID
Ctrl-C ends it.
TEXT

seen=$(state_of_the_database)
while daemon_must_live; do
    sleep 1
    # make waits for us when the terminal is closed, so nobody tells us.
    if [ "$terminal" = yes ] && [ ! -t 0 ]; then stop; fi
    now=$(state_of_the_database)
    if [ "$now" = "$seen" ]; then continue; fi
    seen=$now
    newest=$(events)
    if [ "$newest" != "$shown" ]; then
        printf '\nThe newest events now:\n%s\n' "$newest"
        shown=$newest
    fi
done
