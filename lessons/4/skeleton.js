// Lesson 4: the gateway. It turns HTTP requests into packets, and replies into HTTP answers.
//
// Start it with two addresses: where it listens, and where the distributor is.
// For example: node skeleton.js 127.0.0.1:8000 127.0.0.1:9000
//
// Node.js has one thread, and `await` lets it do other work. So it needs no workers (that is step 6 of the text).
'use strict';

const http = require('node:http');
const net = require('node:net');

const END = Buffer.from('¶'); // the two bytes C2 B6
const MAX_PACKET = 1024 * 1024;
const RETRY = 3000; // a lost connection is opened again after this many milliseconds
const DEADLINE = 2000; // how many milliseconds a client waits for the reply

const [, , listen = '127.0.0.1:8000', distributor = '127.0.0.1:9000'] = process.argv;

// Step 2: you need a Map of the instances by their host and port: the link and the entry in the list.
// Step 2: you need a Set of every route that was ever in a list, such as 'GET/users'.
// Step 5: you need a number: the instances of one route take turns.

// Keeps a link to every instance in the list.
function readList(list) {
  // Step 2: for each entry that has `urls`: remember its routes. If its host and port are new, make a Link.
  // Drop the instances that are not in the list.
  // Step 7: do not drop them while their link is up. A distributor that has just started does not know them yet.
  // The others: set `link.isDropped`.
  console.log(`${list.length} nodes are registered`);
}

// Makes a packet of an HTTP request, and returns the reply. The body is text.
async function answer(method, target, body) {
  // Step 3: split the target at '?' into path and query. The route is method + path, or else method + the parent, and
  // then the last part of the path is a parameter: GET /users/1 becomes GET/users with {"params":"1"}.
  // If neither is a route: return failure(404, '...'). `decodeURIComponent` throws if a % is wrong: failure(400, '...').
  // Step 4: read the query and the body into one object: the query first, then the body, then the path parameter.
  // A body that begins with '{' is JSON, another one is a form: URLSearchParams reads it.
  // What is neither: return failure(400, '...').
  // Step 5: find an instance that serves the route, is up, and is not `leaving`. If there is none:
  // return failure(503, '...'). Return link.call({ uri: ..., method: ..., params: ... }).
  return failure(501, 'this gateway calls no service yet');
}

const server = http.createServer((request, response) => {
  const pieces = [];
  let length = 0;
  request.on('data', (piece) => {
    length += piece.length;
    if (length <= MAX_PACKET) pieces.push(piece);
  });
  request.on('end', async () => {
    if (length > MAX_PACKET) return respond(response, failure(413, 'the body is longer than 1 MiB'));
    const body = Buffer.concat(pieces).toString();
    respond(response, await answer(request.method, request.url, body));
  });
});

// Sends the HTTP answer. Its body is the whole reply packet.
function respond(response, reply) {
  // Step 1: the status is `reply.status`, if it is there, else the errorcode if it is 400 to 599, else 200.
  const status = 501;
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(reply) + '\n');
}

// The connection to one instance, from lesson 3.
class Link {
  constructor(host, port) {
    this.host = host;
    this.port = port;
    this.isDropped = false;
    this.socket = null; // null while the link is down
    this.lastKey = 0;
    this.pending = new Map(); // the key of each request, and the `resolve` of its caller
    this.open();
  }

  isUp() {
    return this.socket !== null;
  }

  open() {
    const socket = net.connect(this.port, this.host);
    socket.on('connect', () => {
      this.socket = socket;
      console.log(`link ${this.host}:${this.port}: up`);
    });
    // Gives each reply to the caller that waits for it.
    readPackets(socket, (reply) => {
      const resolve = this.pending.get(reply.key);
      if (resolve) resolve(reply);
    });
    socket.on('close', () => {
      this.socket = null;
      for (const resolve of this.pending.values()) resolve(failure(502, 'the link was lost; perhaps it was done'));
      // Step 7: open the link again after RETRY, if the instance is not dropped.
    });
  }

  // Sends a request, and returns the reply.
  async call(request) {
    if (!this.isUp()) return failure(502, 'the link is down');
    const key = ++this.lastKey;
    let timer;
    const reply = new Promise((resolve) => {
      this.pending.set(key, resolve);
      timer = setTimeout(() => resolve(failure(504, 'no reply in time; perhaps it was done')), DEADLINE);
    });
    sendPacket(this.socket, { ...request, key });
    const result = await reply;
    clearTimeout(timer);
    this.pending.delete(key);
    return result;
  }
}

// Registers at the distributor, and again whenever that connection is lost, as in lesson 2.
function join(port) {
  const socket = net.connect(address(distributor));
  socket.on('connect', () => {
    const params = { port, name: 'gate', urls: [], proto: 'pilcrow/1' };
    sendPacket(socket, { uri: '/distributes', method: 'POST', key: 0, params });
  });
  readPackets(socket, (packet) => {
    if (Array.isArray(packet.params)) readList(packet.params);
    else console.log(`the distributor says: ${JSON.stringify(packet)}`);
  });
  socket.on('close', () => setTimeout(join, RETRY, port));
}

// Cuts the bytes of a connection into packets, as in lesson 1.
function readPackets(socket, onPacket) {
  let bytes = Buffer.alloc(0);
  socket.setNoDelay(true);
  socket.on('error', (error) => console.error(error.message));
  socket.on('data', (piece) => {
    bytes = Buffer.concat([bytes, piece]);
    let end;
    while ((end = bytes.indexOf(END)) >= 0) {
      const text = bytes.subarray(0, end).toString();
      bytes = bytes.subarray(end + END.length);
      if (text.trim() === '') continue;
      const packet = parse(text);
      if (packet === null) {
        socket.destroy(new Error('a packet is not a JSON object'));
        return;
      }
      onPacket(packet);
    }
    if (bytes.length > MAX_PACKET) socket.destroy(new Error('a packet is longer than 1 MiB'));
  });
}

// The object in this text, or `null`.
function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

// Sends one packet in one write.
function sendPacket(socket, packet) {
  // A ¶ inside a text would end the packet too early. JSON has a second spelling for it.
  socket.write(JSON.stringify(packet).replaceAll('¶', '\\u00b6') + '¶');
}

// A reply that says what went wrong.
function failure(errorcode, errormessage) {
  return { errorcode, errormessage };
}

function address(text) {
  const colon = text.lastIndexOf(':');
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) };
}

const { host, port } = address(listen);
server.listen(port, host, () => {
  console.log(`gateway listening on ${listen}`);
  join(server.address().port);
});
