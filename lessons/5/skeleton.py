"""Lesson 5: the distributor. It knows which nodes are registered, and tells everybody whenever that changes.

Start it with the address where it listens. For example: python3 skeleton.py 127.0.0.1:9000
"""

import json
import queue
import socket
import sys
import threading

END = "¶".encode()  # the two bytes C2 B6
MAX_PACKET = 1024 * 1024


class Distributor:
    def __init__(self):
        self.lock = threading.Lock()  # hold it while you read or change the table
        # Step 1: you need a table (a dict) of all connections: the Connection, and the entry of the node, which is None
        # before it registers. The key is the connection, or a number. It is not the name: two instances share a name.
        # Step 4: you need a queue.Queue(1) that wakes the thread which pushes.

    def serve(self, connection, host):
        """The life of one connection. `host` is the address of the peer as we see it."""
        # Step 1: put the connection into the table, and send the list at once.
        try:
            while (packet := connection.read()) is not None:
                # Step 2: a POST of /distributes is a registration. Check it: `params` is an object; it has a port (a
                # number, or text with a number in it), urls (a list of texts) and a name (a text). If not, raise
                # ValueError: that closes this connection. Else keep a copy of `params` in the table, with `host` filled
                # in and the port as a number.
                # Step 4: the list has changed, so wake the thread which pushes: put_nowait. If the queue is full
                # (queue.Full), the thread is awake already.
                # Step 6: if the packet has a key above 0, send a reply under this key: success("registered"),
                # success(the entries) for a GET of /distributes, and failure(404, "...") for anything else.
                print(f"{host}: {packet}", flush=True)
        finally:
            # Step 3: the connection has ended, for whatever reason. Remove it from the table.
            # Step 4: if it had an entry, wake the thread which pushes.
            pass

    # Step 1: write list(self). It returns the packet with all entries:
    # {"uri": "/distributes", "method": "GET", "key": 0, "params": [...]}
    # Step 5: several connections of one host and port are one entry.

    # Step 4: write push_lists(self), which runs in a thread of its own. It waits for the queue, and then sends the list
    # to everybody who has an entry. Do not hold the lock while you send: a slow peer would stop all others.
    # An OSError means that this peer is gone. Its own thread removes it.


class Connection:
    """Reads and sends packets, as in lesson 1."""

    def __init__(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.bytes = b""
        self.sending = threading.Lock()

    def read(self):
        """Waits for the next packet. None: the peer has closed the connection."""
        while True:
            if END in self.bytes:
                text, self.bytes = self.bytes.split(END, 1)
                if not text.strip():
                    continue
                packet = json.loads(text)
                if not isinstance(packet, dict):
                    raise ValueError("a packet is not a JSON object")
                return packet
            if len(self.bytes) > MAX_PACKET:
                raise ValueError("a packet is longer than 1 MiB")
            piece = self.socket.recv(8192)
            if not piece:
                return None
            self.bytes += piece

    def send(self, packet):
        # json.dumps writes every ¶ inside a text as \u00b6.
        data = json.dumps(packet).encode() + END
        with self.sending:
            self.socket.sendall(data)


def success(results):
    """A reply of success. The caller adds the key of the request."""
    return {"errorcode": 0, "errormessage": "success", "results": results}


def failure(code, message):
    """A reply that says what went wrong."""
    return {"errorcode": code, "errormessage": message}


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def serve(distributor, sock, host):
    connection = Connection(sock)
    try:
        distributor.serve(connection, host)
    except (OSError, ValueError) as error:
        # A peer that breaks the rules loses its connection, and nobody else notices.
        print(f"{host}: closed: {error}", flush=True)
    finally:
        sock.close()


def main():
    arguments = dict(enumerate(sys.argv))
    listen = arguments.get(1, "127.0.0.1:9000")
    distributor = Distributor()
    # Step 4: start the thread which pushes.
    listener = socket.create_server(address(listen))
    print(f"distributor listening on {listen}", flush=True)
    while True:
        sock, peer = listener.accept()
        threading.Thread(target=serve, args=(distributor, sock, peer[0]), daemon=True).start()


main()
