"""Cards: every value has a source or is unknown; downloads resume, are verified, and fail soon."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

import diffrep as dr
from diffrep.cli import main
from diffrep.errors import FormatError, InputError
from diffrep.formats import card, downloads
from diffrep.formats.cards import FIELDS, UNKNOWN, Card, cards, facts_by_hash, find_card
from diffrep.formats.hub import repository
from tests.formats.parity import case

DOCUMENTS = sorted(Path(str(files("diffrep.formats.cards"))).glob("*.yaml"))
WANTED = [
    "ddpm-cifar10-32",
    "edm-cifar10-32x32-cond-vp",
    "edm2-img512-s-2147483-0.130",
    "256x256_diffusion_uncond",
    "DiT-XL-2-256x256",
    "SiT-XL-2-256x256",
    "REPA-SiT-XL-2-256x256",
    "stable-diffusion-v1-5",
    "sd-vae-ft-mse",
]


def entries() -> list[tuple[Path, str]]:
    return [(path, name) for path in DOCUMENTS for name in yaml.safe_load(path.read_text())["cards"]]


@pytest.mark.parametrize(("path", "name"), entries(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_no_value_without_its_source(path: Path, name: str) -> None:
    document = yaml.safe_load(path.read_text())
    told = {**document.get("defaults", {}), **(document["cards"][name] or {})}
    for key in FIELDS:
        value = told.get(key, UNKNOWN)
        if value != UNKNOWN:
            assert isinstance(value, list), f"{key}: {value} has no source"
            assert len(value) == 2, key
            assert value[1] in document["sources"], f"{key}: unknown source {value[1]}"
            assert len(document["sources"][value[1]]) > 10
    if "architecture" in told:
        assert told["architecture_from"] in document["sources"]
    assert isinstance(told["tested_here"], bool)
    assert isinstance(told["compared"], bool)
    known = {*FIELDS, "architecture", "architecture_from", "tested_here", "compared", "kind", "note"}
    assert set(told) <= known


def test_hashes_are_hashes() -> None:
    for found in cards().values():
        for name, length in (("sha256", 64), ("md5", 32), ("revision", 40)):
            value = found.values[name]
            assert value is None or (len(value) == length and int(value, 16) >= 0), found.name


@pytest.mark.parametrize("name", WANTED)
def test_the_public_checkpoints_have_cards(name: str) -> None:
    text = card(name)
    assert all(f"- {key}: " in text for key in FIELDS)
    assert "license" in text
    assert name in dr.models(public=True)
    assert name not in dr.models()


def test_what_was_not_compared_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    for name in ("edm2-img512-s-2147483-0.130", "SiT-XL-2-256x256", "REPA-SiT-XL-2-256x256"):
        assert "not compared with the official program" in lines[name]
        assert "not compared with the official program" in card(name)
    assert "not compared" not in lines["edm-cifar10-32x32-cond-vp"]
    assert main(["models", "show", "edm-cifar10-32x32-cond-vp"]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_a_hub_id_has_the_same_card() -> None:
    assert find_card("google/ddpm-cifar10-32") is find_card("ddpm-cifar10-32")
    assert find_card("nobody/nothing") is None


def test_a_file_is_known_by_its_published_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "x.pt")
    md5 = hashlib.md5((tmp_path / "x.pt").read_bytes()).hexdigest()
    made = made_card("x", md5=md5, architecture={"heads": 3})
    monkeypatch.setattr("diffrep.formats.cards.cards", lambda: {"x": made})
    facts, origin, _ = facts_by_hash(tmp_path / "x.pt")
    assert facts == {"heads": 3}
    assert origin == "the card x"


def made_card(name: str, architecture: dict[str, object] | None = None, **values: str) -> Card:
    told = {key: values.get(key) for key in FIELDS}
    return Card(name, "test", "denoiser", told, dict.fromkeys(FIELDS), architecture or {})


CONTENT = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, from any byte on; /silent never answers."""

    def do_GET(self) -> None:
        if self.path == "/silent.bin":
            time.sleep(20)
            return
        if self.path != "/good.bin":
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.server.starts.append(start)  # type: ignore[attr-defined]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(downloads, "SCHEMES", ("http://", "https://"))
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.starts = []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()


def address(server: ThreadingHTTPServer, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_download_is_verified_kept_and_described(server: ThreadingHTTPServer) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    made = made_card("m", {"heads": 3}, location=address(server, "good.bin"), sha256=sha256)
    seen: list[tuple[int, int | None]] = []
    path = downloads.download(made, progress=lambda now, total: seen.append((now, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert json.loads((path.parent / "args.json").read_text()) == {"heads": 3}
    assert downloads.download(made, offline=True) == path
    assert len(server.starts) == 1


def test_a_download_goes_on_where_it_stopped(server: ThreadingHTTPServer) -> None:
    made = made_card("m", location=address(server, "good.bin"))
    part = downloads.file_of(made).with_name("good.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert downloads.download(made).read_bytes() == CONTENT
    assert server.starts == [1000]


def test_another_file_than_published_is_refused(server: ThreadingHTTPServer) -> None:
    made = made_card("m", location=address(server, "good.bin"), md5="0" * 32)
    with pytest.raises(FormatError, match="is not what was published: md5"):
        downloads.download(made)
    assert not downloads.file_of(made).exists()


def test_a_file_that_changes_later_is_found(server: ThreadingHTTPServer) -> None:
    made = made_card("m", location=address(server, "good.bin"))
    path = downloads.download(made)
    path.write_bytes(b"changed")
    with pytest.raises(FormatError, match="sha256"):
        downloads.download(made)


@pytest.mark.parametrize("where", ["missing.bin", "silent.bin", "nobody"])
def test_what_cannot_be_had_is_named_within_five_seconds(where: str, server: ThreadingHTTPServer) -> None:
    location = "http://127.0.0.1:9/nobody" if where == "nobody" else address(server, where)
    began = time.perf_counter()
    with pytest.raises(InputError, match=where):
        downloads.download(made_card("m", location=location))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["edm-cifar10-32x32-cond-vp", "ddpm-cifar10-32", "cifar10_uvit_small"])
def test_offline_names_the_missing_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path))
    began = time.perf_counter()
    assert main(["models", "download", name, "--offline"]) == 2
    assert time.perf_counter() - began < 5
    said = capsys.readouterr().err
    assert any(word in said for word in (".pkl", "model_index.json", ".pth"))
    with pytest.raises(InputError):
        dr.load(name)


def test_what_needs_no_download_or_cannot_be_had_by_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path))
    assert main(["models", "download", "ddpm-digits"]) == 2
    assert "comes with diffrep" in capsys.readouterr().err
    for offline in ([], ["--offline"]):
        assert main(["models", "download", "pdae-trained-models", *offline]) == 2
        said = capsys.readouterr().err
        assert "get it by hand from https://drive.google.com" in said
        assert "pdae-trained-models.bin" in said


def test_a_mirror_of_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_ENDPOINT, which the hub's library reads."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("diffrep.formats.hub.getproxies", dict)
    with pytest.raises(InputError, match=r"of me/tiny cannot be downloaded: 127\.0\.0\.1"):
        repository("me/tiny", offline=False)


def test_a_downloaded_checkpoint_has_the_facts_of_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its hash being known: it was asked for by the card's name."""
    answers = case("guided-diffusion-adm")
    file = shutil.copy(answers.folder / "ema_0.9999_500000.pt", tmp_path / "64x64_diffusion.pt")
    card = made_card("tiny_diffusion", json.loads((answers.folder / "args.json").read_text()))
    monkeypatch.setitem(cards(), "tiny_diffusion", card)
    monkeypatch.setattr("diffrep.formats.downloads.downloaded", lambda asked: Path(file))
    assert dr.load("tiny_diffusion").identity == dr.load(answers.folder).identity
    with pytest.raises(FormatError, match="num_heads"):
        dr.load(file)
