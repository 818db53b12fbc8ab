"""Lesson 7: a users service with a change feed. As it is, nobody hears of a change.

Run it: python3 7.py 127.0.0.1:9020 127.0.0.1:9000 lesson.db
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

ROUTES = ["DELETE/users", "GET/users", "GET/users/changes", "PATCH/users", "POST/users"]
SCHEMA = """CREATE TABLE IF NOT EXISTS users (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    name  TEXT NOT NULL
)"""
# Step 1: a table `changes` with the columns seq (the primary key), kind, user_id and user (JSON).


class Failure(Exception):
    """A reply that says what went wrong. The code is the HTTP status that fits."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def main():
    open_database().execute(SCHEMA)
    host, port = host_and_port(argument(1, "127.0.0.1:9020"))
    listener = socket.create_server((host, port))
    print(f"users listening on {host}:{port}", flush=True)
    join("users", port, ROUTES)
    accept_all(listener)


def open_database():
    """Opens the file for one thread."""
    # Without an isolation level, we say ourselves where a transaction begins and ends.
    database = sqlite3.connect(argument(3, "data/lesson.db"), timeout=3, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    # Every commit waits until the disk has the data.
    database.execute("PRAGMA synchronous = FULL")
    return database


def serve(stream, peer):
    """The life of one connection. Its requests are answered one after the other."""
    # A peer that breaks the rules loses its connection. The others do not notice.
    try:
        prepare(stream)
        # SQLite lets many connections read while one writes, so each thread has its own.
        database = open_database()
        # Step 2: from step 4 on several threads send to this connection. A threading.Lock() for each connection keeps
        # their packets apart.
        for request in read_packets(stream):
            # Step 4: GET /users/changes starts a thread that runs send_changes. It ends with this connection.
            # Step 6: CANCEL under the key of a stream ends that stream, and gets no reply.
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
        if (method, uri) == ("GET", "/users/changes"):
            raise Failure(501, "step 4: start a stream")
        if uri != "/users":
            raise Failure(404, f"this service has no route {method} {uri}")
        if method == "GET" and params["id"] is not None:
            return success(find_user(database, params["id"]))
        if method == "GET":
            return list_users(database, params)
        if method == "POST":
            return write(database, lambda: create_user(database, params))
        if method == "PATCH":
            return write(database, lambda: change_user(database, params))
        if method == "DELETE":
            return write(database, lambda: delete_user(database, params))
        raise Failure(405, f"{uri} does not accept {method}")
    except Failure as failure:
        return {"errorcode": failure.code, "errormessage": str(failure)}
    except sqlite3.IntegrityError:
        return {"errorcode": 409, "errormessage": "this email is taken"}
    except sqlite3.Error as error:
        return {"errorcode": 500, "errormessage": f"the database failed: {error}"}


def send_changes(database, after, send_packet):
    """Sends all changes with a number above `after`, first the old ones, then each new one."""
    # Step 3: begin with a reply without results:
    #   {"errorcode": 0, "errormessage": "success", "seq": after, "more": True}
    # Then read from the table what has a greater number, in the order of the numbers. Each change is one reply:
    # success({"seq": …, "kind": …, "user_id": …, "user": …}) with "seq" and "more": True.
    # Step 5: do so again and again, and wait 50 ms when there was nothing.


def write(database, change):
    """Runs a write as one transaction: all its statements are saved together, or none of them."""
    # IMMEDIATE: it waits here for its turn, and nobody else writes until it is done.
    database.execute("BEGIN IMMEDIATE")
    try:
        reply = change()
        # COMMIT returns when the disk has it. Only then do we answer: answered means saved.
        database.execute("COMMIT")
        return reply
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


# Step 1: each of these three writes its change into the table, in the same transaction: the next number (the greatest
# one plus 1), the kind (created, updated, deleted), and the user as JSON, or NULL if it was deleted.

def create_user(database, params):
    email, name = params["email"], params["name"]
    if email is None or name is None:
        raise Failure(400, "a user needs email and name")
    user_id = database.execute("INSERT INTO users (email, name) VALUES (?, ?)", (email, name)).lastrowid
    return success({"id": user_id, "email": email, "name": name}) | {"status": 201}


def change_user(database, params):
    if params["email"] is None and params["name"] is None:
        raise Failure(400, "nothing to change: send email or name")
    # NULL, the missing field, keeps the old value.
    sql = "UPDATE users SET email = coalesce(?, email), name = coalesce(?, name) WHERE id = ?"
    database.execute(sql, (params["email"], params["name"], params["id"]))
    return success(find_user(database, params["id"]))


def delete_user(database, params):
    user = find_user(database, params["id"])
    database.execute("DELETE FROM users WHERE id = ?", (params["id"],))
    return success(user)


def find_user(database, user_id):
    row = database.execute("SELECT id, email, name FROM users WHERE id = ?", (user_id,)).fetchone()
    if row is None:
        raise Failure(404, f"no user has id {user_id}")
    return show_user(row)


def list_users(database, params):
    """One page of users. `next` is the `after` of the next page."""
    sql = "SELECT id, email, name FROM users WHERE id > ? ORDER BY id LIMIT ?"
    users = [show_user(row) for row in database.execute(sql, (params["after"] or 0, params["limit"] or 50))]
    return success(users) | {"next": users[-1]["id"] if users else None}


def show_user(row):
    return {"id": row[0], "email": row[1], "name": row[2]}


def read_params(params):
    """The arguments of a request. The last part of a path, such as the 1 of `/users/1`, is called `params`."""
    email, name = params.get("email"), params.get("name")
    if email is not None and not (isinstance(email, str) and len(email) <= 254 and "@" in email.strip("@")):
        raise Failure(400, "email must be an e-mail address, such as kim@example.com")
    if name is not None and not (isinstance(name, str) and name.strip() and len(name) <= 100):
        raise Failure(400, "name must have 1 to 100 characters, not all of them blank")
    numbers = {"id": params.get("params", params.get("id")), "after": params.get("after"), "limit": params.get("limit")}
    return {field: read_number(field, value) for field, value in numbers.items()} | {"email": email, "name": name}


def read_number(field, value):
    """A number from 0 up. In JSON it may be a number, in a path or a query it is text."""
    # SQLite has no greater number than 2 to the power of 63.
    if value is None:
        return None
    if not str(value).isascii() or not str(value).isdigit() or int(value) >= 2**63:
        raise Failure(400, f"{field} must be an integer from 0 up")
    return int(value)


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
