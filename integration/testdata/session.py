"""Speaks with a limpet sandbox's agent over its session.sock, and reads its log.sock: written from docs/frames.md alone.

session.py DIRECTORY CONTAINER prints one JSON object with what came of it.
"""
import json
import os
import secrets
import socket
import struct
import sys

COMMAND, RESPONSE, STREAM, NOTIFICATION = range(4)
COMMANDS = [
    "auth", "run", "exec", "signal", "stop", "prepare", "remove", "resize", "close_stdin", "pids", "stats", "pause", "resume", "update",
    "network", "mount", "unmount", "plug", "clock", "reseed", "cancel", "ack", "ping", "data", "pod", "resolver", "ssh_agent", "wait",
]


def exactly(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_frame(sock):
    """Returns type, error flag, opcode, call id, payload."""
    version, words, _, flags, opcode, length = struct.unpack(">HBHxBBI", exactly(sock, 12))
    assert version == 2 and words >= 3, (version, words)
    rest = exactly(sock, words * 4 - 12)
    call = struct.unpack(">Q", rest[:8])[0] if words >= 5 else 0
    return flags & 0x0F, bool(flags & 0x10), opcode, call, exactly(sock, length)


class Session:
    def __init__(self, directory, token, name=None, ack=0):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(os.path.join(directory, "session.sock"))
        self.call_id = secrets.randbits(62)
        self.notifications = []
        self.hello = self.notification("hello")
        auth = {"token": token, "protocol_version": 1, "ack": ack}
        if name:
            auth["session"] = name
        self.authenticated = self.call("auth", **auth)
        if self.authenticated == {"type": "auth_ok"}:
            self.notification("ready")

    def send(self, type, trace=None, **fields):
        self.call_id += 1
        message = {"type": type, **fields}
        if trace:
            message["trace_id"] = trace
        payload = json.dumps(message).encode()
        header = struct.pack(">HBHxBBIQ", 2, 5, 0, COMMAND, COMMANDS.index(type), len(payload), self.call_id)
        self.sock.sendall(header + payload)
        return self.call_id

    def answer(self, call):
        while True:
            kind, error, opcode, got, payload = read_frame(self.sock)
            message = json.loads(payload)
            if kind == COMMAND:
                continue  # a ping, which nobody here is idle enough to get
            if kind == NOTIFICATION:
                self.notifications.append((got, message))
            elif got == call:
                return message

    def call(self, type, trace=None, **fields):
        return self.answer(self.send(type, trace, **fields))

    def notification(self, type):
        while not any(m["type"] == type for _, m in self.notifications):
            kind, _, _, call, payload = read_frame(self.sock)
            assert kind == NOTIFICATION, kind
            self.notifications.append((call, json.loads(payload)))
        return next(m for _, m in self.notifications if m["type"] == type)

    def close(self):
        self.sock.close()


def follow_log(directory, wanted):
    """Returns the lines of the log until there was one that has the text, and one of the kernel."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(os.path.join(directory, "log.sock"))
    lines = []
    found = False
    while not found or all(line["source"] != "kernel" for line in lines):
        kind, _, opcode, _, payload = read_frame(sock)
        assert (kind, opcode) == (STREAM, 3), (kind, opcode)
        lines.append(json.loads(payload))
        found = found or wanted in payload.decode()
    sock.close()
    return lines


def process(*args):
    return {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


def main(directory, container):
    with open(os.path.join(directory, "token")) as file:
        token = file.read()
    out = {"refused": Session(directory, "0" * 64).authenticated}

    name = secrets.token_hex(16)
    session = Session(directory, token, name)
    out["hello"] = session.hello
    out["ping"] = session.call("ping", data=7)
    out["stats"] = session.call("stats", container_id=container)
    out["pids"] = session.call("pids", container_id=container)
    out["denied"] = session.call("remove", container_id=container)
    out["unknown"] = session.call("wait", request_id=12345)

    # The container's first process, which another session has started, is waited for until that is given up.
    first = min(p["request_id"] for p in out["pids"]["pids"] if p.get("request_id"))
    waiting = session.send("wait", request_id=first)
    out["cancel"] = session.call("cancel", call_id=waiting)
    out["cancelled"] = session.answer(waiting)

    # A process of this session's own, and its end, over a connection that breaks in between.
    request = 1 << 63 | secrets.randbits(60)
    trace = secrets.token_hex(16)
    command = ["sh", "-c", "exit 7"]
    out["bad_id"] = session.call("exec", request_id=5, command=command, tty=False, container_id=container, process=process(*command))
    out["exec"] = session.call("exec", trace, request_id=request, command=command, tty=False, container_id=container, process=process(*command))
    session.notification("exit")
    session.close()
    session = Session(directory, token, name)
    out["exit"] = session.notification("exit")
    out["waited"] = session.call("wait", request_id=request)
    out["ack"] = session.call("ack", sequence=1)
    session.close()

    sleeper = 1 << 63 | secrets.randbits(60)
    session = Session(directory, token)
    command = ["sleep", "1000000"]
    session.call("exec", request_id=sleeper, command=command, tty=False, container_id=container, process=process(*command))
    waiting = session.send("wait", request_id=sleeper)
    out["signal"] = session.call("signal", request_id=sleeper, signal=9)
    out["killed"] = session.answer(waiting)
    session.close()

    lines = follow_log(directory, trace)
    out["trace"] = trace
    out["traced"] = [line for line in lines if line.get("trace_id") == trace]
    out["sources"] = sorted({line["source"] for line in lines})
    json.dump(out, sys.stdout)


main(*sys.argv[1:])
