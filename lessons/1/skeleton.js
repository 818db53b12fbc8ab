// Lesson 1: a server that answers packets. It takes one piece of data for one packet, which is wrong.
//
// Run it: node 1.js 127.0.0.1:9020
'use strict';
const net = require('net');

// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END = Buffer.from('¶');

const [host, port] = splitAddress(process.argv[2] || '127.0.0.1:9020');
const server = net.createServer(serve);
server.listen(port, host, () => console.log(`hello listening on ${host}:${port}`));

// The life of one connection.
function serve(stream) {
  // Step 1: keep what has arrived. This variable belongs here: let received = Buffer.alloc(0);
  stream.on('data', (piece) => {
    // A peer that breaks the rules loses its connection. The others do not notice.
    try {
      // Step 3: this takes one piece for one packet. Collect the pieces (Buffer.concat), and answer each whole packet.
      // Step 2: search for END in the bytes you have (indexOf). What follows it is the beginning of the next packet.
      // Decode only whole packets: half of a character is no text.
      const text = piece.toString();
      const request = parse(text.endsWith('¶') ? text.slice(0, -1) : text);
      send(stream, answer(request));
      // Step 4: skip white space between packets. Throw an error when a packet is longer than 1 MiB.
    } catch (error) {
      console.log(`closed: ${error.message}`);
      stream.destroy();
    }
  });
  // Without this, a lost connection would end the program.
  stream.on('error', (error) => console.log(`closed: ${error.message}`));
}

// The reply to one request. It has the key of the request, so that the asker knows which one it answers.
function answer(request) {
  const { key, method, uri } = request;
  const params = request.params || {};
  if (method === 'GET' && uri === '/hello') {
    const name = 'name' in params ? params.name : 'you';
    return { key, errorcode: 0, errormessage: 'success', results: `hello ${name}` };
  }
  return { key, errorcode: 404, errormessage: 'this service has only GET /hello' };
}

function parse(text) {
  const packet = JSON.parse(text);
  if (packet === null || typeof packet !== 'object' || Array.isArray(packet)) {
    throw new Error('a packet is not a JSON object');
  }
  return packet;
}

// Sends one packet in one write.
function send(stream, packet) {
  // Step 5: what happens to a name with a `¶`? JSON has a second spelling for it, \u00b6.
  stream.write(JSON.stringify(packet) + '¶');
}

function splitAddress(address) {
  const colon = address.lastIndexOf(':');
  return [address.slice(0, colon), Number(address.slice(colon + 1))];
}
