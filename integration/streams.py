"""A client of limpet's byte streams, written from their description alone: it shares no code with limpet.

    streams.py open ADDRESS KIND [PORT|PATH]   joins a byte stream to standard input and output
    streams.py proxy SOCKET ADDRESS            listens on a unix socket and passes each connection on to containerd, by kind 0

ADDRESS is the path of a unix socket or HOST:PORT, KIND a number.
"""

import os
import socket
import struct
import sys
import threading

MAGIC = b"danger noodle"
TCP, UNIX = 0x41, 0x42


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


def pump(receive, send, end):
    """Passes bytes on to their end, then the end."""
    try:
        while data := receive(1 << 16):
            send(data)
        end()
    except OSError:
        pass  # the other side has gone


def half_close(conn):
    return lambda: conn.shutdown(socket.SHUT_WR)


def join(a, b):
    back = threading.Thread(target=pump, args=(b.recv, a.sendall, half_close(a)))
    back.start()
    pump(a.recv, b.sendall, half_close(b))
    back.join()
    a.close()
    b.close()


def write_out(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main():
    if sys.argv[1] == "open":
        conn = open_stream(sys.argv[2], int(sys.argv[3], 0), *sys.argv[4:])
        threading.Thread(target=pump, args=(lambda n: os.read(0, n), conn.sendall, half_close(conn)), daemon=True).start()
        pump(conn.recv, write_out, lambda: None)
    elif sys.argv[1] == "proxy":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[2])
        listener.listen()
        while True:
            client, _ = listener.accept()
            stream = open_stream(sys.argv[3], 0)
            threading.Thread(target=join, args=(client, stream), daemon=True).start()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
