"""Our own service keeps every clause, on the embedded adapters and on those of production."""

from pathlib import Path

from tests.conformance.judging import Judgement, judge_with_everything
from tests.servers import Bucket


def assert_conforming(judgement: Judgement) -> None:
    assert judgement.code == 0, judgement.text
    assert judgement.ids("passed") == {it["id"] for it in judgement.report["requirements"]}, judgement.text


def test_the_embedded_vault_conforms(tmp_path: Path, nats_url: str):
    assert_conforming(judge_with_everything(tmp_path, {"CDV_NATS_URL": nats_url}))


def test_the_production_adapters_conform(tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket):
    settings = {
        "CDV_DB_DSN": postgres_dsn,
        "CDV_NATS_URL": nats_url,
        "CDV_S3_ENDPOINT": s3_bucket.endpoint,
        "CDV_S3_REGION": s3_bucket.region,
        "CDV_S3_BUCKET": s3_bucket.name,
        "CDV_S3_ACCESS_KEY": s3_bucket.access_key,
        "CDV_S3_SECRET_KEY": s3_bucket.secret_key,
    }
    assert_conforming(judge_with_everything(tmp_path, settings))
