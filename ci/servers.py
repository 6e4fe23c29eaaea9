"""Real servers and load for tests, the demo and benchmarks: nginx, wrk, network namespaces.

Everything lives in a directory of its own, listens on loopback or inside a namespace made here, and
is ended with the context it was started in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NGINX = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    log_format measured '$connection $request_method $request_uri $status $request_length $bytes_sent $body_bytes_sent';
    access_log {log};
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    client_max_body_size 64m;
    sendfile on;
    server {{
        listen {address}:{port} backlog=4096{http2};
        root {root}/www;
        default_type application/json;
        location /files/ {{ default_type application/octet-stream; }}
        location /api/ {{
            add_header X-Request-Id $request_id;
            try_files /item.json =404;
        }}
        location /slow/ {{ alias {root}/www/files/; limit_rate 2m; }}
        location /missing {{ return 404 '{{"error":"no such thing"}}'; }}
    }}
}}
"""  # noqa: E501
BODY = json.dumps({"items": [{"id": i, "name": f"item {i}", "price": i * 3.5} for i in range(16)]})


@dataclass(frozen=True)
class Nginx:
    """A running nginx; its access log holds connection, method, URI, status, and sizes in bytes."""

    address: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(address: str, port: int, process: subprocess.Popen[bytes], prefix: Sequence[str]) -> None:
    probe = [*prefix, "python3", "-c", f"import socket;socket.create_connection(('{address}',{port}),1)"]
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"nginx ended with status {process.returncode}")
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"nginx does not answer on {address}:{port}")


@contextmanager
def nginx(
    root: Path,
    address: str = "127.0.0.1",
    port: int = 0,
    log: bool = True,
    prefix: Sequence[str] = (),
    http2: bool = False,
) -> Iterator[Nginx]:
    """Serves small JSON under /api/, and files of 1 kB, 100 kB, 1 MB and 12 MiB under /files/; under /slow/
    at 2 MiB/s.
    """
    files = root / "www" / "files"
    files.mkdir(parents=True, exist_ok=True)
    for name, size in (
        ("1k.bin", 1_000),
        ("100k.bin", 100_000),
        ("1m.bin", 1_000_000),
        ("12m.bin", 12 << 20),
    ):
        (files / name).write_bytes(bytes(range(256)) * (size // 256 + 1))
        os.truncate(files / name, size)
    (root / "www" / "item.json").write_text(BODY)
    (root / "www" / "index.html").write_text("<h1>replaykit</h1>\n")
    port = port or free_port()
    access = root / "access.log"
    to = f"{access} measured buffer=64k flush=1s" if log else "off"
    config = root / "nginx.conf"
    config.write_text(
        NGINX.format(root=root, log=to, address=address, port=port, http2=" http2" if http2 else "")
    )
    command = [*prefix, "nginx", "-p", str(root), "-e", str(root / "error.log"), "-c", str(config)]
    if os.geteuid() == 0:
        config.write_text("user root;\n" + config.read_text())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address, port, process, prefix)
        yield Nginx(address, port, access, process)
    finally:
        process.terminate()
        process.wait(10)


MIX = """
local paths = { "/api/users/%d", "/api/users/%d/orders?page=2", "/api/products/%d", "/api/search?q=%d", "/api/v1/health" }
local n = 0
request = function()
  n = n + 1
  local path = string.format(paths[n % #paths + 1], n % 997)
  if n % 10 == 0 then
    return wrk.format("POST", path, nil, '{"quantity":3,"note":"' .. string.rep("x", n % 200) .. '"}')
  end
  return wrk.format("GET", path)
end
"""  # noqa: E501


def wrk(
    url: str,
    seconds: int,
    connections: int = 32,
    mix: bool = True,
    prefix: Sequence[str] = (),
    root: Path | None = None,
) -> float:
    """Loads a server for some seconds with one thread; returns the requests per second served."""
    command = [*prefix, "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
    command += ["-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "-H", "Accept: application/json"]
    command += [
        "-H",
        "Authorization: Bearer 0123456789abcdef0123456789abcdef",
        "-H",
        "Cookie: session=8c3d1e2f",
    ]
    if mix and root is not None:
        script = root / "mix.lua"
        script.write_text(MIX)
        command += ["-s", str(script)]
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        if line.startswith("Requests/sec:"):
            return float(line.split()[1])
    raise RuntimeError(f"wrk printed no rate:\n{out}")


@contextmanager
def namespaces(name: str, offloads: bool = False) -> Iterator[tuple[list[str], list[str]]]:
    """Two namespaces joined by a veth pair: 10.77.0.1 and 10.77.0.2, MTU 1500; offloads: of segments and
    checksums.

    Gives the command prefixes that run a program in the first (client) and the second (server). The
    ends are called veth0 in both.
    """
    one, two = f"{name}-c", f"{name}-s"
    try:
        for ns in (one, two):
            subprocess.run(["ip", "netns", "add", ns], check=True)
        subprocess.run(
            ["ip", "-n", one, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", two],
            check=True,
        )
        for ns, address in ((one, "10.77.0.1/24"), (two, "10.77.0.2/24")):
            subprocess.run(["ip", "-n", ns, "addr", "add", address, "dev", "veth0"], check=True)
            subprocess.run(["ip", "-n", ns, "link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "-n", ns, "link", "set", "veth0", "up"], check=True)
            if not offloads:
                switches = ["tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off", "sg", "off"]
                subprocess.run(
                    ["ip", "netns", "exec", ns, "ethtool", "-K", "veth0", *switches],
                    check=True,
                    capture_output=True,
                )
        yield ["ip", "netns", "exec", one], ["ip", "netns", "exec", two]
    finally:
        for ns in (one, two):
            subprocess.run(["ip", "netns", "del", ns], check=False, capture_output=True)


def missing(*programs: str) -> list[str]:
    """Those of the programs that are not installed."""
    return [p for p in programs if shutil.which(p) is None]


@contextmanager
def listening(*command: str, port: int) -> Iterator[None]:
    """A program, once it listens on this port of 127.0.0.1, until the context ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def nghttpd(root: Path, *keys: str) -> Iterator[int]:
    """An HTTP/2 server of the files in `root`; gives its port.

    keys: a private key's file and its certificate's, for TLS.
    """
    port = free_port()
    secure = [str(port), *keys] if keys else ["--no-tls", str(port)]
    with listening("nghttpd", "-a", "127.0.0.1", "-d", str(root), *secure, port=port):
        yield port


@contextmanager
def grpc_calls(service: str) -> Iterator[int]:
    """A gRPC server with the methods Add, which answers with its request twice, and Watch, five times; gives
    its port.
    """
    from concurrent import futures

    import grpc

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            if details.method == f"/{service}/Add":
                return grpc.unary_unary_rpc_method_handler(lambda request, context: request * 2)
            if details.method == f"/{service}/Watch":
                return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request] * 5))
            return None

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def certificate(root: Path, *names: str) -> tuple[Path, Path]:
    """A certificate of its own for these DNS names or addresses, and its key, as PEM files."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "replaykit test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([general(n) for n in names or ("127.0.0.1",)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    root.mkdir(parents=True, exist_ok=True)
    pem, secret = root / "cert.pem", root / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, secret


QUICK_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For servers that live for seconds: the second compiler would only begin to pay off later."""
SERVERS = Path(__file__).parents[1] / ".servers"
KAFKA = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}
listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={root}/keystore.pem
log.dirs={root}/logs
num.partitions=2
offsets.topic.replication.factor=1
message.max.bytes=80000000
"""  # noqa: E501


@dataclass(frozen=True)
class Kafka:
    """A broker: a plain listener, one with SCRAM-SHA-512 (user `gor`, password `secret`), one with TLS."""

    plain: str
    sasl: str
    tls: str
    ca: Path


@contextmanager
def kafka(root: Path) -> Iterator[Kafka]:
    """A broker of its own (KRaft), from .servers. The same root again: its restart, on the same ports."""
    root.mkdir(parents=True, exist_ok=True)
    config, known = root / "server.properties", root / "ports.json"
    again = known.exists()
    if again:
        ports, pem = json.loads(known.read_text()), root / "cert.pem"
    else:
        pem, key = certificate(root, "127.0.0.1")
        (root / "keystore.pem").write_bytes(key.read_bytes() + pem.read_bytes())
        ports = {name: free_port() for name in ("plain", "sasl", "tls", "controller")}
        config.write_text(KAFKA.format(root=root, **ports))
    java = ["java", "-Xmx512m", *QUICK_JAVA, "-cp", f"{SERVERS / 'kafka'}/*"]
    if not again:
        scram = "SCRAM-SHA-512=[name=gor,password=secret]"
        made = subprocess.run(
            [
                *java,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "bm90LWEtcmVhbC1pZC1ubw",
                "-c",
                str(config),
                "--add-scram",
                scram,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"Kafka's storage: {made.stdout}{made.stderr}")
        known.write_text(json.dumps(ports))
    with (root / "kafka.log").open("ab") as log:
        process = subprocess.Popen([*java, "kafka.Kafka", str(config)], stdout=log, stderr=log)
    try:
        for name in ("plain", "sasl", "tls"):
            _answers(ports[name], process, root / "kafka.log")
        yield Kafka(*(f"127.0.0.1:{ports[n]}" for n in ("plain", "sasl", "tls")), pem)
    finally:
        process.kill()
        process.wait(10)


def _answers(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Waits until something listens there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def elasticsearch(root: Path, port: int = 0, secure: bool = False) -> Iterator[str]:
    """A single node of its own, from .servers; gives its URL. The same root and port again: its restart.

    secure: https with the certificate root/cert.pem, and a user `replaykit` with the password `long-secret`.
    """
    home = root / "elasticsearch"
    if not home.exists():
        shutil.copytree(SERVERS / "elasticsearch", home, symlinks=True)
    port = port or free_port()
    settings = {
        "http.host": "127.0.0.1", "http.port": port, "transport.port": free_port(),
        "discovery.type": "single-node", "xpack.security.enabled": "false",
        "cluster.routing.allocation.disk.threshold_enabled": "false", "path.data": root / "data",
        "path.logs": root / "logs", "node.name": "test",
    }  # fmt: skip
    java = Path(shutil.which("java") or "/usr/bin/java").resolve().parents[1]
    if secure:
        for path in certificate(root, "127.0.0.1"):
            shutil.copy(path, home / "config" / path.name)
        settings |= {
            "xpack.security.enabled": "true",
            "xpack.security.http.ssl.enabled": "true",
            "xpack.security.http.ssl.key": "key.pem",
            "xpack.security.http.ssl.certificate": "cert.pem",
            "xpack.security.autoconfiguration.enabled": "false",
        }
        add = [
            str(home / "bin" / "elasticsearch-users"),
            "useradd",
            "replaykit",
            "-p",
            "long-secret",
            "-r",
            "superuser",
        ]
        subprocess.run(add, check=True, capture_output=True, env={**os.environ, "ES_JAVA_HOME": str(java)})
    (home / "config" / "elasticsearch.yml").write_text("".join(f"{k}: {v}\n" for k, v in settings.items()))
    (home / "config" / "jvm.options.d").mkdir(exist_ok=True)
    (home / "config" / "jvm.options.d" / "heap.options").write_text(f"-Xms768m\n-Xmx768m\n{QUICK_JAVA[0]}\n")
    scratch = root / "tmp"  # beside its home: it may not read its own plug-ins' folder
    scratch.mkdir(exist_ok=True)
    prefix = _as_nobody(root)
    log = root / "out.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, str(home / "bin" / "elasticsearch")],
            stdout=out,
            stderr=out,
            env={**os.environ, "ES_JAVA_HOME": str(java), "HOME": str(scratch), "ES_TMPDIR": str(scratch)},
            start_new_session=True,
        )
    try:
        _answers(port, process, log, 120)
        yield f"http{'s' if secure else ''}://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(20)


def _ready(url: str, seconds: float = 60) -> None:
    """Waits until a server says that it is."""
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def _running(
    command: Sequence[str], port: int, log: Path, seconds: float = 60, **more: Any
) -> Iterator[None]:
    """A server until the context ends; waits until it listens."""
    with log.open("ab") as out:
        process = subprocess.Popen(list(command), stdout=out, stderr=out, start_new_session=True, **more)
    try:
        _answers(port, process, log, seconds)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(20)


@contextmanager
def moto(root: Path, port: int = 0) -> Iterator[str]:
    """An S3 store (moto's server); gives its URL. Its objects live in memory; the same root again: its
    restart, with the objects that it had, from moto's own record of requests."""
    import urllib.request

    root.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    record = root / "record"
    again = record.exists()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "MOTO_RECORDER_FILEPATH": str(record)}
    with _running(command, port, root / "out.log", env=environment):
        url = f"http://127.0.0.1:{port}"
        for what in (["replay-recording"] if again else []) + ["start-recording"]:
            urllib.request.urlopen(f"{url}/moto-api/recorder/{what}", data=b"", timeout=60).close()
        yield url


INFLUXDB = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{root}/meta"
[data]
  dir = "{root}/data"
  wal-dir = "{root}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
"""


@contextmanager
def influxdb(root: Path, port: int = 0) -> Iterator[str]:
    """An InfluxDB 1; gives its URL."""
    root.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = root / "influxdb.conf"
    config.write_text(INFLUXDB.format(root=root, port=port, rpc=free_port()))
    with _running(
        ["influxd", "-config", str(config)], port, root / "out.log", env={**os.environ, "HOME": str(root)}
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def alertmanager(root: Path, receiver: str) -> Iterator[str]:
    """An Alertmanager that sends each alert to a webhook at once; gives its URL."""
    root.mkdir(parents=True, exist_ok=True)
    route = {
        "receiver": "hook",
        "group_wait": "0s",
        "group_interval": "1s",
        "group_by": ["alertname", "instance"],
    }
    plain = {"route": route, "receivers": [{"name": "hook", "webhook_configs": [{"url": receiver}]}]}
    config, port = root / "alertmanager.yml", free_port()
    config.write_text(json.dumps(plain))
    command = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={root / 'data'}",
        "--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with _running(command, port, root / "out.log"):
        _ready(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"


class Spark:
    """A standalone master and one worker (PySpark's own Spark), which know their jobs again after a
    restart.
    """

    def __init__(self, root: Path) -> None:
        import pyspark

        root.mkdir(parents=True, exist_ok=True)
        home = Path(pyspark.__file__).parent
        self._root, self._launch = root, str(home / "bin" / "spark-class")
        self._port, self._ui, self._worker_ui = free_port(), free_port(), free_port()
        self.url = f"spark://127.0.0.1:{self._port}"
        recovery = (
            f"-Dspark.deploy.recoveryMode=FILESYSTEM -Dspark.deploy.recoveryDirectory={root / 'recovery'}"
        )
        self._environment = {
            **os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable, "SPARK_WORKER_DIR": str(root / "work"),
            "SPARK_LOCAL_DIRS": str(root / "local"),
            "SPARK_DAEMON_JAVA_OPTS": f"{recovery} {' '.join(QUICK_JAVA)}",
        }  # fmt: skip
        self._stack = ExitStack()

    def start(self) -> None:
        name = "org.apache.spark.deploy"
        master = [self._launch, f"{name}.master.Master", "--host", "127.0.0.1", "--port", str(self._port)]
        worker = [
            self._launch,
            f"{name}.worker.Worker",
            "--host",
            "127.0.0.1",
            "-c",
            "2",
            "-m",
            "1g",
            self.url,
        ]
        for command, port, ui, log in (
            (master, self._port, self._ui, "master.log"),
            (worker, self._worker_ui, self._worker_ui, "worker.log"),
        ):
            command[2:2] = ["--webui-port", str(ui)]
            self._stack.enter_context(_running(command, port, self._root / log, env=self._environment))

    def kill(self) -> None:
        """kill -9, both of them."""
        self._stack.close()


@contextmanager
def spark(root: Path) -> Iterator[Spark]:
    """A running one."""
    made = Spark(root)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def _as_nobody(root: Path) -> list[str]:
    """What to put before a command that refuses to run as root; the folder becomes its own."""
    if os.geteuid() != 0:
        return []
    for path in [root, *root.parents]:
        if path == Path("/tmp"):
            break
        os.chmod(path, path.stat().st_mode | 0o711)
    subprocess.run(["chown", "-R", "nobody", str(root)], check=True)
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]


@contextmanager
def postgresql(root: Path) -> Iterator[str]:
    """A server of its own; gives the URL of its database `usage`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "password").write_text("long-secret")
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    prefix, data, port = _as_nobody(root), root / "data", free_port()
    made = [
        *prefix,
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "replaykit",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-N",
    ]
    subprocess.run(
        [*made, "-A", "scram-sha-256", "--pwfile", str(root / "password")],
        check=True,
        capture_output=True,
        cwd=root,
    )
    command = [
        *prefix,
        str(programs / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-k",
        str(root),
        "-h",
        "127.0.0.1",
    ]
    with _running(command, port, root / "out.log", cwd=root):
        subprocess.run(
            [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "replaykit", "usage"],
            check=True,
            capture_output=True,
            env={**os.environ, "PGPASSWORD": "long-secret"},
        )
        yield f"postgresql://replaykit:long-secret@127.0.0.1:{port}/usage"


@contextmanager
def mariadb(root: Path) -> Iterator[str]:
    """A server of its own; gives the URL of its database `usage`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "init.sql").write_text(
        "CREATE DATABASE IF NOT EXISTS `usage`;\nCREATE USER IF NOT EXISTS replaykit@'127.0.0.1' IDENTIFIED"
        " BY 'long-secret';\nGRANT ALL ON `usage`.* TO replaykit@'127.0.0.1';\n"
    )
    prefix, data, port = _as_nobody(root), root / "data", free_port()
    made = [
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]
    subprocess.run([*prefix, *made], check=True, capture_output=True, cwd=root)
    command = [
        *prefix, "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={root / 'socket'}",
        f"--port={port}", "--bind-address=127.0.0.1", f"--init-file={root / 'init.sql'}",
        f"--pid-file={root / 'pid'}", "--innodb-buffer-pool-size=64M",
    ]  # fmt: skip
    with _running(command, port, root / "out.log", cwd=root):
        yield f"mysql://replaykit:long-secret@127.0.0.1:{port}/usage"


@contextmanager
def prometheus(root: Path, targets: Sequence[str]) -> Iterator[str]:
    """A server that scrapes these `host:port`s every 200 ms; gives its URL."""
    root.mkdir(parents=True, exist_ok=True)
    config = root / "prometheus.yml"
    jobs = [{"job_name": "replaykit", "static_configs": [{"targets": list(targets)}]}]
    plain = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": jobs}
    config.write_text(json.dumps(plain))  # JSON is YAML
    port, log = free_port(), root / "out.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={root / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        _answers(port, process, log)
        _ready(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
