"""Drives the machine requests of a live sandbox, every one of them, with a codec of its own: nothing here is shared with limpet.

    machine.py SOCKET CONTAINER ARCHIVE [VSOCK]

SOCKET     the sandbox's door for machine requests
CONTAINER  the id of a container that runs in the sandbox, with a /tmp
ARCHIVE    an OCI layout as a tar archive, whose image has a busybox
VSOCK      the socket of the host's vsock daemon, by which the guest's port 6000 is reached; without it only the door is tried

Says what it tries, a line each; fails with the first that is not as it should be.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import socket
import struct
import sys
import tarfile
import threading
import time

PORT = 6000
MAX_FRAME = 32 << 20
CHUNK = 1 << 20


class Refused(Exception):
    def __init__(self, answer):
        super().__init__("%(code)s: %(message)s" % answer)
        self.code = answer["code"]


class Machine:
    """A connection: requests and answers, each a length of four bytes, big endian, and JSON."""

    def __init__(self, connect):
        self.socket = connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, **fields):
        self.send_raw(json.dumps({"method": method, **fields}).encode())

    def send_raw(self, body):
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def receive(self):
        """The next answer; an error is raised."""
        (length,) = struct.unpack(">I", self.read(4))
        assert length <= MAX_FRAME, length
        answer = json.loads(self.read(length))
        if answer["status"] == "error":
            raise Refused(answer)
        return answer

    def read(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.socket.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError("the connection is closed after %d of %d bytes" % (len(data), size))
            data += piece
        return bytes(data)

    def ask(self, method, **fields):
        """The answer to a request, and nothing that comes before it."""
        self.send(method, **fields)
        while True:
            answer = self.receive()
            if answer["status"] != "progress":
                return answer

    def data(self, method, **fields):
        answer = self.ask(method, **fields)
        assert answer["status"] == "ok", answer
        return answer.get("data")

    def complete(self, method, **fields):
        """The exit code, output and error output of a captured command."""
        answer = self.ask(method, **fields)
        assert answer["status"] == "completed", answer
        return answer["exit_code"], base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"])

    def start(self, method, **fields):
        answer = self.ask(method, **fields)
        assert answer == {"status": "started"}, answer

    def type(self, text):
        self.send("stdin", data=encode(text))

    def output(self, until=None):
        """What an interactive command says, up to its end or to a text: output, error output and exit code."""
        out, err = b"", b""
        while until is None or until not in out:
            answer = self.receive()
            if answer["status"] == "exited":
                assert until is None, "it has ended and said %r" % out
                return out, err, answer["exit_code"]
            if answer["status"] == "stdout":
                out += base64.b64decode(answer["data"])
            elif answer["status"] == "stderr":
                err += base64.b64decode(answer["data"])
            else:
                raise AssertionError(answer)
        return out, err, None

    def upload(self, path, content, mode=None):
        self.data("file_write_begin", path=path, mode=mode, total_size=len(content))
        for start in range(0, max(len(content), 1), CHUNK):
            piece = content[start : start + CHUNK]
            self.data("file_write_chunk", data=encode(piece), done=start + CHUNK >= len(content))

    def download(self, method="file_read", **fields):
        content = bytearray()
        self.send(method, **fields)
        while True:
            answer = self.receive()
            assert answer["status"] == "data_chunk", answer
            content += base64.b64decode(answer["data"])
            if answer["done"]:
                return bytes(content)


def encode(data):
    return base64.b64encode(data).decode()


def by_door(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(path)
    return connection


def by_vsock(path):
    """The daemon's own way to a port of the guest."""
    connection = by_door(path)
    connection.sendall(b"CONNECT %d\n" % PORT)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += connection.recv(1)
    assert answer.startswith(b"OK "), answer
    return connection


@contextlib.contextmanager
def refused(code):
    try:
        yield
    except Refused as refusal:
        assert refusal.code == code, "%s, want %s" % (refusal, code)
    else:
        raise AssertionError("not refused: want %s" % code)


def check(what, is_so, *rest):
    assert is_so, (what, *rest)


def pings(connect, _):
    with Machine(connect) as m:
        check("ping", m.ask("ping") == {"status": "pong", "version": 1})
        m.send("ping", trace_id="trace-7")
        check("trace id", m.receive() == {"status": "pong", "version": 1, "trace_id": "trace-7"})


def nonsense(connect, _):
    with Machine(connect) as m:
        for body in b"", b"{", b"[1]", b'{"method":"dance"}', b'{"method":"query"}', b'{"method":"query","image":null}', b"\xff":
            m.send_raw(body)
            with refused("INVALID_REQUEST"):
                m.receive()
        m.socket.sendall(struct.pack(">I", MAX_FRAME + 1) + bytes(MAX_FRAME + 1))
        with refused("MESSAGE_TOO_LARGE"):
            m.receive()
        for method, fields in (
            ("stdin", {"data": ""}),
            ("resize", {"cols": 1, "rows": 1}),
            ("file_write_chunk", {"data": "", "done": True}),
            ("vm_exec", {"command": []}),
            ("vm_exec", {"command": ["true"], "background": True, "tty": True}),
        ):
            with refused("INVALID_REQUEST"):
                m.ask(method, **fields)
        check("the connection lives", m.ask("ping")["status"] == "pong")


def silence(connect, _):
    """Clients that say nothing, or not all that they announce, keep nobody else from being served."""
    silent = [Machine(connect) for _ in range(20)]
    for m in silent[::2]:
        m.socket.sendall(struct.pack(">I", 1000) + b"{")
    with Machine(connect) as m:
        check("served", m.ask("ping")["status"] == "pong")
    for m in silent:
        m.socket.close()


def vm_exec(connect, _):
    with Machine(connect) as m:
        code, out, err = m.complete("vm_exec", command=["uname", "-s", "-n"])
        check("uname", code == 0 and re.fullmatch(rb"Linux limpet-[0-9a-f]{8}\n", out) and err == b"", code, out, err)
        code, out, err = m.complete("vm_exec", command=["sh", "-c", "echo $A; pwd; echo bad >&2; exit 3"], env=[["A", "B=C"]], workdir="/usr")
        check("environment", (code, out, err) == (3, b"B=C\n/usr\n", b"bad\n"), code, out, err)
        check("signal", m.complete("vm_exec", command=["sh", "-c", "kill -9 $$"])[0] == 137)
        began = time.monotonic()
        check("timeout", m.complete("vm_exec", command=["sleep", "100"], timeout_ms=300)[0] == 124)
        check("in time", time.monotonic() - began < 20)
        code, out, _ = m.complete("vm_exec", command=["head", "-c", "3000000", "/dev/zero"])
        check("much output", code == 0 and out == bytes(3000000), code, len(out))
        with refused("EXEC_FAILED"):
            m.ask("vm_exec", command=["cat", "/dev/zero"])
        with refused("SPAWN_FAILED"):
            m.ask("vm_exec", command=["/no/such/program"])
        code, pid, _ = m.complete("vm_exec", command=["sleep", "1000"], background=True)
        check("background", code == 0 and int(pid) > 1, code, pid)
        code, out, err = m.complete("vm_exec", command=["kill", pid.decode()])
        check("it ran", code == 0, code, out, err)

        m.start("vm_exec", command=["sh", "-c", "read line; echo heard $line; cat; exit 4"], interactive=True)
        with refused("INVALID_REQUEST"):
            m.ask("ping")
        m.type(b"you\n")
        m.output(until=b"heard you\n")
        m.type(b"more")
        m.type(b"")
        check("interactive", m.output() == (b"more", b"", 4))

        m.start("vm_exec", command=["sh"], tty=True)
        m.send("resize", cols=77, rows=33)
        m.type(b"stty size; exit 5\n")
        out, _, code = m.output()
        check("terminal", b"33 77" in out and code == 5, out, code)


def both_ways(connect, _):
    """Input and output at once, more than any buffer holds."""
    content = os.urandom(4 << 20)
    with Machine(connect) as m:
        m.start("vm_exec", command=["cat"], interactive=True)

        def say():
            for start in range(0, len(content), 64 << 10):
                m.type(content[start : start + (64 << 10)])
            m.type(b"")

        thread = threading.Thread(target=say)
        thread.start()
        out, _, code = m.output()
        thread.join()
        check("both ways", out == content and code == 0, len(out), code)


def gone(connect, _):
    """A command whose client goes away is killed."""
    with Machine(connect) as m:
        m.start("vm_exec", command=["sh", "-c", "echo $$; sleep 1000"], interactive=True)
        pid = m.output(until=b"\n")[0].strip().decode()
    with Machine(connect) as m:
        for _ in range(200):
            if m.complete("vm_exec", command=["kill", "-0", pid])[0] != 0:
                return
    raise AssertionError("the command lives on")


def crowd(connect, _):
    """Eight clients at once, each with its own answers."""
    failures = []

    def work(number):
        try:
            with Machine(connect) as m:
                for turn in range(3):
                    text = b"%d-%d" % (number, turn)
                    path = "/tmp/crowd-%d" % number
                    m.data("file_write", path=path, data=encode(text), mode=0o600)
                    check("command", m.complete("vm_exec", command=["cat", path]) == (0, text, b""))
                    check("file", m.download(path=path) == text)
        except Exception as error:
            failures.append((number, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("crowd", not failures, failures)


def files(connect, arguments):
    root = "/run/limpet/containers/%s/rootfs" % arguments.container
    with Machine(connect) as m:
        m.data("file_write", path="/tmp/small", data=encode(b"small"), mode=0o640)
        check("small file", m.download(path="/tmp/small") == b"small")
        check("mode", m.complete("vm_exec", command=["stat", "-c", "%a", "/tmp/small"])[1] == b"640\n")
        content = os.urandom(CHUNK) * 100
        began = time.monotonic()
        m.upload(root + "/tmp/large", content)
        up = time.monotonic()
        got = m.download(path=root + "/tmp/large")
        down = time.monotonic()
        check("100 MB", hashlib.sha256(got).digest() == hashlib.sha256(content).digest(), len(got))
        print("    up %.1f MB/s, down %.1f MB/s" % (len(content) / 1e6 / (up - began), len(content) / 1e6 / (down - up)))
        for size in 9, 11:  # both lie: it was to be 10
            m.data("file_write_begin", path="/tmp/lie", total_size=10)
            with refused("INVALID_REQUEST"):
                m.ask("file_write_chunk", data=encode(bytes(size)), done=True)
        with refused("INVALID_REQUEST"):
            m.ask("file_write_begin", path="/tmp/lie", total_size=(4 << 30) + 1)
        with refused("INVALID_REQUEST"):
            m.ask("file_write", path="/tmp/lie", data=encode(bytes(CHUNK + 1)))
        with refused("NOT_FOUND"):
            m.ask("file_read", path="/tmp/lie")
        m.complete("vm_exec", command=["ln", "-s", "/etc", "/tmp/link"])
        for path in "/tmp/link/passwd", "/dev/null", "/tmp":
            with refused("FILE_IO_FAILED"):
                m.ask("file_write", path=path, data="")
            with refused("FILE_IO_FAILED"):
                m.ask("file_read", path=path)
        for path in "/tmp/../etc/passwd", "tmp/small", "":
            with refused("INVALID_REQUEST"):
                m.ask("file_write", path=path, data="")
    with Machine(connect) as m:
        m.data("file_write_begin", path="/tmp/half", total_size=10)
        m.data("file_write_chunk", data=encode(b"half"), done=False)
        with Machine(connect) as other:
            check("staging file", b".limpet-" in other.complete("vm_exec", command=["ls", "-a", "/tmp"])[1])


def no_staging_file(connect, _):
    with Machine(connect) as m:
        for _ in range(100):
            listing = m.complete("vm_exec", command=["ls", "-a", "/tmp"])[1]
            if b".limpet-" not in listing:
                break
        check("nothing is left of an upload that was given up", b".limpet-" not in listing and b"half" not in listing, listing)


def images(connect, arguments):
    inside = "/run/limpet/share/%s/rootfs/tmp/image.tar" % arguments.container
    reference = "oci-layout:" + inside
    with Machine(connect) as m, open(arguments.archive, "rb") as archive:
        m.upload("/run/limpet/containers/%s/rootfs/tmp/image.tar" % arguments.container, archive.read())
        status = m.data("storage_status")
        check("storage", set(status) >= {"ready", "total_bytes", "used_bytes", "layer_count", "image_count"}, status)
        with refused("NOT_FOUND"):
            m.ask("query", image=reference)
        with refused("NOT_FOUND"):
            m.ask("run", image=reference, command=["true"])
        m.send("pull", image=reference, oci_platform=None)
        progress = 0
        while (answer := m.receive())["status"] == "progress":
            progress += 1
        check("pull", answer["status"] == "ok" and progress > 0, answer, progress)
        info = m.data("query", image=reference)
        check("query", info["reference"] == reference and info["layer_count"] == len(info["layers"]) > 0, info)
        check("list", [image["digest"] for image in m.data("list_images")] == [info["digest"]])
        layer = m.download("export_layer", image_digest=info["digest"], layer_index=0)
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            check("export", any(name.endswith("bin/busybox") for name in tar.getnames()), tar.getnames())
        with refused("NOT_FOUND"):
            m.download("export_layer", image_digest=info["digest"], layer_index=99)
        overlay = m.data("prepare_overlay", image=reference, workload_id="mine")
        m.data("file_write", path=overlay["rootfs_path"] + "/written", data=encode(b"here"))
        check("overlay", m.download(path=overlay["upper_path"] + "/written") == b"here")
        m.data("cleanup_overlay", workload_id="mine")
        with refused("NOT_FOUND"):
            m.ask("file_read", path=overlay["upper_path"] + "/written")
        run(m, reference)
        m.data("garbage_collect", dry_run=True, purge_all=True)
        check("a dry run", len(m.data("list_images")) == 1)
        m.data("garbage_collect", dry_run=False, purge_all=True)
        check("purged", m.data("list_images") == [])


def run(m, reference):
    def in_image(script, **fields):
        return m.complete("run", image=reference, command=["sh", "-c", script], **fields)

    code, out, err = in_image("echo $$ $A; pwd; echo bad >&2; exit 6", env=[["A", "B"]], workdir="/tmp")
    check("run", (code, out, err) == (6, b"1 B\n/tmp\n", b"bad\n"), code, out, err)
    check("timeout", in_image("sleep 100", timeout_ms=1000)[0] == 124)
    check("user", in_image("id -u; id -g", user="12:34")[1] == b"12\n34\n")
    m.complete("vm_exec", command=["mkdir", "-p", "/tmp/volume"])
    code, out, err = in_image("echo text >/a/file; cat /b/file; echo >/b/file", mounts=[["/tmp/volume", "/a", False], ["/tmp/volume", "/b", True]])
    check("mounts", code == 1 and out == b"text\n" and b"Read-only" in err, code, out, err)
    with refused("MOUNT_FAILED"):
        in_image("true", mounts=[["/no/such/directory", "/a", False]])
    with refused("START_FAILED"):
        m.complete("run", image=reference, command=["/no/such/program"])
    check("first", in_image("echo kept >/kept", persistent_overlay_id="disk")[0] == 0)
    check("overlay of its own", in_image("cat /kept")[0] == 1)
    check("overlay that is kept", in_image("cat /kept", persistent_overlay_id="disk")[1] == b"kept\n")
    m.data("cleanup_overlay", workload_id="disk")
    m.start("run", image=reference, command=["sh", "-c", "cat; exit 7"], interactive=True)
    m.type(b"in and out")
    m.type(b"")
    check("interactive", m.output() == (b"in and out", b"", 7))
    m.start("run", image=reference, command=["sh"], tty=True)
    m.send("resize", cols=77, rows=33)
    m.type(b"stty size; exit 8\n")
    out, _, code = m.output()
    check("terminal", b"33 77" in out and code == 8, out, code)
    code, out, _ = in_image("echo here >/tmp/file; sleep 1000", detached=True)
    check("detached", code == 0 and out, code, out)
    path = "/run/limpet/containers/%s/rootfs/tmp/file" % out.decode()
    for _ in range(100):
        with contextlib.suppress(Refused):
            if m.download(path=path) == b"here\n":
                break
    else:
        raise AssertionError("the detached container's file is not there")
    code, pid, _ = in_image("sleep 1000", background=True)
    check("background", code == 0 and m.complete("vm_exec", command=["kill", "-9", pid.decode()])[0] == 0, code, pid)


def without_means(connect, _):
    """What this sandbox has not: a storage disk, a network."""
    with Machine(connect) as m:
        with refused("FORMAT_FAILED"):
            m.ask("format_storage")
        with refused("INTERNAL_ERROR"):
            m.ask("network_test", url="http://192.0.2.1/")
        with refused("INVALID_REQUEST"):
            m.ask("network_test", url="gopher://example.com/")


def shutdown(connect, _):
    with Machine(connect) as m:
        check("shutdown", m.ask("shutdown")["status"] == "ok")
        try:
            while m.socket.recv(1):
                pass
        except ConnectionResetError:
            pass


class Arguments:
    def __init__(self, door, container, archive, vsock=None):
        self.door, self.container, self.archive, self.vsock = door, container, archive, vsock


def main():
    arguments = Arguments(*sys.argv[1:])
    ways = {"door": lambda: by_door(arguments.door)}
    if arguments.vsock:
        ways["port"] = lambda: by_vsock(arguments.vsock)
    tries = [(way, each) for way in ways for each in (pings, nonsense, silence, crowd, vm_exec, gone)]
    # What fills a connection both ways at once is for the door: not every backend of vsock survives it.
    tries += [("door", each) for each in (both_ways, files, no_staging_file, images, without_means, shutdown)]
    for way, each in tries:
        began = time.monotonic()
        print("%s by the %s" % (each.__name__, way), flush=True)
        each(ways[way], arguments)
        print("    %.1f s" % (time.monotonic() - began), flush=True)


main()
