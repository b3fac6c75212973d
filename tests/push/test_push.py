"""Pushing: what is published, what is refused, and that a second push changes nothing."""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from fti.common.errors import ConfigError, PackageError, ServingError, StorageError, UnblessedModelError
from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage, load_package
from fti.common.settings import Settings
from fti.push.logic import push, write_endpoint
from tests.serve import tiny


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return tiny.write_binary(tmp_path / "one")


@pytest.fixture
def another(tmp_path: Path) -> ModelPackage:
    return tiny.write_binary(tmp_path / "two", bias=0.5)


def push_blessed(package: ModelPackage, settings: Settings, **options: Any) -> dict[str, Any]:
    blessing = tiny.blessing(package.path.parent / f"{package.digest[:12]}.json", package)
    return push(package.path, blessing, service="late-arrival", settings=settings, **options)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def test_the_first_push_publishes_the_package_and_makes_it_stable(settings: Settings, package: ModelPackage) -> None:
    endpoint = push_blessed(package, settings)
    uri = f"{settings.models_uri}/late-arrival/{package.digest[:12]}"
    assert endpoint == {
        "service": "late-arrival",
        "variant": "stable",
        "revision": package.digest[:12],
        "digest": package.digest,
        "percent": 100,
        "storageUri": uri,
        "manifest": str(settings.services / "late-arrival.yaml"),
    }
    assert load_package(uri).digest == package.digest


def test_a_share_that_the_first_push_cannot_have_is_named(
    settings: Settings, package: ModelPackage, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = push_blessed(package, settings, canary_percent=20)
    assert (endpoint["variant"], endpoint["percent"]) == ("stable", 100)
    assert "takes 100%, not 20%: it is the first" in caplog.text


def test_canary_replaced_and_promoted(settings: Settings, package: ModelPackage, another: ModelPackage) -> None:
    push_blessed(package, settings)
    endpoint = push_blessed(another, settings, canary_percent=20.0)  # KFP hands numbers over as floats
    assert (endpoint["variant"], endpoint["percent"]) == ("canary", 20)
    assert push_blessed(another, settings, canary_percent=0)["percent"] == 0
    service = read_service("late-arrival", settings)
    assert service and service.stable.digest == package.digest and service.canary
    assert push_blessed(another, settings, canary_percent=100)["variant"] == "stable"
    service = read_service("late-arrival", settings)
    assert service and service.stable.digest == another.digest and service.canary is None


@pytest.mark.parametrize("percent", [100, 20, 0])
def test_the_same_push_again_changes_nothing(
    settings: Settings, package: ModelPackage, another: ModelPackage, percent: int
) -> None:
    push_blessed(package, settings)
    first = push_blessed(another, settings, canary_percent=percent)
    before = contents(settings.home)
    assert push_blessed(another, settings, canary_percent=percent) == first
    assert contents(settings.home) == before


def test_pushes_at_the_same_time_are_all_kept(settings: Settings, tmp_path: Path) -> None:
    packages = [tiny.write_binary(tmp_path / f"p{number}", bias=number / 10) for number in range(4)]
    push_blessed(packages[0], settings)
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=push_blessed, args=(package, settings), kwargs={"canary_percent": 10 * place})
        for place, package in enumerate(packages[1:], 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    service = read_service("late-arrival", settings)
    assert service and service.stable.digest == packages[0].digest
    assert service.canary and service.canary_percent == 10 * [p.digest for p in packages].index(service.canary.digest)


@pytest.mark.parametrize("percent", [-1, 101, 12.5, float("nan"), True, "20"])
def test_percents_that_are_none(settings: Settings, package: ModelPackage, percent: Any) -> None:
    with pytest.raises(ConfigError, match="canary_percent"):
        push_blessed(package, settings, canary_percent=percent)
    assert not settings.home.exists()


def test_a_name_that_kubernetes_refuses(settings: Settings, package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'Late_Arrival' cannot name a service"):
        push(package.path, tmp_path, service="Late_Arrival", settings=settings)
    assert not settings.home.exists()


def test_an_unblessed_model(settings: Settings, package: ModelPackage, tmp_path: Path) -> None:
    refused = tiny.blessing(tmp_path / "refused.json", package, blessed=False, reasons=("AUC 0.61 is below 0.70",))
    with pytest.raises(UnblessedModelError, match=r"was not blessed: AUC 0\.61 is below 0\.70"):
        push(package.path, refused, service="late", settings=settings)
    assert not settings.home.exists()


def test_a_blessing_of_another_model(
    settings: Settings, package: ModelPackage, another: ModelPackage, tmp_path: Path
) -> None:
    wrong = tiny.blessing(tmp_path / "wrong.json", another)
    with pytest.raises(UnblessedModelError, match=f"given to model {another.digest[:12]}, not {package.digest[:12]}"):
        push(package.path, wrong, service="late", settings=settings)
    assert not settings.home.exists()


@pytest.mark.parametrize("text", [None, "", "[]", "null", "{}", '{"blessed": true}', '{"blessed": "yes"}', "\xff"])
def test_files_that_are_no_blessing(
    settings: Settings, package: ModelPackage, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "blessing.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UnblessedModelError, match="is not a blessing"):
        push(package.path, path, service="late", settings=settings)
    assert not settings.home.exists()


@pytest.mark.parametrize("blessed", ["yes", 1, None])
def test_only_true_is_a_blessing(settings: Settings, package: ModelPackage, tmp_path: Path, blessed: Any) -> None:
    path = tmp_path / "blessing.json"
    path.write_text(json.dumps({"blessed": blessed, "model_digest": package.digest}))
    with pytest.raises(UnblessedModelError, match="was not blessed"):
        push(package.path, path, service="late", settings=settings)


def test_a_tampered_package(settings: Settings, package: ModelPackage) -> None:
    (package.path / "model.onnx").write_bytes(b"other")
    with pytest.raises(PackageError, match=r"model\.onnx"):
        push_blessed(package, settings)
    assert not settings.home.exists()


def test_a_feature_repository_that_is_none(settings: Settings, package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a Feast repository"):
        push_blessed(package, settings, feature_repo=str(tmp_path))


def test_a_feature_repository_is_kept_as_an_absolute_path(
    settings: Settings, package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "feature_store.yaml").touch()
    monkeypatch.chdir(tmp_path)
    push_blessed(package, settings, feature_repo="features")
    service = read_service("late-arrival", settings)
    assert service and service.stable.feature_repo == str(tmp_path / "features")


def test_without_its_feature_store_a_model_is_pushed_with_a_warning(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = tiny.write_binary(tmp_path / "keyed", entity_keys=("origin",), feature_service="late_v1")
    push_blessed(package, settings)
    assert "every request must carry all features itself" in caplog.text


def test_a_broken_manifest_is_not_overwritten(settings: Settings, package: ModelPackage) -> None:
    settings.services.mkdir(parents=True)
    manifest = settings.services / "late-arrival.yaml"
    manifest.write_text("a: [")
    with pytest.raises(ServingError, match="is not YAML"):
        push_blessed(package, settings)
    assert manifest.read_text() == "a: ["


def test_a_full_disk_leaves_the_traffic_as_it_was(
    settings: Settings, package: ModelPackage, another: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_blessed(package, settings)
    before = contents(settings.services)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        push_blessed(another, settings, canary_percent=20)
    assert contents(settings.services) == before


def test_the_endpoint_is_written_as_json(settings: Settings, package: ModelPackage, tmp_path: Path) -> None:
    endpoint = push_blessed(package, settings)
    write_endpoint(endpoint, tmp_path / "endpoint")
    assert json.loads((tmp_path / "endpoint").read_text()) == endpoint


def test_the_traffic_is_logged(
    settings: Settings, package: ModelPackage, another: ModelPackage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    push_blessed(package, settings)
    push_blessed(another, settings, canary_percent=20)
    assert f"stable {package.digest[:12]} 80%, canary {another.digest[:12]} 20%" in caplog.text
