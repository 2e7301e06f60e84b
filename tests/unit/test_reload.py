"""What a reload of the configuration may change, and what it refuses."""

from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import log

from panko_ingest import config
from panko_ingest.workers.settings import Settings
from panko_ingest.workers.sources import buses

BEFORE = """\
[DEFAULT]
transport_url = rabbit://one/
[database]
connection = sqlite://
[notification]
workers = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(BEFORE)
    return path


@pytest.fixture
def settings(path: Path) -> Settings:
    def prepare() -> cfg.ConfigOpts:
        # As config.prepare_service does, without a change of this process' logging.
        conf = cfg.ConfigOpts()
        config.register_opts(conf)
        log.register_options(conf)
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        config.check(conf)
        return conf

    return Settings(prepare(), prepare)


def test_a_good_configuration_comes_into_force(path: Path, settings: Settings) -> None:
    path.write_text(
        BEFORE + "batch_size = 7\nmessaging_urls = rabbit://one/\nmessaging_urls = rabbit://two/\n"
    )
    assert settings.reload()
    assert settings.conf.notification.batch_size == 7
    assert len(buses(settings.conf)) == 2


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ("batch_size = many", "[notification] batch_size"),
        ("prefetch_count = 5", "[notification] prefetch_count"),
        ("workers = 0", "[notification] workers"),
        (
            "require_durable = true\nmessaging_urls = sqla+sqlite:///bus.sqlite",
            "sqla+sqlite:// is an embedded",
        ),
        ("[event]\ndefinitions_cfg_file = nowhere.yaml", "[event] definitions_cfg_file"),
    ],
)
def test_any_other_is_refused_and_named_and_the_old_one_stays(
    path: Path, settings: Settings, caplog: pytest.LogCaptureFixture, added: str, named: str
) -> None:
    path.write_text(f"{BEFORE}{added}\n")
    before = settings.conf
    assert not settings.reload()
    assert settings.conf is before
    assert named in caplog.text


def test_an_embedded_transport_is_warned_of(
    path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"{BEFORE}messaging_urls = sqla+sqlite:///bus.sqlite\n")
    assert settings.reload()
    assert "may lose messages" in caplog.text
