"""Lesson 6: a users service on SQLite. As it is, it has no users.

Run it: python3 6.py 127.0.0.1:9020 127.0.0.1:9000 lesson.db
"""
import json
import socket
import sqlite3
import sys
import threading
import time

# The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
END = "¶".encode()
# A longer packet is an error. Without a limit, one peer could fill our memory.
MAX_PACKET = 1024 * 1024
# A packet that has begun must be complete after this time, in seconds.
PACKET_TIME = 10
# A lost connection is opened again after this time, as often as necessary.
RETRY = 3
# Each connection costs a thread, so their number has a limit.
MAX_CONNECTIONS = 256

ROUTES = ["DELETE/users", "GET/users", "PATCH/users", "POST/users"]
# An id that was deleted is never given out again (AUTOINCREMENT). SQLite itself sees to it that no two users have the
# same e-mail address, however it is written (NOCASE).
SCHEMA = """CREATE TABLE IF NOT EXISTS users (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    name  TEXT NOT NULL
)"""


class Failure(Exception):
    """A reply that says what went wrong. The code is the HTTP status that fits."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def main():
    # Step 1: create the table: open_database().execute(SCHEMA)
    host, port = host_and_port(argument(1, "127.0.0.1:9020"))
    listener = socket.create_server((host, port))
    print(f"users listening on {host}:{port}", flush=True)
    join("users", port, ROUTES)
    accept_all(listener)


def open_database():
    """Opens the file for one thread."""
    # Without an isolation level, we say ourselves where a transaction begins and ends.
    database = sqlite3.connect(argument(3, "data/lesson.db"), isolation_level=None)
    # Step 1: execute "PRAGMA journal_mode = WAL" and "PRAGMA synchronous = FULL".
    return database


def serve(stream, peer):
    """The life of one connection. Its requests are answered one after the other."""
    # A peer that breaks the rules loses its connection. The others do not notice.
    try:
        prepare(stream)
        # SQLite lets many connections read while one writes, so each thread has its own.
        database = open_database()
        for request in read_packets(stream):
            reply = answer(database, request)
            reply["key"] = request.get("key")
            send(stream, reply)
        database.close()
    except (OSError, ValueError, RecursionError, sqlite3.Error) as error:
        print(f"{peer}: closed: {error}", flush=True)
    stream.close()


def answer(database, request):
    method, uri, params = request.get("method"), request.get("uri"), request.get("params")
    try:
        params = read_params(params if isinstance(params, dict) else {})
        if uri != "/users":
            raise Failure(404, f"this service has no route {method} {uri}")
        if method == "GET" and params["id"] is not None:
            return success(find_user(database, params["id"]))
        if method == "GET":
            return list_users(database)
        if method == "POST":
            return write(database, lambda: create_user(database, params))
        if method == "PATCH":
            return write(database, lambda: change_user(database, params))
        if method == "DELETE":
            return write(database, lambda: delete_user(database, params))
        raise Failure(405, f"{uri} does not accept {method}")
    except Failure as failure:
        return {"errorcode": failure.code, "errormessage": str(failure)}
    except sqlite3.Error as error:
        # Step 2: sqlite3.IntegrityError means that the e-mail address is taken. Answer 409.
        return {"errorcode": 500, "errormessage": f"the database failed: {error}"}


def write(database, change):
    """Runs a write as one transaction: all its statements are saved together, or none of them."""
    # Step 4: as it is, each statement is saved alone. Execute "BEGIN IMMEDIATE" before the change, "COMMIT" after it, and
    # "ROLLBACK" if it fails. "COMMIT" returns when the disk has it. Only then do we answer: answered means saved.
    return change()


def create_user(database, params):
    # Step 2: insert the user: database.execute with `?` in the statement, and `lastrowid`.
    # The reply has "status": 201.
    raise Failure(501, "step 2: create a user")


def change_user(database, params):
    # Step 5: a field that is None keeps its old value (coalesce). A user who does not exist is a Failure(404, …).
    raise Failure(501, "step 5: change a user")


def delete_user(database, params):
    # Step 5: the reply has the user as it was.
    raise Failure(501, "step 5: delete a user")


def find_user(database, user_id):
    # Step 3: return {"id": …, "email": …, "name": …}, or raise Failure(404, …).
    raise Failure(501, "step 3: find a user")


def list_users(database):
    # Step 3: at least the first 50 users.
    return success([])


def read_params(params):
    """The arguments of a request. The last part of a path, such as the 1 of `/users/1`, is called `params`."""
    user_id = params.get("params", params.get("id"))
    # Step 6: an id that is no number, an address without an `@` and an empty name are a Failure(400, …).
    return {"id": user_id, "email": params.get("email"), "name": params.get("name")}


def success(results):
    """A reply of success. The caller adds the key of the request."""
    return {"errorcode": 0, "errormessage": "success", "results": results}


# From here on everything is as in lessons 1 and 2.


def accept_all(listener):
    """Accepts connections for ever."""
    while True:
        stream, peer = listener.accept()
        # Each connection costs a thread, so their number has a limit.
        if threading.active_count() > MAX_CONNECTIONS:
            stream.close()
            continue
        threading.Thread(target=serve, args=(stream, peer), daemon=True).start()


def argument(position, usual):
    """An argument by its position, or else what is usual."""
    return sys.argv[position] if len(sys.argv) > position else usual


def host_and_port(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def join(name, port, urls):
    """Registers at the distributor, and again whenever that connection is lost."""
    distributor = argument(2, "127.0.0.1:9000")
    params = {"port": port, "name": name, "urls": urls, "proto": "pilcrow/1"}
    registration = {"uri": "/distributes", "method": "POST", "key": 0, "params": params}
    threading.Thread(target=stay_joined, args=(distributor, registration), daemon=True).start()


def stay_joined(distributor, registration):
    # A distributor may start after us, and it may start again. So we try for ever.
    while True:
        try:
            # A registration lives as long as its connection. So we keep it open and read what comes.
            with socket.create_connection(host_and_port(distributor), timeout=RETRY) as stream:
                prepare(stream)
                send(stream, registration)
                for packet in read_packets(stream):
                    pass
            error = "the connection is closed"
        except (OSError, ValueError, RecursionError) as lost:
            error = lost
        print(f"the distributor {distributor}: {error}; trying again in 3 s", flush=True)
        time.sleep(RETRY)


def prepare(stream):
    """Small packets leave at once (TCP_NODELAY), and no read or write waits for ever."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    stream.settimeout(PACKET_TIME)


def read_packets(stream):
    """Yields one packet after the other, until the peer has closed the connection."""
    received, began = b"", time.monotonic()
    while True:
        # A packet that has begun must soon be complete. Between packets, silence is fine.
        is_between = not received.strip()
        if not is_between and time.monotonic() - began > PACKET_TIME:
            raise ValueError("a packet was not complete after 10 s")
        try:
            piece = stream.recv(8192)
        except TimeoutError:
            continue
        if not piece:
            return
        if is_between:
            began = time.monotonic()
        received += piece
        while END in received:
            packet, received = received.split(END, 1)
            began = time.monotonic()
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


if __name__ == "__main__":
    main()
