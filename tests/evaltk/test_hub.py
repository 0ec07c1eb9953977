"""`hf:ORG/NAME`: the hub's cache without network, a download of what is read, and every reason why it fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layouts import GOLDEN

from evaltk.checkpoints import hub, locate, rawfile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError, DownloadError, EvaltkError, SettingsError
from evaltk.running import planning

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

FAMILIES = GOLDEN / "families"
COMMIT, REPOSITORY = "0123456789abcdef0123456789abcdef01234567", "org/tiny-vit"
FILES = {
    "config.json": FAMILIES / "hf_vit_dino_config.json",
    "pytorch_model.bin": FAMILIES / "hf_vit_dino_checkpoint.bin",
}


class Hub:
    """A hub without network: its repository holds `files`, its cache is a folder, requests are counted."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.files, self.fails = cache, dict(FILES), None
        self.files["preprocessor_config.json"] = cache.with_name("preprocessor_config.json")
        self.files["preprocessor_config.json"].write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
        self.asked: list[Any] = []

    @property
    def snapshot(self) -> Path:
        return self.cache / "models--org--tiny-vit" / "snapshots" / COMMIT

    def fill(self, *names: str) -> None:
        """Put files into the cache as the hub's library does."""
        refs = self.cache / "models--org--tiny-vit" / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(COMMIT)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name in names:
            blob = self.cache / "models--org--tiny-vit" / "blobs" / name.replace(".", "_")
            blob.parent.mkdir(exist_ok=True)
            shutil.copyfile(self.files[name], blob)
            if not (self.snapshot / name).exists():
                (self.snapshot / name).symlink_to(Path("../../blobs") / blob.name)

    def model_info(self, repository: str, *, revision: str) -> Any:
        self.asked.append((repository, revision))
        if self.fails is not None:
            raise self.fails
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def download(self, repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.asked.append(sorted(allow_patterns))
        self.fill(*allow_patterns)
        return str(self.snapshot)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    from_cache = huggingface_hub.snapshot_download

    def snapshot_download(repository: str, *, revision: str, local_files_only: bool = False, **rest: Any) -> str:
        if local_files_only:
            return from_cache(repository, revision=revision, cache_dir=made.cache, local_files_only=True)
        return made.download(repository, revision=revision, **rest)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repository, name, revision: str(made.files[name])
    )  # fmt: skip
    return made


def test_what_lies_in_the_cache_needs_no_network(fake: Hub) -> None:
    fake.fill(*fake.files)
    found = locate.locate(f"hf:{REPOSITORY}")
    assert fake.asked == [] and found.path == fake.snapshot
    assert (found.name, found.origin) == (f"hf:{REPOSITORY}", f"hf:{REPOSITORY}@{COMMIT}")
    raw = rawfile.read(found)
    assert raw.config["model_type"] == "vit" and raw.origin == found.origin
    assert locate.locate(f"hf:{REPOSITORY}@{COMMIT}").sha256 == found.sha256 == locate.locate(fake.snapshot).sha256
    assert fake.asked == []


def test_a_plan_and_a_finished_run_are_identified_by_the_files(fake: Hub) -> None:
    fake.fill(*fake.files)
    name, identity = planning.identify(f"hf:{REPOSITORY}", ReadOptions())
    assert name == f"hf:{REPOSITORY}" and identity["sha256"] == locate.locate(fake.snapshot).sha256


def test_only_what_is_read_is_downloaded(fake: Hub, tmp_path: Path) -> None:
    for name in ("tf_model.h5", "flax_model.msgpack", "README.md", "onnx/model.onnx"):
        fake.files[name] = tmp_path / Path(name).name
        fake.files[name].write_text("{}")
    raw = rawfile.read(locate.locate(f"hf:{REPOSITORY}@main"))
    assert fake.asked == [(REPOSITORY, "main"), ["config.json", "preprocessor_config.json", "pytorch_model.bin"]]
    assert raw.origin == f"hf:{REPOSITORY}@{COMMIT}" and len(raw.tree) > 10
    fake.asked.clear()
    locate.locate(f"hf:{REPOSITORY}")
    assert fake.asked == [], "the second time it lies in the cache"


def test_shards_are_downloaded_as_their_index_says(fake: Hub, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        fake.files[name] = tmp_path / name
        fake.files[name].write_bytes(b"x")
    fake.files["model.safetensors.index.json"] = index
    with pytest.raises(CheckpointError, match="a whole safetensors file"):
        rawfile.read(locate.locate(f"hf:{REPOSITORY}"))
    assert fake.asked[1] == [
        "config.json",
        *sorted(shards.values()),
        "model.safetensors.index.json",
        "preprocessor_config.json",
    ]


@pytest.mark.parametrize("held", ["config.json", "pytorch_model.bin"])
def test_a_cache_that_holds_a_part(held: str, fake: Hub) -> None:
    fake.fill(held)
    if held == "config.json":
        assert rawfile.read(locate.locate(f"hf:{REPOSITORY}")).config["model_type"] == "vit"
        assert fake.asked
    else:
        blob = fake.snapshot / held
        blob.resolve().unlink()
        locate.locate(f"hf:{REPOSITORY}")
        assert fake.asked, "a link to nothing is no file"


@pytest.mark.parametrize("lacking", ["config.json", "preprocessor_config.json"])
def test_weights_that_another_library_cached_without_all_configs(lacking: str, fake: Hub) -> None:
    fake.fill(*(name for name in fake.files if name != lacking))
    fake.fails = ConnectionError("no network")  # type: ignore[assignment]
    raw = rawfile.read(locate.locate(f"hf:{REPOSITORY}"))
    assert fake.asked and raw.config == {} if lacking == "config.json" else raw.preprocessor == {}
    fake.fails = None
    raw = rawfile.read(locate.locate(f"hf:{REPOSITORY}"))
    assert raw.config["model_type"] == "vit" and raw.preprocessor["image_mean"] == [0.5, 0.5, 0.5]


def test_a_repository_without_weights(fake: Hub) -> None:
    fake.files = {"config.json": FILES["config.json"], "tf_model.h5": FILES["config.json"]}
    with pytest.raises(CheckpointError, match="TensorFlow weights only"):
        locate.locate(f"hf:{REPOSITORY}")
    fake.files = {"README.md": FILES["config.json"]}
    with pytest.raises(CheckpointError, match=r"model\.safetensors or pytorch_model\.bin; got files README\.md"):
        locate.locate(f"hf:{REPOSITORY}")


def failed(kind: type[Exception], said: str) -> Exception:
    response = SimpleNamespace(headers={}, status_code=404, request=None, url="")
    try:
        return kind(said, response=response)  # type: ignore[call-arg]
    except TypeError:
        return kind(said)


FAILURES: list[tuple[type[Exception], tuple[str, ...]]] = [
    (errors.GatedRepoError, ("gated", "accept its terms", f"https://huggingface.co/{REPOSITORY}", "log in")),
    (errors.RepositoryNotFoundError, ("no such repository, or a private one", "log in")),
    (errors.RevisionNotFoundError, ("no revision 'v9'", "leave @v9 out")),
    (errors.OfflineModeIsEnabled, ("HF_HUB_OFFLINE",)),
    (errors.HfHubHTTPError, ("502 of the server", "check the network")),
    (errors.HfHubHTTPError.__mro__[1], ("502 of the server", "check the network")),
    (ConnectionError, ("502 of the server", "check the network and its proxy")),
]


@pytest.mark.parametrize(("kind", "words"), FAILURES, ids=lambda v: getattr(v, "__name__", ""))
def test_why_it_cannot_be_had(kind: type[Exception], words: tuple[str, ...], fake: Hub) -> None:
    fake.fails = failed(kind, "502 of the server\nand more")  # type: ignore[assignment]
    with pytest.raises(DownloadError) as caught:
        locate.locate(f"hf:{REPOSITORY}@v9")
    line = str(caught.value)
    assert "\n" not in line and f"hf:{REPOSITORY}@v9" in line
    for word in words:
        assert word in line, line


def test_without_the_library(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingsError, match=r"pip install 'evaltk\[hub\]'"):
        locate.locate(f"hf:{REPOSITORY}")


@pytest.mark.parametrize("name", ["hf:", "hf:vit", "hf:a/b/c", "hf:../b", "hf:a/b@", "hf:a/b@../../x", "hf:a b/c"])
def test_what_is_no_name(name: str, fake: Hub) -> None:
    with pytest.raises(EvaltkError, match=r"hf:ORG/NAME\[@REVISION\]"):
        locate.locate(name)
    assert fake.asked == []


def test_names_of_cached_folders() -> None:
    assert hub.name_of(Path("/c/models--a--b-c/snapshots/12/model.safetensors")) == "a/b-c"
    assert hub.name_of(Path("/c/models--a--b-c/snapshots/12")) == "a/b-c"
    assert hub.name_of(Path("/c/models--a--b-c/refs")) == hub.name_of(Path("net.pth")) == ""
