"""Lesson 3: a relay. It forwards the requests of many callers to a service, over one connection.

Start it with two addresses: where it listens, and where the service is.
For example: python3 skeleton.py 127.0.0.1:9030 127.0.0.1:9020
"""

import json
import queue
import socket
import sys
import threading
import time

END = "¶".encode()  # the two bytes C2 B6
MAX_PACKET = 1024 * 1024
RETRY = 3  # a lost connection is opened again after this many seconds
DEADLINE = 1  # how many seconds a caller waits for the reply


class Link:
    """The connection to the service. All callers share it."""

    def __init__(self, service):
        self.service = service
        self.lock = threading.Lock()  # hold it while you read or change the fields below
        self.connection = None  # None while the link is down
        # Everybody who waits for a reply, in the order of the requests.
        # Step 2: replace the list by a table (a dict): the key of each request, and the queue of its caller.
        self.waiting = []
        # Step 1: you need a number here: the last key that was used.

    def forward(self, request):
        """Sends a request to the service, and returns the reply."""
        # Step 1: remember the caller's key. Put the next number into request["key"] instead. Two threads must never
        # take the same number. Put the caller's key back into the reply before you return it.
        reply = queue.Queue(1)
        with self.lock:
            self.waiting.append(reply)  # first the entry, then the request: the reply may be fast
            connection = self.connection
        # Step 5: if the link is down, or if sending fails, return failure(502, "...") at once.
        try:
            if connection:
                connection.send(request)
        except OSError:
            pass
        # Step 3: wait for DEADLINE seconds only: reply.get(timeout=DEADLINE). When queue.Empty is raised, return
        # failure(504, "...").
        # Step 4: after that, remove the entry from the table, whatever has happened.
        # Step 5: a reply that is None means: the link was lost. Return failure(502, "...").
        return reply.get()

    def keep_open(self):
        """Connects again every 3 s when the connection is lost, as in lesson 2."""
        while True:
            try:
                if self.connection is None:
                    self.connect()
                self.route_replies()
            except (OSError, ValueError) as error:
                print(f"the service {self.service}: {error}", file=sys.stderr)
            # Step 5: everybody in the table waits for a reply that will never come. Put None into each queue, and
            # empty the table.
            with self.lock:
                self.connection = None
            time.sleep(RETRY)

    def connect(self):
        connection = Connection(socket.create_connection(address(self.service)))
        with self.lock:
            self.connection = connection

    def route_replies(self):
        """Gives each reply to the caller that waits for it."""
        while (reply := self.connection.read()) is not None:
            with self.lock:
                # The service replies in the order of the requests. Does it?
                # Step 2: look for reply.get("key") in the table instead. If nobody waits for it, skip the reply.
                caller = self.waiting.pop(0) if self.waiting else None
            if caller:
                caller.put(reply)
        raise ValueError("it has closed the connection")


def serve_caller(caller, link):
    """Forwards all requests of one caller."""
    try:
        while (request := caller.read()) is not None:
            # Another thread waits for the reply. So a slow reply does not delay the caller's next request.
            threading.Thread(target=answer, args=(caller, link, request), daemon=True).start()
    except (OSError, ValueError) as error:
        print(f"a caller: {error}", file=sys.stderr)


def answer(caller, link, request):
    reply = link.forward(request)
    try:
        caller.send(reply)
    except OSError:
        pass  # the caller has gone, and nobody needs the reply


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


def failure(code, message):
    """A reply that says what went wrong."""
    return {"errorcode": code, "errormessage": message}


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    arguments = dict(enumerate(sys.argv))
    listen = arguments.get(1, "127.0.0.1:9030")
    link = Link(arguments.get(2, "127.0.0.1:9020"))
    try:
        link.connect()  # before the port is open, so the first caller finds the link up
    except OSError as error:
        print(f"the service {link.service}: {error}", file=sys.stderr)
    threading.Thread(target=link.keep_open, daemon=True).start()
    listener = socket.create_server(address(listen))
    print(f"relay listening on {listen}", flush=True)
    while True:
        caller, _ = listener.accept()
        threading.Thread(target=serve_caller, args=(Connection(caller), link), daemon=True).start()


main()
