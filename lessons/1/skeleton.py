"""Lesson 1: a server that answers packets. It takes one read for one packet, which is wrong.

Run it: python3 1.py 127.0.0.1:9020
"""
import json
import socket
import sys

# The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
END = "¶".encode()


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9020").rsplit(":", 1)
    listener = socket.create_server((host, int(port)))
    print(f"hello listening on {host}:{port}", flush=True)
    while True:
        stream, peer = listener.accept()
        # A peer that breaks the rules loses its connection. The others do not notice.
        try:
            serve(stream)
        except (OSError, ValueError, RecursionError) as error:
            print(f"{peer}: closed: {error}", flush=True)
        stream.close()


def serve(stream):
    """The life of one connection. Its requests are answered one after the other."""
    for request in read_packets(stream):
        send(stream, answer(request))


def answer(request):
    """The reply to one request. It has the key of the request, so that the asker knows which one it answers."""
    key, params = request.get("key"), request.get("params")
    if not isinstance(params, dict):
        params = {}
    if request.get("method") == "GET" and request.get("uri") == "/hello":
        name = params.get("name", "you")
        return {"key": key, "errorcode": 0, "errormessage": "success", "results": f"hello {name}"}
    return {"key": key, "errorcode": 404, "errormessage": "this service has only GET /hello"}


def read_packets(stream):
    """Yields one packet after the other, until the peer has closed the connection."""
    # Step 1: keep what has arrived. This variable needs a place outside the loop: received = b""
    while True:
        # Step 3: this takes one read for one packet. Collect the pieces, and yield each whole packet.
        piece = stream.recv(8192)
        if not piece:
            return
        # Step 2: search for END in the bytes you have. What follows it is the beginning of the next packet.
        # Decode only whole packets: half of a character is no text.
        yield parse(piece.removesuffix(END))
        # Step 4: skip white space between packets. Raise ValueError when a packet is longer than 1 MiB.


def parse(data):
    # Both a wrong character and wrong JSON are a ValueError.
    packet = json.loads(data.decode())
    if not isinstance(packet, dict):
        raise ValueError("a packet is not a JSON object")
    return packet


def send(stream, packet):
    """Sends one packet in one write."""
    # Step 5: what happens to a name with a `¶`? JSON has a second spelling for it, \u00b6.
    text = json.dumps(packet, ensure_ascii=False) + "¶"
    stream.sendall(text.encode())


main()
