"""Lesson 2: a service that joins the cluster. It serves one connection after the other, and nobody knows it.

Run it: python3 2.py 127.0.0.1:9020 127.0.0.1:9000
"""
import json
import socket
import sys

# The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
END = "¶".encode()
# A longer packet is an error. Without a limit, one peer could fill our memory.
MAX_PACKET = 1024 * 1024


def main():
    host, port = argument(1, "127.0.0.1:9020")
    listener = socket.create_server((host, port))
    print(f"hello listening on {host}:{port}", flush=True)
    # Step 4: join("hello", port, ["GET/hello"]) tells the distributor, argument(2, "127.0.0.1:9000"), that we are
    # here. Send it this packet:
    #   {"uri": "/distributes", "method": "POST", "key": 0,
    #    "params": {"port": port, "name": name, "urls": urls, "proto": "pilcrow/1"}}
    # Step 5: a registration lives as long as its connection. Keep it open and read what comes, in a thread.
    # Step 6: when this connection is lost, or cannot be opened, try again after 3 s, as often as necessary.
    while True:
        stream, peer = listener.accept()
        # Step 1: while this connection lives, no other one is served. Give each a thread:
        #   threading.Thread(target=serve, args=(stream, peer), daemon=True).start()
        # Step 2: each connection costs a thread. Close it at once if 256 are open.
        serve(stream, peer)


def argument(position, usual):
    """An argument by its position, or else what is usual: a host and a port."""
    host, port = (sys.argv[position] if len(sys.argv) > position else usual).rsplit(":", 1)
    return host, int(port)


def serve(stream, peer):
    """The life of one connection. Its requests are answered one after the other."""
    # A peer that breaks the rules loses its connection. The others do not notice.
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        for request in read_packets(stream):
            send(stream, answer(request))
    except (OSError, ValueError, RecursionError) as error:
        print(f"{peer}: closed: {error}", flush=True)
    stream.close()


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
    received = b""
    # Step 3: a peer that sends half a packet and then nothing keeps its thread for ever. Give a packet that has begun
    # 10 s (settimeout). Between packets, silence is fine.
    while piece := stream.recv(8192):
        received += piece
        while END in received:
            packet, received = received.split(END, 1)
            # White space between packets does no harm: people who type packets press Enter.
            if packet.strip():
                yield parse(packet)
        if len(received) > MAX_PACKET:
            raise ValueError("a packet is longer than 1 MiB")


def parse(data):
    # Both a wrong character and wrong JSON are a ValueError.
    packet = json.loads(data.decode())
    if not isinstance(packet, dict):
        raise ValueError("a packet is not a JSON object")
    return packet


def send(stream, packet):
    """Sends one packet in one write."""
    # A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
    text = json.dumps(packet, ensure_ascii=False).replace("¶", "\\u00b6") + "¶"
    stream.sendall(text.encode())


main()
