#!/bin/bash
# Walk through an operator's first day: install, configure, start, watch, break the database, mend it.
#
#   docs/walk-through.sh FOLDER WHEEL
#
# FOLDER gets all that it makes: a virtual environment with WHEEL (one that is there is used as it is), the
# configuration, logs, and the data of a Prometheus. `make walk-through` calls this with servers of its own.
# With servers of your choosing, set
#   TRANSPORT_URL   a vhost for trying things out, such as rabbit://user:password@host:5672/test
#   DATABASE_URL    an empty database, such as postgresql://panko:password@host/panko
#   BREAK, MEND     commands that take the database away and bring it back, such as
#                   'ssh database1 systemctl stop postgresql'
# It tells what it does and what it expects, and ends with exit code 1 at the first thing that is otherwise.
set -euo pipefail

folder=$(realpath --canonicalize-missing "$1")
wheel=$2
: "${TRANSPORT_URL:?see the head of $0}" "${DATABASE_URL:?see the head of $0}" "${BREAK:?}" "${MEND:?}"
PATH=$folder/venv/bin:$PATH
. "$(dirname "$0")/walk-through-steps.sh"

told_systemd() { grep --quiet --extended-regexp "$1" "$folder/notify.log"; }
ask_prometheus() { promtool query instant "http://127.0.0.1:$prometheus_port" "$1"; }
publish() {
    panko-ingest publish --count "$1" "$samples"
    published=$((published + $1))
}
has_figures() {
    if ask_prometheus "$1" | grep --extended-regexp '=> [-+0-9]'; then return; fi
    publish 8
    return 1
}
alert_is_raised() { ask_prometheus 'ALERTS{alertname="PankoIngestDatabaseAway",alertstate="firing"}' | grep "=> 1"; }
no_alert() { [ -z "$(ask_prometheus ALERTS)" ]; }

monitor_port=$(free_port)
prometheus_port=$(free_port)
monitor=http://127.0.0.1:$monitor_port
published=0

chapter "1. Install the wheel"
install postgresql

chapter "2. Write twelve lines of configuration"
configure <<TEXT
[DEFAULT]
transport_url = $TRANSPORT_URL

[notification]
workers = 2

[database]
connection = $DATABASE_URL
event_time_to_live = 90d

[monitor]
port = $monitor_port
TEXT

chapter "3. Have everything checked"
tell "The tables are not there yet, so the check finds a failure and says what to do:"
run 1 'db sync' panko-ingest check

chapter "4. Make the tables, and check again"
run 0 '' panko-ingest db sync
run 0 'database' panko-ingest check

chapter "5. Start it under systemd's notify protocol"
tell "A few lines of Python stand in for systemd, and note what the daemon tells it."
python3 - "$folder/notify" >"$folder/notify.log" <<'PYTHON' &
import pathlib, socket, sys
pathlib.Path(sys.argv[1]).unlink(missing_ok=True)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(sys.argv[1])
while True:
    print(notify.recv(4096).decode(), flush=True)
PYTHON
listener=$!
wait_for 10 "the notify socket" test -S "$folder/notify"
NOTIFY_SOCKET=$folder/notify WATCHDOG_USEC=60000000 panko-ingest serve >"$folder/serve.log" 2>&1 &
daemon=$!
wait_for 60 "READY=1, when every worker consumes" told_systemd '^READY=1$'
wait_for 10 "STATUS=, what systemctl status shows" told_systemd '^STATUS=2 of 2 readers consuming'
wait_for 10 "WATCHDOG=1, a sign of life" told_systemd '^WATCHDOG=1$'

chapter "6. Publish, and read what is stored"
run 0 '8 notifications published' panko-ingest publish --create --count 8 "$samples"
published=8
wait_for 30 "eight events" events_are_stored 8
run 0 'compute.instance.create.end' panko-ingest events list --since 1h --limit 5

chapter "7. How is it doing?"
wait_for 30 "a good answer of /readyz" is_ready
run 0 'daemon: readers +2 of 2 are consuming' panko-ingest status
run 0 '"ok": *true' curl --silent --show-error "$monitor/readyz"

chapter "8. Watch it with Prometheus"
tell "It scrapes every second and has our alert rules. An alert is raised after 10 s here, not after minutes."
sed -E 's/for: [0-9]+[mhd]$/for: 10s/' "$shipped/prometheus/panko-ingest.rules.yaml" >"$folder/rules.yaml"
cat >"$folder/prometheus.yml" <<TEXT
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$folder/rules.yaml]
scrape_configs:
  - job_name: panko-ingest
    static_configs: [{targets: ["127.0.0.1:$monitor_port"]}]
TEXT
run 0 'SUCCESS' promtool check config "$folder/prometheus.yml"
prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/tsdb" \
    --web.listen-address="127.0.0.1:$prometheus_port" >"$folder/prometheus.log" 2>&1 &
prometheus=$!
wait_for 60 "the first figures" has_figures 'panko_ingest_readers_consuming == 2'
tell "" "Every query of the dashboard for Grafana has figures to show, once a little is published:"
python3 - "$shipped/grafana/panko-ingest.json" >"$folder/queries" <<'PYTHON'
import json, sys
for panel in json.load(open(sys.argv[1]))["panels"]:
    for target in panel["targets"]:
        query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
        print(panel["title"], query, sep="\t")
PYTHON
while IFS=$'\t' read -r -u 3 title query; do
    wait_for 30 "$title: $query" has_figures "$query"
done 3<"$folder/queries"
wait_for 30 "no alert" no_alert

chapter "9. Break the database"
tell "$BREAK"
bash -c "$BREAK"
tell "Meanwhile:"
publish 99
wait_for 60 "/readyz says 503" is_not_ready
run 0 '"database": *\{"ok": *false' curl --silent --show-error "$monitor/readyz"
run 3 'failure +unreachable +database' panko-ingest status
wait_for 60 "the alert is raised" alert_is_raised
run 0 'PankoIngestDatabaseAway' ask_prometheus ALERTS
told_systemd '^STOPPING' && deviates "the daemon has told systemd that it stops"

chapter "10. Mend it"
tell "$MEND"
bash -c "$MEND"
wait_for 60 "/readyz says 200" is_ready
wait_for 60 "the alert is gone" no_alert
run 0 'daemon: database +answers' panko-ingest status
wait_for 60 "all $published notifications have become events" events_are_stored "$published"
run 0 'dead letters +none' panko-ingest status

chapter "11. Stop it"
kill -TERM "$daemon"
wait "$daemon" || deviates "exit code $? of the daemon; its log is $folder/serve.log"
daemon=""
told_systemd '^STOPPING=1$' || deviates "systemd was not told"
run 0 'has stopped because it was told to' tail -n 1 "$folder/serve.log"
printf '\nAll was as it should be. What was made is in %s.\n' "$folder"
