"""What the tests on a cluster make of ORCH_TEST_IMAGE, on each of the clusters in CONTRIBUTING.md. Needs none."""

import pytest
from support_cluster import absent_tag, place_of

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("127.0.0.1:5000/trainer:dev", "127.0.0.1:5000"),
        ("europe-docker.pkg.dev/project/repository/trainer:dev", "europe-docker.pkg.dev/project/repository"),
        (f"ghcr.io/acme/trainer@{DIGEST}", "ghcr.io/acme"),
        ("trainer:dev", ""),
        ("acme/trainer:dev", ""),
    ],
)
def test_another_image_is_pushed_beside_the_one_under_test_if_that_is_in_a_registry(image: str, place: str) -> None:
    assert place_of(image) == place


@pytest.mark.parametrize(
    "image", ["127.0.0.1:5000/trainer", "127.0.0.1:5000/trainer:dev", f"127.0.0.1:5000/trainer@{DIGEST}"]
)
def test_a_tag_that_is_absent_is_one_of_the_same_repository(image: str) -> None:
    assert absent_tag(image) == "127.0.0.1:5000/trainer:does-not-exist"
