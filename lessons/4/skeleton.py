"""Lesson 4: the gateway. It turns HTTP requests into packets, and replies into HTTP answers.

Start it with two addresses: where it listens, and where the distributor is.
For example: python3 skeleton.py 127.0.0.1:8000 127.0.0.1:9000
"""

import http.server
import json
import queue
import socket
import sys
import threading
import time
import urllib.parse

END = "¶".encode()  # the two bytes C2 B6
MAX_PACKET = 1024 * 1024
RETRY = 3  # a lost connection is opened again after this many seconds
DEADLINE = 2  # how many seconds a client waits for the reply


class Failure(Exception):
    """raise Failure(404, "..."): the request gets this reply instead."""


class Gateway:
    def __init__(self):
        self.lock = threading.Lock()  # hold it while you read or change the fields below
        # Step 2: you need a dict of the instances by (host, port): the link and the entry in the list.
        # Step 2: you need a set of every route that was ever in a list, such as "GET/users".
        # Step 5: you need a number: the instances of one route take turns.

    def read_list(self, entries):
        """Keeps a link to every instance in the list."""
        # Step 2: for each entry that has "urls": remember its routes. If its host and port are new, start a Link.
        # Drop the instances that are not in the list.
        # Step 7: do not drop them while their link is up. A distributor that has just started does not know them yet.
        # The others: set `link.is_dropped`.
        print(f"{len(entries)} nodes are registered", flush=True)

    def answer(self, method, target, body):
        """Makes a packet of an HTTP request, and returns the reply. The body is bytes."""
        # Step 3: split the target at "?" into path and query. The route is method + path, or else method + the parent,
        # and then the last part of the path is a parameter: GET /users/1 becomes GET/users with {"params": "1"}.
        # If neither is a route: raise Failure(404, "...").
        # Step 4: read the query and the body into one dict: the query first, then the body, then the path parameter.
        # A body that begins with "{" is JSON, another one is a form: urllib.parse.parse_qsl reads it.
        # What is neither: raise Failure(400, "...").
        # Step 5: find an instance that serves the route, is up, and is not "leaving". If there is none:
        # raise Failure(503, "..."). Return link.call({"uri": ..., "method": ..., "params": ...}).
        raise Failure(501, "this gateway calls no service yet")


class Handler(http.server.BaseHTTPRequestHandler):
    """One HTTP connection. ThreadingHTTPServer gives each a thread (that is step 6 of the text)."""

    protocol_version = "HTTP/1.1"
    gateway = Gateway()

    def handle_request(self):
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_PACKET:
            # We do not read this body, so nothing else can follow on this connection.
            self.close_connection = True
            self.respond(failure(413, "the body is longer than 1 MiB"))
            return
        body = self.rfile.read(int(length))
        try:
            reply = self.gateway.answer(self.command, self.path, body)
        except Failure as error:
            reply = failure(*error.args)
        self.respond(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def respond(self, reply):
        """Sends the HTTP answer. Its body is the whole reply packet."""
        # Step 1: the status is reply["status"], if it is there, else the errorcode if it is 400 to 599, else 200.
        status = 501
        data = json.dumps(reply, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass  # no line for each request


class Link:
    """The connection to one instance, from lesson 3."""

    def __init__(self, host, port):
        self.address = (host, port)
        self.is_dropped = False
        self.lock = threading.Lock()  # hold it while you read or change the fields below
        self.connection = None  # None while the link is down
        self.last_key = 0
        self.pending = {}  # the key of each request, and the queue of its caller
        threading.Thread(target=self.keep_open, daemon=True).start()

    def is_up(self):
        with self.lock:
            return self.connection is not None

    def keep_open(self):
        try:
            self.live()
        except (OSError, ValueError) as error:
            print(f"link {self.address}: {error}", flush=True)
        # Step 7: connect again after RETRY seconds, as long as the instance is not dropped.

    def live(self):
        """One life of the link. Gives each reply to the caller that waits for it."""
        connection = Connection(socket.create_connection(self.address))
        with self.lock:
            self.connection = connection
        print(f"link {self.address}: up", flush=True)
        try:
            while (reply := connection.read()) is not None:
                with self.lock:
                    caller = self.pending.pop(reply.get("key"), None)
                if caller:
                    caller.put(reply)
            raise ValueError("it has closed the connection")
        finally:
            with self.lock:
                self.connection = None
                callers = list(self.pending.values())
                self.pending.clear()
            for caller in callers:
                caller.put(failure(502, "the link was lost; perhaps it was done"))

    def call(self, request):
        """Sends a request, and returns the reply."""
        replies = queue.Queue()
        with self.lock:
            connection = self.connection
            self.last_key += 1
            key = self.last_key
            self.pending[key] = replies
        try:
            if connection is None:
                return failure(502, "the link is down")
            connection.send({**request, "key": key})
            return replies.get(timeout=DEADLINE)
        except queue.Empty:
            return failure(504, "no reply in time; perhaps it was done")
        except OSError as error:
            return failure(502, f"the request was not sent: {error}")
        finally:
            with self.lock:
                self.pending.pop(key, None)


def keep_joined(gateway, distributor, port):
    """Registers at the distributor, and again whenever that connection is lost, as in lesson 2."""
    while True:
        try:
            stay_joined(gateway, distributor, port)
        except (OSError, ValueError) as error:
            print(f"the distributor {distributor}: {error}; trying again in 3 s", flush=True)
        time.sleep(RETRY)


def stay_joined(gateway, distributor, port):
    connection = Connection(socket.create_connection(address(distributor)))
    params = {"port": port, "name": "gate", "urls": [], "proto": "pilcrow/1"}
    connection.send({"uri": "/distributes", "method": "POST", "key": 0, "params": params})
    while (packet := connection.read()) is not None:
        entries = packet.get("params")
        if isinstance(entries, list):
            gateway.read_list(entries)
        else:
            print(f"the distributor {distributor} says: {packet}", flush=True)
    raise ValueError("it has closed the connection")


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


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # how many connections may wait to be accepted


def main():
    arguments = dict(enumerate(sys.argv))
    listen = arguments.get(1, "127.0.0.1:8000")
    distributor = arguments.get(2, "127.0.0.1:9000")
    server = Server(address(listen), Handler)
    print(f"gateway listening on {listen}", flush=True)
    joined = (Handler.gateway, distributor, server.server_port)
    threading.Thread(target=keep_joined, args=joined, daemon=True).start()
    server.serve_forever()


main()
