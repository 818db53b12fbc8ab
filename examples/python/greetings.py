"""A complete Pilcrow service with nothing but Python's standard library.

Run it beside the three processes, then ask the gateway:
    python3 greetings.py [port]          curl 'localhost:8000/hi?name=Kim'
"""
import json
import os
import socket
import socketserver
import sys
import threading
import time
import uuid

END_OF_FRAME = "¶".encode()  # C2 B6. In UTF-8, C2 only ever begins a character: no false alarm.
MAX_FRAME_BYTES = 1024 * 1024
RECONNECT_SECONDS = 3
PORT = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", 9070))  # 0: any free port
DISTRIBUTOR = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("DIS_PORT", 9000)))
ID = str(uuid.uuid4())  # The same at every registration, so that others recognise this process.


# ---- The service itself: each handler takes `params` and returns the rest of the reply.

def greet(params):
    name = params.get("name")
    if not isinstance(name, str) or not name:
        return failure(400, "say whom to greet, as in /hi?name=Kim")
    return success(f"Hello, {name}!")


def success(results):
    return {"errorcode": 0, "errormessage": "success", "results": results}


def failure(errorcode, errormessage):
    return {"errorcode": errorcode, "errormessage": errormessage}


ROUTES = {"GET/hi": greet}


# ---- The wire: packets out of bytes, and bytes out of packets.

def receive_packets(connection):
    """Yields one packet after the other until the connection ends.

    TCP keeps bytes in order but knows no packets: one `recv` may return half a packet, or three packets.
    So this function collects bytes until the delimiter, and decodes only whole frames.
    """
    received = bytearray()
    while chunk := connection.recv(64 * 1024):
        searched = max(len(received) - 1, 0)  # The last byte may be the first half of the delimiter.
        received += chunk
        while (end := received.find(END_OF_FRAME, searched)) >= 0:
            text = received[:end].decode("utf-8")
            del received[: end + len(END_OF_FRAME)]
            searched = 0
            if text.strip():  # Empty frames and white space between frames mean nothing.
                yield parse_packet(text)
        if len(received) > MAX_FRAME_BYTES:
            raise ValueError(f"the frame is longer than {MAX_FRAME_BYTES} bytes")


def parse_packet(text):
    packet = json.loads(text)
    if not isinstance(packet, dict):
        raise ValueError("a frame must be one JSON object")
    return packet


def send(connection, packet):
    """Sends one packet in one write. `json.dumps` escapes every character that is not ASCII, so no `¶` stands raw."""
    connection.sendall(json.dumps(packet, allow_nan=False).encode() + END_OF_FRAME)


# ---- The answering side: gateways, and services that want a greeting, connect here.

class Peer(socketserver.BaseRequestHandler):
    """One connection to this service, on a thread of its own."""

    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        try:
            for packet in receive_packets(self.request):
                answer(self.request, packet)
        except (OSError, ValueError, RecursionError) as error:
            # Nobody knows where the next frame begins: close this connection, and only this one.
            print(f"{self.client_address[0]} closed: {error}", file=sys.stderr)


def answer(connection, packet):
    method, uri = packet.get("method"), packet.get("uri")
    if uri == "/distributes" or method == "CANCEL":
        return  # A notice, and we have no streams to cancel.
    params = packet.get("params", {})
    handler = ROUTES.get(f"{method}{uri}")
    if handler is None:
        reply = failure(404, f"greetings-python has no {method} {uri}")
    elif not isinstance(params, dict):
        reply = failure(400, "params must be a JSON object")
    else:
        reply = handler(params)
    send(connection, key_of(packet) | reply)


def key_of(packet):
    """The key to send back, untouched: the asker finds its request by it. Key 0 is a key like any other."""
    if "key" in packet:
        return {"key": packet["key"]}
    params = packet.get("params")
    if isinstance(params, dict) and "key" in params:
        return {"key": params["key"]}  # Some gateways of the course write it among the arguments.
    return {}


# ---- The registration lives as long as its connection: keep one open, and connect again whenever it ends.

def stay_registered(port):
    params = {"port": port, "name": "greetings-python", "urls": list(ROUTES), "proto": "pilcrow/1", "id": ID}
    while True:
        try:
            register({"uri": "/distributes", "method": "POST", "key": 0, "params": params})
            problem = "it closed the connection"
        except OSError as error:
            problem = error
        print(f"no distributor, next try in {RECONNECT_SECONDS} s: {problem}", file=sys.stderr)
        time.sleep(RECONNECT_SECONDS)


def register(registration):
    """Registers, and returns when the distributor has closed the connection."""
    with socket.create_connection(DISTRIBUTOR, timeout=RECONNECT_SECONDS) as connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
        send(connection, registration)
        while connection.recv(64 * 1024):
            pass  # The distributor sends the list of all services. We call nobody, so we do not read it.


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = os.name != "nt"  # Windows would let two processes share the port.
    daemon_threads = True  # They do not keep the process alive.
    request_queue_size = 128


def main():
    try:
        server = Server(("127.0.0.1", PORT), Peer)
    except OSError as error:
        sys.exit(f"cannot listen on port {PORT}: {error}")
    port = server.server_address[1]
    print(f"greetings-python listening on 127.0.0.1:{port}", flush=True)
    threading.Thread(target=stay_registered, args=(port,), name="registration", daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C ends the service.


if __name__ == "__main__":
    main()
