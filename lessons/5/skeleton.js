// Lesson 5: the distributor. It knows which nodes are registered, and tells everybody whenever that changes.
//
// Start it with the address where it listens. For example: node skeleton.js 127.0.0.1:9000
//
// Node.js has one thread, and `write` does not wait. So no thread has to push (step 4 of the text): send right away.
'use strict';

const net = require('node:net');

const END = Buffer.from('¶'); // the two bytes C2 B6
const MAX_PACKET = 1024 * 1024;

const [, , listen = '127.0.0.1:9000'] = process.argv;

// Step 1: you need a Map of all connections: the socket, and the entry of the node, which is null before it registers.
// The key is the socket. It is not the name: two instances share a name.

const server = net.createServer((socket) => {
  // The address of the peer as we see it. `::ffff:127.0.0.1` is another spelling of `127.0.0.1`.
  const host = (socket.remoteAddress ?? '').replace(/^::ffff:/, '');
  // Step 1: put the socket into the Map, and send the list at once.
  readPackets(socket, (packet) => {
    // Step 2: a POST of /distributes is a registration. Check it: `params` is an object; it has a port (a number, or text
    // with a number in it), urls (an array of strings) and a name (a string). If not: socket.destroy(new Error('...')).
    // Else keep a copy of `params` in the Map, with `host` filled in and the port as a number.
    // Step 4: the list has changed, so send it to everybody who has an entry.
    // Step 6: if the packet has a key above 0, send a reply under this key: success('registered'), success(the entries)
    // for a GET of /distributes, and failure(404, '...') for anything else.
    console.log(`${host}: ${JSON.stringify(packet)}`);
  });
  socket.on('close', () => {
    // Step 3: the connection has ended, for whatever reason. Remove it from the Map.
    // Step 4: if it had an entry, send the list to everybody who has one.
  });
});

// Step 1: write list(). It returns the packet with all entries:
// { uri: '/distributes', method: 'GET', key: 0, params: [...] }
// Step 5: several connections of one host and port are one entry.

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

// A reply of success. The caller adds the key of the request.
function success(results) {
  return { errorcode: 0, errormessage: 'success', results };
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
server.listen(port, host, () => console.log(`distributor listening on ${listen}`));
