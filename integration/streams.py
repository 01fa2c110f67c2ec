"""A client of limpet's byte streams, written from their description alone: it shares no code with limpet.

    streams.py open ADDRESS KIND [PORT|PATH]   joins a byte stream to standard input and output; of kind 1 the first line is the FIFO
    streams.py proxy SOCKET ADDRESS            listens on a unix socket and passes each connection on to containerd, by kind 0

ADDRESS is the path of a unix socket or HOST:PORT, KIND a number.
"""

import contextlib
import os
import socket
import struct
import sys
import threading

MAGIC = b"danger noodle"
CONTAINERD, OUTPUT, TCP, UNIX = 0, 1, 0x41, 0x42


def connect(address):
    if "/" not in address:
        host, port = address.rsplit(":", 1)
        return socket.create_connection((host, int(port)))
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(address)
    return conn


def read(conn, length):
    """Reads exactly so many bytes."""
    got = b""
    while len(got) < length:
        more = conn.recv(length - len(got))
        if not more:
            sys.exit("hung up")
        got += more
    return got


def open_stream(address, kind, argument=None):
    """Opens a byte stream. Nothing is read but the status, which the kinds from 0x40 on have."""
    preamble = MAGIC + bytes([kind])
    if kind == TCP:
        preamble += struct.pack(">H", int(argument))
    elif kind == UNIX:
        preamble += struct.pack(">H", len(argument)) + argument.encode()
    conn = connect(address)
    conn.sendall(preamble)
    if kind >= 0x40 and read(conn, 1) != b"\0":
        length, = struct.unpack(">H", read(conn, 2))
        sys.exit("refused: " + read(conn, length).decode())
    return conn


def pump(receive, send):
    """Passes bytes on to their end."""
    while data := receive(1 << 16):
        send(data)


def join(a, b):
    """Passes both directions on, each to its own end, or to the first failure."""
    def one_way(source, sink):
        try:
            pump(source.recv, sink.sendall)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for conn in (a, b):
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=one_way, args=(b, a))
    back.start()
    one_way(a, b)
    back.join()
    a.close()
    b.close()


def say(conn):
    """Passes standard input on, and its end."""
    with contextlib.suppress(OSError):  # the other side has gone
        pump(lambda length: os.read(0, length), conn.sendall)
        conn.shutdown(socket.SHUT_WR)


def write_out(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main():
    if sys.argv[1] == "open":
        kind = int(sys.argv[3], 0)
        conn = open_stream(sys.argv[2], kind, *sys.argv[4:])
        if kind == OUTPUT:
            print(read(conn, read(conn, 1)[0]).decode(), flush=True)
        threading.Thread(target=say, args=(conn,), daemon=True).start()
        pump(conn.recv, write_out)
    elif sys.argv[1] == "proxy":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[2])
        listener.listen()
        print("listening", flush=True)
        while True:
            client, _ = listener.accept()
            stream = open_stream(sys.argv[3], CONTAINERD)
            threading.Thread(target=join, args=(client, stream), daemon=True).start()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
