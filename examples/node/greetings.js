// A complete Pilcrow service without a framework. Run it beside the three processes, then ask the gateway:
//   node greetings.js [port]             curl 'localhost:8000/hello?name=Kim'
'use strict';
const net = require('node:net');
const { randomUUID } = require('node:crypto');

const END_OF_FRAME = Buffer.from('¶'); // C2 B6. In UTF-8, C2 only ever begins a character: no false alarm.
const MAX_FRAME_BYTES = 1024 * 1024;
const PORT = Number(process.argv[2] ?? process.env.PORT ?? 9050); // 0: any free port
const DISTRIBUTOR = { host: process.env.HOST ?? '127.0.0.1', port: Number(process.env.DIS_PORT ?? 9000) };
const ID = randomUUID(); // The same at every registration, so that others know us again.

// The service itself: the handlers by route. Each takes `params` and gives the rest of the reply.
const routes = {
  'GET/hello': ({ name }) =>
    name ? success(`Hello, ${name}!`) : failure(400, 'say whom to greet, as in /hello?name=Kim'),
};
const success = (results) => ({ errorcode: 0, errormessage: 'success', results });
const failure = (errorcode, errormessage) => ({ errorcode, errormessage });

// Turns chunks into packets. TCP keeps bytes in order but knows no packets: a chunk may hold half of one
// or three at once, so bytes are collected until the delimiter, and only whole frames become text.
function packetReader(onPacket) {
  const utf8 = new TextDecoder('utf-8', { fatal: true });
  let rest = Buffer.alloc(0);
  return (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    for (let end; (end = rest.indexOf(END_OF_FRAME)) >= 0; rest = rest.subarray(end + END_OF_FRAME.length)) {
      const text = utf8.decode(rest.subarray(0, end));
      if (text.trim() !== '') onPacket(parsePacket(text));
    }
    if (rest.length > MAX_FRAME_BYTES) throw new Error('the frame is too long');
  };
}

function parsePacket(text) {
  const packet = JSON.parse(text);
  const isObject = typeof packet === 'object' && packet !== null && !Array.isArray(packet);
  if (!isObject) throw new Error('a frame must be one JSON object');
  return packet;
}

// One packet, one write. JSON may spell any character as an escape; spelling ¶ so keeps it off the wire.
function send(socket, packet) {
  socket.write(JSON.stringify(packet).replaceAll('¶', '\\u00b6') + '¶');
}

function answer(socket, { key, method, uri, params }) {
  if (uri === '/distributes' || method === 'CANCEL') return; // A notice, and we have no streams to cancel.
  const handler = Object.hasOwn(routes, method + uri) && routes[method + uri];
  const reply = handler ? handler(params ?? {}) : failure(404, `greetings-node has no ${method} ${uri}`);
  // The asker finds its request by the key. Some gateways of the course write it among the arguments, and all of
  // them begin with key 0, which is a key like any other.
  send(socket, { key: key ?? params?.key, ...reply });
}

// The answering side: gateways, and services that want a greeting, connect here.
const server = net.createServer((socket) => {
  const read = packetReader((packet) => answer(socket, packet));
  socket.setNoDelay(true);
  socket.on('error', (error) => console.error(`a peer is lost: ${error.message}`));
  socket.on('data', (chunk) => {
    try {
      read(chunk);
    } catch (error) { // Where the next frame begins is anybody's guess now: end this connection, and only this.
      socket.destroy(error);
    }
  });
});

// The registration lives as long as its connection: keep one open, and dial again whenever it ends.
function stayRegistered(port) {
  const socket = net.connect({ ...DISTRIBUTOR, noDelay: true, keepAlive: true }, () => {
    const params = { port, name: 'greetings-node', urls: Object.keys(routes), proto: 'pilcrow/1', id: ID };
    send(socket, { uri: '/distributes', method: 'POST', key: 0, params });
  });
  socket.resume(); // The distributor sends us the list of all services; we call nobody, so let it pass.
  socket.on('error', (error) => console.error(`no distributor, next try in 3 s: ${error.message}`));
  socket.on('close', () => setTimeout(stayRegistered, 3000, port));
}

server.on('error', (error) => {
  console.error(`cannot listen on port ${PORT}: ${error.message}`);
  process.exitCode = 1;
});
server.listen(PORT, '127.0.0.1', () => {
  const { port } = server.address();
  console.log(`greetings-node listening on 127.0.0.1:${port}`);
  stayRegistered(port);
});
