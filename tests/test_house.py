"""What holds for the whole tree: arrows between packages, fresh stubs, configuration, packaging, documents."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT, DaemonProcess

from crossmedia import errors
from crossmedia.cli import crossmedia
from crossmedia.config import Command, Group
from crossmedia.imgserver.cli import imgserver
from crossmedia.trainer.cli import trainer
from crossmedia.v1 import image_server_pb2, image_server_pb2_grpc
from crossmedia.version import Version

# What every room may import: the files on the ground floor, which import nothing but each other.
GROUND = {
    *(
        "allocator",
        "arguments",
        "concepts",
        "config",
        "disk",
        "door",
        "environment",
        "errors",
        "forks",
        "forms",
        "hosts",
        "interrupts",
        "keys",
        "list_cells",
        "logs",
        "looks",
        "machine",
        "names",
        "notes",
        "pages",
        "progress",
        "scale",
        "spelling",
        "status",
        "version",
    ),
    *("one_place", "options", "output", "safetensors_header", "secret_files", "words"),
}
# room -> what it may import beside itself and the ground floor
ARROWS = {
    "crossmedia/service": set(),
    "imgserver/client": {"imgserver.hashing", "imgserver.shards", "imgserver.wire", "v1"},
    "imgserver/storage": {"imgserver.hashing", "imgserver.places"},
    "imgserver/text": {"imgserver.storage"},
    "imgserver/vision": {"imgserver.places", "imgserver.storage", "imgserver.text"},
    "imgserver/similarity": {"imgserver.storage", "imgserver.vision"},
    "imgserver/concepts": {
        *("imgserver.head", "imgserver.head_files", "imgserver.similarity", "imgserver.storage"),
        "imgserver.vision",
    },
    "imgserver/serving": {
        *("imgserver.head", "imgserver.head_files", "imgserver.places", "imgserver.serve_config"),
        *("imgserver.shards", "imgserver.similarity", "imgserver.storage", "imgserver.text", "imgserver.vision"),
        *("imgserver.wire", "service", "v1"),
    },
    "imgserver/operations": {
        *("imgserver.client", "imgserver.head_files", "imgserver.places", "imgserver.serving"),
        *("imgserver.similarity", "imgserver.storage", "imgserver.vision", "service.running"),
    },
    "imgserver/offline": {
        *("imgserver.head", "imgserver.head_files", "imgserver.shards", "imgserver.similarity"),
        *("imgserver.storage", "imgserver.text", "imgserver.vision"),
    },
    "imgserver/browse": {"imgserver.client", "service"},
    "features": {"imgserver.client"},
    "trainer": {
        *("features", "imgserver.client", "imgserver.head", "imgserver.open_local"),
        "imgserver.browse",  # of what joins runs and samples to its pages alone
        *("inference", "service"),  # of the scoring server alone
    },
    "crossmedia/torch": {
        *("features", "imgserver.client", "trainer.images", "trainer.one_copy", "trainer.processes"),
        "trainer.tensors",
    },
}
BARE = ("imgserver", "features", "trainer", "protos")


def imported(file: Path) -> set[str]:
    """Modules that a file imports, and for ``from package import name`` the name as well."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, rooms: set[str]) -> bool:
    return any((name + ".").startswith(f"crossmedia.{room}.") for room in rooms)


@pytest.mark.parametrize("folder", ARROWS)
def test_imports_point_one_way(folder: str) -> None:
    own = folder.removeprefix("crossmedia/").replace("/", ".")
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported(file):
            if name.split(".")[0] == "crossmedia":
                assert within(name, {own, *GROUND, *ARROWS[folder]}), f"{file.relative_to(ROOT)} imports {name}"


def test_the_ground_floor_imports_nothing_but_itself() -> None:
    files = sorted(GROUND)
    for file in files:
        for name in imported(ROOT / "crossmedia" / f"{file}.py"):
            if name.split(".")[0] == "crossmedia":
                assert within(name, GROUND), f"crossmedia/{file}.py imports {name}"


def test_one_name_is_imported() -> None:
    """``features`` and ``trainer`` are common words: who has a folder of that name must not meet ours."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for file in (ROOT / name for name in listed):
        for name in imported(file):
            assert name.split(".")[0] not in BARE, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("status.py", r"^_?OK\b.* = |VECTOR_STATUS_[A-Z]"),  # a number of one's own
        ("version.py", r"""partition\(["'][+@#]"""),  # the grammar
    ],
)
def test_what_a_status_and_a_version_are_stands_in_one_file(where: str, words: str) -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for file in (ROOT / name for name in listed if "_pb2" not in name and not name.startswith("tests/")):
        found = re.findall(words, file.read_text(), flags=re.MULTILINE)
        assert not found or file.name in (where, "torchvision_zoo.py", "timm_zoo.py"), (
            f"{file.relative_to(ROOT)} has {found}"
        )


@pytest.mark.parametrize(
    "code",
    [
        "import crossmedia.imgserver.client",
        "import crossmedia.features.reading.samples, crossmedia.features.reading.prefetch",
        "import crossmedia.cli, crossmedia.trainer.cli, crossmedia.imgserver.cli, crossmedia.features.cli",
    ],
)
def test_the_base_install_needs_no_torch(code: str) -> None:
    heavy = "{'torch', 'lmdb', 'openvino', 'PIL', 'numba', 'matplotlib', 'faiss'}"
    check = f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_vectors_for_any_loader_need_torch_and_safetensors_alone() -> None:
    """Beside the base install: who has a trainer installs none of ours."""
    ours = "{'faiss', 'jinja2', 'lightgbm', 'lmdb', 'matplotlib', 'numba', 'openvino', 'scipy', 'tensorboard'}"
    check = f"import sys, crossmedia.torch; print(sorted({ours} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    """The descriptor in the stubs equals what a compiler makes of the .proto; the services' methods are all there."""
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    out = tmp_path / "set"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"--descriptor_set_out={out}", "crossmedia/v1/image_server.proto"]
    assert protoc.main(arguments) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    for message in fresh.message_type:  # the compiler writes JSON names into descriptor sets only
        for field in message.field:
            field.ClearField("json_name")
    stored = descriptor_pb2.FileDescriptorProto()
    image_server_pb2.DESCRIPTOR.CopyToProto(stored)
    for message in stored.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert stored == fresh, "run: make protos"
    for method in fresh.service[0].method:
        assert hasattr(image_server_pb2_grpc.ImageServiceServicer, method.name), "run: make protos"


def all_commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += all_commands(child, (*path, name))
    return found


@pytest.mark.parametrize(
    ("path", "command"), all_commands(crossmedia), ids=lambda v: "-".join(v) if isinstance(v, tuple) else ""
)
def test_help_is_in_full_sentences(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    assert command.help.strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path}: {parameter.name}"
            assert parameter.help[0].isupper() or parameter.name == "device", f"{path}: {parameter.name}"
            assert parameter.help.endswith("."), f"{path}: {parameter.name}"


@pytest.mark.parametrize("path", [p for p, c in all_commands(crossmedia) if isinstance(c, Command)], ids="-".join)
def test_help_has_an_example_that_runs_and_no_row_of_variables(path: tuple[str, ...]) -> None:
    command: click.Command = crossmedia
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert isinstance(command, Command)
    assert command.example
    for line in command.example.splitlines():
        context = click.Context(command)
        given, _, _ = command.make_parser(context).parse_args(line.split())  # an option that is not there raises
        for parameter in command.params:
            assert parameter.name in given or not parameter.required, f"{line} lacks {parameter.name}"
    done = CliRunner().invoke(crossmedia, [*path, "--help"], prog_name="crossmedia", auto_envvar_prefix="CROSSMEDIA")
    assert f"crossmedia {' '.join(path)} {command.example}" in done.output
    assert "env var" not in done.output
    assert done.output.count("CROSSMEDIA_") <= 1


MANY_OPTIONS = 12


@pytest.mark.parametrize("path", [p for p, c in all_commands(crossmedia) if len(c.params) > MANY_OPTIONS], ids="-".join)
def test_many_options_stand_below_headings(path: tuple[str, ...]) -> None:
    command = dict(all_commands(crossmedia))[path]
    assert isinstance(command, Command)
    done = CliRunner().invoke(crossmedia, [*path, "--help"], prog_name="crossmedia")
    headings = re.findall(r"^(\S.*):$", done.output, flags=re.MULTILINE)
    assert headings == ["Example", *command.sections, "Options"]
    listed = re.findall(r"^  (?:--no-\S+ / )?(--[a-z0-9-]+)", done.output, flags=re.MULTILINE)
    assert len(listed) == len(set(listed)), "each once"
    assert {option.opts[0] for option in command.params if isinstance(option, click.Option)} <= set(listed)
    assert re.findall(r"^  (--[a-z-]+)", done.output.partition("\nOptions:")[2], flags=re.MULTILINE) == [
        "--json",
        "--help",
    ]


@pytest.mark.parametrize("group", [imgserver, trainer], ids=lambda group: group.name)
def test_commands_stand_in_groups(group: Group) -> None:
    done = CliRunner().invoke(group, ["--help"])
    lines = done.output.splitlines()
    for heading, commands in group.sections.items():
        place = lines.index(f"{heading}:")
        for command, line in zip(commands, lines[place + 1 :], strict=False):
            assert line.split()[0] == command.name
    assert sum(map(len, group.sections.values())) == len(group.commands)


@pytest.fixture
def echo() -> Group:
    group = Group(name="imgserver", params=[click.Option(["--config"], envvar="CROSSMEDIA_CONFIG")])

    @group.command(name="serve")
    @click.option("--max-pending-ids", type=int, default=1)
    def serve(max_pending_ids: int) -> None:
        click.echo(max_pending_ids)

    return group


def test_flag_over_environment_over_file_over_default(
    echo: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"CROSSMEDIA_CONFIG": None})

    def run(*arguments: str, env: dict[str, str] | None = None) -> str:
        done = runner.invoke(echo, ["serve", *arguments], env=env, auto_envvar_prefix="CROSSMEDIA_IMGSERVER")
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    assert run() == "1"
    (tmp_path / "crossmedia.toml").write_text("[imgserver]\nmax-pending-ids = 2\n")
    assert run() == "2"
    (tmp_path / "crossmedia.toml").write_text(
        "[imgserver]\nmax_pending_ids = 2\n[imgserver.serve]\nmax_pending_ids = 3\n"
    )
    assert run() == "3"
    env = {"CROSSMEDIA_IMGSERVER_SERVE_MAX_PENDING_IDS": "4"}
    assert run(env=env) == "4"
    assert run("--max-pending-ids=5", env=env) == "5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[imgserver.serve]\nprot = 1", "'prot'"),
        ("[imgserver.server]\nport = 1", "'server'"),
        ("[imgserver]\nstoer = 'x'", "'stoer' for all commands of 'imgserver'"),
        ("[imgserver", "not valid TOML"),
    ],
)
def test_wrong_configuration_is_said(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    done = CliRunner().invoke(imgserver, ["--config", str(file), "status"])
    assert done.exit_code == 2
    assert message in done.output


def test_a_byte_order_mark_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b'\xef\xbb\xbf[imgserver]\nserver = "localhost:1"\n')
    done = CliRunner().invoke(imgserver, ["--config", str(file), "info", "--timeout-s=1"])
    assert "localhost:1" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["imgserver", "info", "--timeout-s=nan"],
        ["imgserver", "info", "--timeout-s=inf"],
        ["imgserver", "serve", "--negative-ttl-s=inf"],
        ["trainer", "serve", "no.pt2", "--max-wait-s=nan"],
        ["trainer", "serve", "no.pt2", "--max-wait-s=inf"],
        ["trainer", "serve", "no.pt2", "--vectors-timeout-s=inf"],
    ],
    ids=" ".join,
)
def test_an_option_that_is_no_finite_number_is_said(arguments: list[str]) -> None:
    done = CliRunner().invoke(crossmedia, arguments)
    assert done.exit_code == 2
    option, _, value = arguments[-1].partition("=")
    assert f"{option} is {value}; give a finite number." in done.output


def test_a_configuration_file_serves_all_groups(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[imgserver]\nserver = "localhost:1"\n[imgserver.info]\ntimeout-s = 2\n')
    done = CliRunner().invoke(crossmedia, ["--config", str(file), "imgserver", "info"], prog_name="crossmedia")
    assert done.exit_code == 3
    assert "localhost:1" in done.output


def test_every_error_has_a_code_and_says_what_it_is() -> None:
    found = errors.CrossMediaError.__subclasses__()
    assert len(found) >= 10
    tree = errors.__doc__ or ""
    for cls in found:
        assert cls.__doc__
        assert f"  {cls.__name__} " in tree, f"{cls.__name__} is missing in the tree of errors.py"
        assert cls.exit_code in (1, 2, 3, 4, 5)
        of_servers = cls.grpc_code != errors.CrossMediaError.grpc_code
        assert errors.error_class(cls.__name__, cls.grpc_code) is (cls if of_servers else errors.ServerFault)


DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS += [ROOT / "deploy" / "README.md", ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_commands_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
    commands = {" ".join(path): command for path, command in all_commands(crossmedia)}
    for line in re.findall(r"^\s*(?:\$ )?crossmedia (.+)$", text, flags=re.MULTILINE):
        words = line.split()
        name = max((" ".join(words[:n]) for n in (1, 2, 3) if " ".join(words[:n]) in commands), key=len, default=line)
        assert name in commands, f"{document.name} names the command crossmedia {name}"
        flags = {o for p in commands[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for flag in re.findall(r"(--[a-z-]+)", line):
            assert flag in flags, f"{document.name}: crossmedia {name} has no {flag}"
    for name, options in re.findall(r"benchmarks\.([a-z_]+)((?:[^`\n\\]|\\\n)*)", text):
        source = (ROOT / "benchmarks" / f"{name}.py").read_text()
        for flag in re.findall(r"(--[a-z-]+)", options):
            assert f'"{flag}"' in source, f"{document.name}: benchmarks.{name} has no {flag}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert target in targets


def test_the_documents_python_runs(store: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "4711.jpg").write_bytes((photos / "200.jpg").read_bytes())
    process = DaemonProcess(store, photos)
    try:
        for document in (
            ROOT / "README.md",
            ROOT / "docs" / "guide.md",
            ROOT / "docs" / "own-data.md",
            ROOT / "docs" / "python.md",
            ROOT / "docs" / "in-your-trainer.md",
        ):
            blocks = re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)
            assert blocks
            for block in blocks:
                command = [sys.executable, "-c", block.replace("localhost:7070", process.address)]
                done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stderr
    finally:
        process.stop()


def test_the_changelog_names_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_an_error_is_the_same_in_another_process() -> None:
    for error in (errors.NoStore("shop/store"), errors.BadInput("wrong"), errors.VersionMismatch("another")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    "text",
    [
        *("a@1", "a@1#bf16", "a@1+pca@2/64", "a@1+pca@2#pq16@3/64", "net@0+imported/8"),
        *("a@1+h@2#c/d@3/64", "a@1+h/x@2/64", "a@1#bf16+h@2#pq8@3/64"),
    ],
)
def test_a_version_is_read_as_it_is_written(text: str) -> None:
    assert str(Version.parse(text)) == text
    assert Version.parse(text).plain.codebook == ""
