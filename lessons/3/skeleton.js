// Lesson 3: a relay. It forwards the requests of many callers to a service, over one connection.
//
// Start it with two addresses: where it listens, and where the service is.
// For example: node skeleton.js 127.0.0.1:9030 127.0.0.1:9020
//
// Node.js has one thread and no channels. A Promise takes their place: its `resolve` is the sender, `await` receives.
'use strict';

const net = require('node:net');

const END = Buffer.from('¶'); // the two bytes C2 B6
const MAX_PACKET = 1024 * 1024;
const RETRY = 3000; // a lost connection is opened again after this many milliseconds
const DEADLINE = 1000; // how many milliseconds a caller waits for the reply

const [, , listen = '127.0.0.1:9030', service = '127.0.0.1:9020'] = process.argv;

// The connection to the service. All callers share it. `null` while the link is down.
let link = null;
// Everybody who waits for a reply, in the order of the requests.
// Step 2: replace the list by a table (a Map): the key of each request, and the `resolve` of its caller.
const waiting = [];
// Step 1: you need a number here: the last key that was used.

// Sends a request to the service, and returns the reply.
async function forward(request) {
  // Step 1: remember the caller's key. Put the next number into `request.key` instead. Put the caller's key back into
  // the reply before you return it.
  const reply = new Promise((resolve) => {
    waiting.push(resolve); // first the entry, then the request: the reply may be fast
    // Step 3: after DEADLINE, `resolve` the promise yourself: setTimeout(() => resolve(failure(504, '...')), DEADLINE).
  });
  // Step 5: if the link is down, return failure(502, '...') at once.
  if (link) sendPacket(link, request);
  // Step 4: after the wait, remove the entry from the table, and call clearTimeout, whatever has happened.
  return await reply;
}

// Connects to the service, and again every 3 s when the connection is lost, as in lesson 2.
function keepOpen() {
  const socket = net.connect(address(service));
  socket.on('connect', () => {
    link = socket;
    openPort();
  });
  // Gives each reply to the caller that waits for it.
  readPackets(socket, (reply) => {
    // The service replies in the order of the requests. Does it?
    // Step 2: look for `reply.key` in the table instead. If nobody waits for it, skip the reply.
    const resolve = waiting.shift();
    if (resolve) resolve(reply);
  });
  socket.on('close', () => {
    link = null;
    // Step 5: everybody in the table waits for a reply that will never come. Resolve each promise with
    // failure(502, '...'), and empty the table.
    setTimeout(keepOpen, RETRY);
    openPort();
  });
}

// Forwards all requests of one caller.
const server = net.createServer((caller) => {
  readPackets(caller, async (request) => {
    const reply = await forward(request);
    // A caller that has gone needs no reply.
    if (caller.writable) sendPacket(caller, reply);
  });
});

// The first attempt to connect comes before the port is open. So the first caller finds the link up.
function openPort() {
  if (server.listening) return;
  const { host, port } = address(listen);
  server.listen(port, host, () => console.log(`relay listening on ${listen}`));
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

keepOpen();
