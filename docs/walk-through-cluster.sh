#!/bin/bash
# Walk through an operator's first day in a cloud: a vhost for each service on a broker of several nodes, and a
# Galera cluster behind a proxy; kill a node of each, and mend it.
#
#   docs/walk-through-cluster.sh FOLDER WHEEL
#
# FOLDER gets all that it makes: a virtual environment with WHEEL (one that is there is used as it is), the
# configuration and logs. `make walk-through-cluster` calls this with servers of its own. With servers of your
# choosing, set
#   MESSAGING_URLS              a vhost for each of some services, with queues that they have declared, such as
#                               'rabbit://nova:password@host1:5672,nova:password@host2:5672/nova rabbit://...'
#   DATABASE_URL                an empty database behind the proxy, such as mysql://panko:password@host/panko
#   BREAK_NODE, MEND_NODE       commands that kill the node to which the proxy leads, and start it again, such as
#                               'ssh database1 systemctl kill -s KILL mariadb'
#   BREAK_BROKER, MEND_BROKER   commands that kill the first node of the broker, and start it again
# It tells what it does and what it expects, and ends with exit code 1 at the first thing that is otherwise.
set -euo pipefail

folder=$(realpath --canonicalize-missing "$1")
wheel=$2
: "${MESSAGING_URLS:?see the head of $0}" "${DATABASE_URL:?see the head of $0}"
: "${BREAK_NODE:?}" "${MEND_NODE:?}" "${BREAK_BROKER:?}" "${MEND_BROKER:?}"
PATH=$folder/venv/bin:$PATH
. "$(dirname "$0")/walk-through-steps.sh"

read -r -a vhosts <<<"$MESSAGING_URLS"
published=0

# publish COUNT: as many notifications in each vhost, as its service would.
publish() {
    local url
    for url in "${vhosts[@]}"; do
        printf '[DEFAULT]\ntransport_url = %s\n' "$url" >"$folder/service.conf"
        panko-ingest --config-file "$folder/service.conf" publish --count "$1" "$samples"
        published=$((published + $1))
    done
}
all_is_stored() { events_are_stored "$published"; }
tell_log() {
    tell "" "What the log says of it (nothing, where no connection was in use):"
    grep -E ' (WARNING|ERROR) | takes events again' "$folder/serve.log" | tail -n 5 | cut -c 1-160 | sed 's/^/   | /' || true
}
cluster_has() { panko-ingest check | grep --quiet "Galera, $1 nodes, Primary"; }

monitor_port=$(free_port)
monitor=http://127.0.0.1:$monitor_port

chapter "1. Install the wheel"
install mysql

chapter "2. Write the configuration: a line for each vhost"
configure <<TEXT
[notification]
workers = 2
$(printf 'messaging_urls = %s\n' "${vhosts[@]}")

[database]
connection = $DATABASE_URL
event_time_to_live = 365d

[monitor]
port = $monitor_port
TEXT

chapter "3. Have everything checked"
tell "The tables are not there yet, so the check finds a failure and says what to do:"
run 1 'db sync' panko-ingest check

chapter "4. Make the tables, and check again"
tell "In an empty database nothing is rewritten, so the cluster serves everybody else meanwhile."
run 0 'nothing was changed' panko-ingest db sync --dry-run
run 0 '' panko-ingest db sync
run 0 'cluster +Galera, 3 nodes, Primary; this one is Synced' panko-ingest check

chapter "5. Start it"
panko-ingest serve >"$folder/serve.log" 2>&1 &
daemon=$!
wait_for 60 "/readyz says 200" is_ready

chapter "6. Each service publishes in its vhost"
publish 8
wait_for 30 "all $published notifications have become events" all_is_stored
run 0 "readers +$((2 * ${#vhosts[@]})) of $((2 * ${#vhosts[@]})) are consuming" panko-ingest status

chapter "7. Kill the node of the database that is written to"
tell "$BREAK_NODE"
bash -c "$BREAK_NODE"
publish 99
wait_for 90 "all $published notifications have become events, on another node" all_is_stored
wait_for 60 "check tells of two nodes" cluster_has 2
tell_log
wait_for 60 "/readyz says 200" is_ready

chapter "8. Start the node again"
tell "$MEND_NODE"
bash -c "$MEND_NODE"
wait_for 120 "check tells of three nodes" cluster_has 3
publish 9
wait_for 60 "all $published notifications have become events" all_is_stored
wait_for 60 "/readyz says 200" is_ready

chapter "9. Kill the first node of the broker"
tell "$BREAK_BROKER"
bash -c "$BREAK_BROKER"
publish 99
wait_for 90 "all $published notifications have become events, by the other nodes" all_is_stored
tell_log
wait_for 60 "/readyz says 200" is_ready
run 0 'are consuming' panko-ingest status

chapter "10. Start it again"
tell "$MEND_BROKER"
bash -c "$MEND_BROKER"
publish 9
wait_for 60 "all $published notifications have become events" all_is_stored
run 0 'dead letters +none' panko-ingest status

chapter "11. Stop it"
kill -TERM "$daemon"
wait "$daemon" || deviates "exit code $? of the daemon; its log is $folder/serve.log"
daemon=""
run 0 'has stopped because it was told to' tail -n 1 "$folder/serve.log"
printf '\nAll was as it should be. What was made is in %s.\n' "$folder"
