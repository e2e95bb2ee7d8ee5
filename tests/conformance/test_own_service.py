"""Our own service passes every requirement, with the embedded adapters and with the production adapters."""

from functools import partial
from pathlib import Path

import pytest

from tests.conformance.front import Replicas, shares_budgets
from tests.conformance.judging import Judgement, judge_with_everything
from tests.conformance.seeds_run import PRODUCTION, SharedServers, judge_with_seed, production_settings, serving
from tests.servers import Bucket


def assert_conforming(judgement: Judgement, but: frozenset[str] = frozenset()) -> None:
    assert judgement.code == 0, judgement.text
    assert judgement.ids("passed") == {each["id"] for each in judgement.report["requirements"]} - but, judgement.text


# Replicas without a shared rate-limit store each allow a whole budget. On a machine without such a store, LIMIT-005
# cannot be tested, and no response has a Retry-After for ERR-008.
UNSHARED = frozenset() if shares_budgets() else frozenset({"LIMIT-005", "ERR-008"})


def test_the_embedded_vault_conforms(tmp_path: Path, nats_url: str):
    assert_conforming(judge_with_everything(tmp_path, {"CDV_NATS_URL": nats_url}))


def test_the_production_adapters_conform(tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket):
    assert_conforming(judge_with_everything(tmp_path, production_settings(postgres_dsn, nats_url, s3_bucket)))


def test_two_replicas_behind_one_address_conform(tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket):
    settings = production_settings(postgres_dsn, nats_url, s3_bucket)
    two = partial(Replicas, count=2, latency_seconds=0.001)

    assert_conforming(judge_with_everything(tmp_path, settings, serving=two), but=UNSHARED)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_replicas_on_a_slow_network_conform():
    with SharedServers(latency_seconds=0.03) as servers:
        assert_conforming(judge_with_seed(1, PRODUCTION, servers, "default", serving(2, 0.01)).judgement, but=UNSHARED)
