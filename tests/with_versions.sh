#!/bin/sh
# Run the tests with other versions of the libraries: tests/with_versions.sh NAME PYTHON CONSTRAINTS [PYTEST WORDS...]
#
# Package and tests are installed under the constraints into an environment of their own, run/NAME, where it is
# not yet there, and PROCESSES run the tests. What libraries of other days warn of is no failure.
set -eu

name=$1 python=$2 constraints=$3
shift 3
environment=run/$name

if ! cmp -s "$constraints" "$environment/constraints.txt" || [ pyproject.toml -nt "$environment/constraints.txt" ]; then
    echo "Installing panko-ingest and its tests under $constraints into $environment"
    rm -rf "$environment"
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --quiet --upgrade pip
    "$environment/bin/pip" install --quiet --constraint "$constraints" --editable '.[postgresql,mysql]' \
        --group test --group figures --group benchmarks --group site
    cp "$constraints" "$environment/constraints.txt"
fi
export PANKO_INGEST_REQUIRE_SERVICES=1 PANKO_INGEST_RUN="$name" PYTHONWARNINGS=ignore
"$environment/bin/pytest" --numprocesses "$PROCESSES" --dist worksteal --override-ini filterwarnings= --disable-warnings \
    -p tests.compatibility --ignore tests/unit/test_architecture.py -m 'not long' "$@"
