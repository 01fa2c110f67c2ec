"""The exec sidecar's protocol, written from its documents alone: a client and a server that share no code with limpet.

    sidecar.py exec SOCKET [--signal N] COMMAND...   run a command; with --signal, send it a signal once it runs
    sidecar.py serve SOCKET                          serve one client, and say on standard output what it asked for
    sidecar.py malformed SOCKET                      send what is wrong, and say how it was answered
"""
import array
import os
import socket
import struct
import subprocess
import sys
import threading


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def command(program, args=(), cwd="", env=(), startup=0, io=7, pgid=0, uid=-1, gid=-1, deathsig=9, connsig=9):
    data = text(program) + struct.pack("<Q", len(args)) + b"".join(map(text, args)) + text(cwd)
    data += struct.pack("<Q", len(env)) + b"".join(text(name) + text(value) for name, value in env)
    return data + struct.pack("<IIiiiii", startup, io, pgid, uid, gid, deathsig, connsig)


def connect(path):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.settimeout(30)
    server.connect(path)
    return server


def send_command(server, data, fds=(0, 1, 2)):
    server.send(struct.pack("<IQ", 1, len(data)))
    server.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def read_started(server):
    """Returns success, message, errno, pid; None if the server hung up."""
    data = server.recv(65536)
    if not data:
        return None
    success, length = struct.unpack_from("<?Q", data)
    errno, pid = struct.unpack_from("<ii", data, 9 + length)
    assert len(data) == 17 + length, data
    return success, data[9 : 9 + length].decode(), errno, pid


def run(path, signal, argv):
    server = connect(path)
    send_command(server, command(argv[0], argv[1:]))
    success, message, errno, pid = read_started(server)
    if not success:
        print("not started:", message, file=sys.stderr)
        return 127 if errno == 2 else 126
    assert pid > 0
    if signal:
        server.send(struct.pack("<i", signal))
    server.settimeout(None)
    data = server.recv(16)
    kind = struct.unpack_from("<I", data)[0]
    if kind == 0:
        return 127
    value = struct.unpack("<Ii", data)[1]
    return value if kind == 1 else 128 + value


def reader(data):
    """Returns a function that reads the next value of a kind: a struct format, or "text"."""
    position = 0

    def read(kind):
        nonlocal position
        if kind != "text":
            value = struct.unpack_from(kind, data, position)[0]
            position += struct.calcsize(kind)
            return value
        length = read("<Q")
        value = data[position : position + length].decode()
        position += length
        return value

    return read


def serve(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    client = listener.accept()[0]
    kind, size = struct.unpack("<IQ", client.recv(64))
    assert kind == 1, kind
    data, messages, flags, _ = client.recvmsg(size + 1, socket.CMSG_SPACE(12))
    assert len(data) == size and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC), (len(data), size, flags)
    fds = array.array("i")
    for _, _, rights in messages:
        fds.frombytes(rights)
    read = reader(data)
    argv = [read("text")] + [read("text") for _ in range(read("<Q"))]
    cwd = read("text")
    env = [(read("text"), read("text")) for _ in range(read("<Q"))]
    numbers = [read("<i") for _ in range(7)]
    print(argv, cwd, env, numbers, len(fds), flush=True)
    child = subprocess.Popen(argv, cwd=cwd or None, env={**os.environ, **dict(env)}, stdin=fds[0], stdout=fds[1], stderr=fds[2])
    for fd in fds:
        os.close(fd)
    client.send(struct.pack("<?Q", True, 0) + struct.pack("<ii", 0, child.pid))

    def signals():
        while data := client.recv(16):
            number = struct.unpack("<i", data)[0]
            print("signal", number, flush=True)
            child.send_signal(abs(number))

    threading.Thread(target=signals, daemon=True).start()
    code = child.wait()
    client.send(struct.pack("<Ii", 1, code) if code >= 0 else struct.pack("<Ii", 2, -code))


def malformed(path):
    good = command("true")
    cases = {
        "unknown request": [struct.pack("<I", 7)],
        "short request": [struct.pack("<II", 1, 1)],
        "huge command": [struct.pack("<IQ", 1, 1 << 40)],
        "shorter than said": [struct.pack("<IQ", 1, len(good)), good[:-1]],
        "longer than said": [struct.pack("<IQ", 1, len(good) - 1), good],
        "garbage": [struct.pack("<IQ", 1, 64), b"\xff" * 64],
        "no descriptors": [struct.pack("<IQ", 1, len(good)), good],
        "no program": [struct.pack("<IQ", 1, len(command(""))), command("", io=0)],
        "unknown startup": [struct.pack("<IQ", 1, len(good)), command("true", startup=1 << 20, io=0)],
    }
    for name, datagrams in cases.items():
        server = connect(path)
        for datagram in datagrams:
            server.send(datagram)
        print(name, read_started(server)[2], flush=True)
        assert server.recv(16) == b""
    server = connect(path)  # its descriptors are closed, too
    read, write = os.pipe()
    send_command(server, b"\xff" * 64, [write] * 3)
    print("garbage with descriptors", read_started(server)[2], flush=True)
    os.close(write)
    assert os.read(read, 1) == b""


def main():
    verb, path, *rest = sys.argv[1:]
    if verb == "serve":
        return serve(path)
    if verb == "malformed":
        return malformed(path)
    signal = 0
    if rest[0] == "--signal":
        signal, rest = int(rest[1]), rest[2:]
    return run(path, signal, rest)


sys.exit(main())
