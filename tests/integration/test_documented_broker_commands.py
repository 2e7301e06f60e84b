"""The rabbitmqctl commands that README and docs print are ones that RabbitMQ takes."""

import shlex

import pytest

from tests.documents import blocks, commands
from tests.services import RabbitMQ

PRINTED = {
    line: str(block)
    for block in blocks("bash")
    for line in commands(block)
    if line.startswith("rabbitmqctl ")
}


@pytest.mark.rabbitmq
@pytest.mark.timeout(600)  # each starts an Erlang of its own
def test_rabbitmq_takes_every_printed_command(rabbitmq: RabbitMQ, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    for queue in ("panko-ingest", "notifications.audit"):
        rabbitmq.api("PUT", f"queues/{vhost}/{queue}", {"durable": True})
    try:
        for line, where in PRINTED.items():
            action, *words = shlex.split(line)[1:]
            of_a_vhost = action not in {"add_user", "set_user_tags", "eval"}
            if words[:2] == ["--vhost", "/"]:
                words = words[2:]
            rabbitmq_words = [action, *(["--vhost", vhost] if of_a_vhost else []), *words]
            try:
                rabbitmq.ctl(*rabbitmq_words)
            except RuntimeError as error:
                pytest.fail(f"{where}: {line}: {error}")
    finally:
        rabbitmq.ctl("delete_user", "panko-ingest")
