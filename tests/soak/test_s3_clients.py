"""More clients of the S3 door, unmodified. Each makes its round: it puts, lists, gets, copies or moves,
deletes, and makes the check of its own, if it has one. Those of every run are in
tests/unit/gateway/s3/test_clients.py.

`make soak` installs those that are packages of PyPI, and the one of the npm registry where npm is. restic and
s3fs are packages of the system; a client that is not there is a skip.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3.s3.transfer
import pytest

from tests.contents import KINDS, content
from tests.s3_clients import FILES, MIB, aws_environment, holds, made, program, succeed
from tests.unit.gateway.s3.served import REGION, Served, serving

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

NODE_MODULES = Path(sys.prefix, "servers", "node_modules")
FEW_ROWS, MANY_ROWS = 1000, 300_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("door")) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "files")


@pytest.fixture
def as_aws(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is set as clients of AWS's making are."""
    for name, value in aws_environment(served).items():
        monkeypatch.setenv(name, value)


def test_boto3_in_parts_by_many_threads(served: Served, folder: Path, tmp_path: Path) -> None:
    s3 = served.client()
    s3.create_bucket(Bucket="boto3-bucket")
    config = boto3.s3.transfer.TransferConfig(multipart_chunksize=5 * MIB, max_concurrency=8)
    for kind in KINDS:
        (folder / kind).write_bytes(content(kind, 23 * MIB, 2))
        s3.upload_file(str(folder / kind), "boto3-bucket", f"x/{kind}", Config=config)
        s3.copy({"Bucket": "boto3-bucket", "Key": f"x/{kind}"}, "boto3-bucket", f"y/{kind}", Config=config)
        s3.download_file("boto3-bucket", f"y/{kind}", str(tmp_path / "got"), Config=config)
        assert (tmp_path / "got").read_bytes() == (folder / kind).read_bytes()
    listed = [each["Key"] for each in s3.list_objects_v2(Bucket="boto3-bucket")["Contents"]]
    assert listed == sorted(f"{top}/{kind}" for top in "xy" for kind in KINDS)
    s3.delete_objects(Bucket="boto3-bucket", Delete={"Objects": [{"Key": key} for key in listed]})
    s3.delete_bucket(Bucket="boto3-bucket")


def test_aws_cli(served: Served, folder: Path, tmp_path: Path) -> None:
    aws = program("aws")

    def run(*arguments: str | Path) -> str:
        return succeed(aws, *arguments, environment=aws_environment(served))

    run("s3", "mb", "s3://cli-bucket")
    assert "upload" in run("s3", "sync", folder, "s3://cli-bucket/x")
    assert run("s3", "sync", folder, "s3://cli-bucket/x") == ""
    run("s3", "sync", "s3://cli-bucket/x", tmp_path / "got")
    assert holds(tmp_path / "got") == FILES
    assert run("s3", "sync", "s3://cli-bucket/x", tmp_path / "got") == ""
    run("s3", "cp", "s3://cli-bucket/x/é+%", "s3://cli-bucket/copied é+%")
    run("s3", "cp", "s3://cli-bucket/x/big", "s3://cli-bucket/copy")
    run("s3", "mv", "s3://cli-bucket/x/a b", "s3://cli-bucket/moved")
    listed = run("s3", "ls", "--recursive", "s3://cli-bucket")
    assert [line.split(maxsplit=3)[3] for line in listed.splitlines()] == [
        "copied é+%", "copy", "moved", "x/big", "x/empty", "x/é+%",
    ]  # fmt: skip
    piece = tmp_path / "piece"
    named = ("--bucket", "cli-bucket", "--key", "copy")
    run("s3api", "get-object", *named, "--range", "bytes=5000000-5000009", piece)
    assert piece.read_bytes() == FILES["big"][5_000_000:5_000_010]
    told = run("s3api", "get-object-attributes", *named, "--object-attributes", "ObjectSize", "Checksum")
    assert json.loads(told)["ObjectSize"] == len(FILES["big"])
    run("s3", "rm", "--recursive", "s3://cli-bucket")
    run("s3", "rb", "s3://cli-bucket")


def test_aws_sdk_for_javascript(served: Served, folder: Path) -> None:
    node = program("node")
    if not (NODE_MODULES / "@aws-sdk" / "lib-storage").exists():
        pytest.skip("the AWS SDK for JavaScript is not installed")
    script = Path(__file__).with_name("aws_sdk_round.cjs")
    environment = {**aws_environment(served), "NODE_PATH": str(NODE_MODULES)}
    assert "the round is done" in succeed(node, script, folder, environment=environment)


def test_pyarrow(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    fs, pa = pytest.importorskip("pyarrow.fs"), pytest.importorskip("pyarrow")
    dataset, parquet = pytest.importorskip("pyarrow.dataset"), pytest.importorskip("pyarrow.parquet")
    s3 = fs.S3FileSystem(
        access_key=served.user.key_id,
        secret_key=served.user.secret,
        region=REGION,
        scheme="http",
        endpoint_override=f"127.0.0.1:{served.port}",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    s3.create_dir("arrow-bucket")
    with s3.open_output_stream("arrow-bucket/big é+%") as stream:
        stream.write(FILES["big"])
    with s3.open_input_file("arrow-bucket/big é+%") as file:
        file.seek(7_000_000)
        assert file.read(1000) == FILES["big"][7_000_000:7_001_000]
    table = pa.table(rows(MANY_ROWS))
    parquet.write_to_dataset(table, "arrow-bucket/table", partition_cols=["part"], filesystem=s3)
    found = dataset.dataset("arrow-bucket/table", filesystem=s3, partitioning="hive")
    assert found.count_rows() == MANY_ROWS
    assert found.to_table(filter=dataset.field("number") == 4711)["text"].to_pylist() == ["text 4711"]
    s3.copy_file("arrow-bucket/big é+%", "arrow-bucket/copy")
    s3.move("arrow-bucket/copy", "arrow-bucket/moved")
    kinds = {info.path: info.type for info in s3.get_file_info(fs.FileSelector("arrow-bucket"))}
    assert kinds == {
        "arrow-bucket/big é+%": fs.FileType.File,
        "arrow-bucket/moved": fs.FileType.File,
        "arrow-bucket/table": fs.FileType.Directory,
    }
    s3.delete_dir("arrow-bucket/table")
    s3.delete_dir_contents("arrow-bucket")
    s3.delete_dir("arrow-bucket")


def rows(count: int) -> dict[str, list[Any]]:
    """Columns of a table."""
    numbers = list(range(count))
    return {"number": numbers, "part": [n % 3 for n in numbers], "text": [f"text {n}" for n in numbers]}


def test_deltalake(served: Served) -> None:
    deltalake, pa = pytest.importorskip("deltalake"), pytest.importorskip("pyarrow")
    served.client().create_bucket(Bucket="delta-bucket")
    options = {
        **aws_environment(served),
        "AWS_ALLOW_HTTP": "true",
        "aws_conditional_put": "etag",
        "aws_virtual_hosted_style_request": "false",
    }
    at = "s3://delta-bucket/table"
    table = pa.table(rows(FEW_ROWS))
    deltalake.write_deltalake(at, table, storage_options=options, partition_by=["part"])
    deltalake.write_deltalake(at, table, storage_options=options, mode="append")
    found = deltalake.DeltaTable(at, storage_options=options)
    assert (found.version(), found.to_pyarrow_table().num_rows) == (1, 2 * FEW_ROWS)
    found.delete("number < 10")
    found.optimize.compact()
    assert len(found.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)) > 0
    again = deltalake.DeltaTable(at, storage_options=options)
    assert again.to_pyarrow_table().num_rows == 2 * FEW_ROWS - 20
    again.create_checkpoint()
    assert deltalake.DeltaTable(at, storage_options=options).version() == again.version()


def test_duckdb(served: Served) -> None:
    duckdb = pytest.importorskip("duckdb")
    package = pytest.importorskip("duckdb_extension_httpfs")
    served.client().create_bucket(Bucket="duck-bucket")
    [extension] = Path(package.__file__).parent.rglob("httpfs.duckdb_extension")
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{served.user.key_id}', SECRET '{served.user.secret}', "
        f"REGION '{REGION}', ENDPOINT '127.0.0.1:{served.port}', URL_STYLE 'path', USE_SSL false)"
    )
    numbers = f"SELECT range AS number, range % 3 AS part, 'text ' || range AS text FROM range({MANY_ROWS})"
    connection.execute(f"COPY ({numbers}) TO 's3://duck-bucket/a b é+%.parquet'")
    connection.execute(f"COPY ({numbers}) TO 's3://duck-bucket/parts' (FORMAT parquet, PARTITION_BY part)")
    connection.execute(f"COPY ({numbers}) TO 's3://duck-bucket/big.csv'")
    for source in ("a b é+%.parquet", "parts/*/*.parquet", "big.csv"):
        asked = f"SELECT count(*), sum(number), max(text) FROM 's3://duck-bucket/{source}'"
        assert connection.execute(asked).fetchall() == [
            (MANY_ROWS, MANY_ROWS * (MANY_ROWS - 1) // 2, "text 99999")
        ]
    found = connection.execute("SELECT text FROM 's3://duck-bucket/a b é+%.parquet' WHERE number = 4711")
    assert found.fetchall() == [("text 4711",)]


@pytest.mark.usefixtures("as_aws")
def test_the_common_runtime_under_mountpoint(served: Served) -> None:
    crt = pytest.importorskip("s3torchconnectorclient._mountpoint_s3_client")
    served.client().create_bucket(Bucket="crt-bucket")
    client = crt.MountpointS3Client(REGION, endpoint=served.url, force_path_style=True, part_size=5 * MIB)
    for key, data in FILES.items():
        stream = client.put_object("crt-bucket", f"x/{key}")
        for start in range(0, len(data), MIB):
            stream.write(data[start : start + MIB])
        stream.close()
    for key, data in FILES.items():
        assert b"".join(client.get_object("crt-bucket", f"x/{key}")) == data
        assert client.head_object("crt-bucket", f"x/{key}").size == len(data)
    assert (
        b"".join(client.get_object("crt-bucket", "x/big", 6 * MIB, 7 * MIB))
        == FILES["big"][6 * MIB : 7 * MIB]
    )
    client.copy_object("crt-bucket", "x/big", "crt-bucket", "copy")
    pages = list(client.list_objects("crt-bucket", max_keys=2))
    listed = [info.key for page in pages for info in page.object_info]
    assert listed == sorted(["copy", *(f"x/{key}" for key in FILES)], key=str.encode)
    [top] = client.list_objects("crt-bucket", delimiter="/")
    assert top.common_prefixes == ["x/"]
    for key in listed:
        client.delete_object("crt-bucket", key)
    served.client().delete_bucket(Bucket="crt-bucket")


def test_restic(served: Served, folder: Path, tmp_path: Path) -> None:
    restic = program("restic")
    served.client().create_bucket(Bucket="restic-bucket")
    environment = {
        **aws_environment(served),
        "RESTIC_REPOSITORY": f"s3:{served.url}/restic-bucket/repository",
        "RESTIC_PASSWORD": "a password",
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run(*arguments: str | Path) -> str:
        return succeed(restic, *arguments, environment=environment)

    run("init")
    run("backup", folder)
    (folder / "big").write_bytes(content("log", 9 * MIB, 3))
    run("backup", folder)
    assert "no errors were found" in run("check", "--read-data")
    run("restore", "latest", "--target", tmp_path / "got")
    assert holds(tmp_path / "got" / folder.relative_to("/")) == holds(folder)
    run("forget", "--keep-last", "1", "--prune")
    assert "no errors were found" in run("check", "--read-data")


def test_s5cmd(served: Served, folder: Path, tmp_path: Path) -> None:
    s5cmd = program("s5cmd")

    def run(*arguments: str | Path) -> str:
        return succeed(s5cmd, "--endpoint-url", served.url, *arguments, environment=aws_environment(served))

    run("mb", "s3://s5cmd-bucket")
    run("cp", "--part-size", "5", f"{folder}/", "s3://s5cmd-bucket/x/")
    assert run("sync", f"{folder}/", "s3://s5cmd-bucket/x/") == ""
    run("cp", "--part-size", "5", "s3://s5cmd-bucket/x/*", f"{tmp_path / 'got'}/")
    assert holds(tmp_path / "got") == FILES
    run("cp", "s3://s5cmd-bucket/x/big", "s3://s5cmd-bucket/copy")
    run("cp", "s3://s5cmd-bucket/x/é+%", "s3://s5cmd-bucket/copied é+%")
    run("mv", "s3://s5cmd-bucket/x/a b", "s3://s5cmd-bucket/moved")
    listed = [line.split(maxsplit=3)[3] for line in run("ls", "s3://s5cmd-bucket/*").splitlines()]
    assert listed == ["copied é+%", "copy", "moved", "x/big", "x/empty", "x/é+%"]
    run("rm", "s3://s5cmd-bucket/*")
    run("rb", "s3://s5cmd-bucket")


@pytest.fixture
def s3fs(served: Served, tmp_path: Path) -> Iterator[Path]:
    """A bucket that s3fs has mounted."""
    command = program("s3fs")
    if not os.access("/dev/fuse", os.W_OK) or shutil.which("fusermount") is None:
        pytest.skip("mounting needs /dev/fuse and fusermount")
    served.client().create_bucket(Bucket="s3fs-bucket")
    with mounted_by_s3fs(command, served, tmp_path) as mountpoint:
        yield mountpoint


@contextmanager
def mounted_by_s3fs(command: str, served: Served, folder: Path) -> Iterator[Path]:
    secret, mountpoint = folder / "secret", folder / "mnt"
    secret.write_text(f"{served.user.key_id}:{served.user.secret}")
    secret.chmod(0o600)
    mountpoint.mkdir()
    options = (
        f"url={served.url},use_path_request_style,endpoint={REGION},passwd_file={secret},multipart_size=5"
    )
    succeed(command, "s3fs-bucket", mountpoint, "-o", options)
    try:
        yield mountpoint
    finally:
        subprocess.run(["fusermount", "-u", mountpoint], check=True)


@pytest.mark.mount
def test_s3fs(served: Served, s3fs: Path, folder: Path) -> None:
    shutil.copytree(folder, s3fs / "x")
    assert holds(s3fs / "x") == FILES
    (s3fs / "x" / "a b").rename(s3fs / "moved")
    (s3fs / "x" / "empty").write_bytes(b"no more")
    (s3fs / "x" / "big").chmod(0o600)
    with open(s3fs / "x" / "é+%", "ab") as file:
        file.write(b"more")
    s3 = served.client()
    kept = {
        "moved": FILES["a b"],
        "x/empty": b"no more",
        "x/big": FILES["big"],
        "x/é+%": FILES["é+%"] + b"more",
    }
    for key, data in kept.items():
        assert s3.get_object(Bucket="s3fs-bucket", Key=key)["Body"].read() == data
    listed = {each["Key"] for each in s3.list_objects_v2(Bucket="s3fs-bucket")["Contents"]}
    assert listed == {*kept, "x/"}
    shutil.rmtree(s3fs / "x")
    assert [path.name for path in s3fs.iterdir()] == ["moved"]


def test_litestream(served: Served, tmp_path: Path) -> None:
    litestream = program("litestream")
    served.client().create_bucket(Bucket="litestream-bucket")
    database, restored, configuration = (tmp_path / name for name in ("db", "restored", "litestream.yml"))
    configuration.write_text(
        f"dbs:\n  - path: {database}\n    replica:\n      type: s3\n      bucket: litestream-bucket\n"
        f"      path: db\n      endpoint: {served.url}\n      region: {REGION}\n"
        "      force-path-style: true\n"
    )
    environment = aws_environment(served)
    for first in (0, FEW_ROWS):
        add_rows(database, first)
        succeed(litestream, "replicate", "-config", configuration, "-once", environment=environment)
    succeed(
        litestream, "restore", "-config", configuration, "-o", restored, database, environment=environment
    )
    with sqlite3.connect(restored) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*), max(number) FROM t").fetchall() == [
            (2 * FEW_ROWS, 2 * FEW_ROWS - 1)
        ]
    connection.close()


def add_rows(database: Path, first: int) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (number INTEGER PRIMARY KEY, data BLOB)")
        numbers = range(first, first + FEW_ROWS)
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, content("json", 500, n)) for n in numbers))
    connection.close()
