// Lesson 2: a service that joins the cluster. As it is, nobody knows it.
//
// Node.js calls `serve` for each connection and never waits inside it, so a slow client blocks nobody. Steps 1 and 2 are
// about threads, which you do not need. Begin with step 3.
//
// Run it: node 2.js 127.0.0.1:9020 127.0.0.1:9000
'use strict';
const net = require('net');

// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END = Buffer.from('¶');
// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET = 1024 * 1024;

const [host, port] = argument(1, '127.0.0.1:9020');
const server = net.createServer({ noDelay: true }, serve);
server.listen(port, host, () => {
  console.log(`hello listening on ${host}:${port}`);
  // Step 4: join('hello', port, ['GET/hello']) tells the distributor, argument(2, '127.0.0.1:9000'), that we are here.
  // Send it this packet:
  //   { uri: '/distributes', method: 'POST', key: 0, params: { port, name, urls, proto: 'pilcrow/1' } }
  // Step 5: a registration lives as long as its connection. Keep it open and read what comes.
  // Step 6: when this connection is lost, or cannot be opened, try again after 3 s, as often as necessary.
});

// An argument by its position, or else what is usual: a host and a port.
function argument(position, usual) {
  const address = process.argv[position + 1] || usual;
  const colon = address.lastIndexOf(':');
  return [address.slice(0, colon), Number(address.slice(colon + 1))];
}

// The life of one connection. Its requests are answered one after the other.
function serve(stream) {
  readPackets(stream, (request) => send(stream, answer(request)));
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

// Calls `onPacket` with each packet.
function readPackets(stream, onPacket) {
  let received = Buffer.alloc(0);
  // Step 3: a peer that sends half a packet and then nothing keeps its connection for ever. Give a packet that has
  // begun 10 s (setTimeout, then stream.destroy). Between packets, silence is fine.
  stream.on('data', (piece) => {
    // A peer that breaks the rules loses its connection. The others do not notice.
    try {
      received = Buffer.concat([received, piece]);
      for (let end; (end = received.indexOf(END)) >= 0; ) {
        const text = received.subarray(0, end).toString();
        received = received.subarray(end + END.length);
        // White space between packets does no harm: people who type packets press Enter.
        if (text.trim()) onPacket(parse(text));
      }
      if (received.length > MAX_PACKET) throw new Error('a packet is longer than 1 MiB');
    } catch (error) {
      console.log(`closed: ${error.message}`);
      stream.destroy();
    }
  });
  // Without this, a lost connection would end the program.
  stream.on('error', (error) => console.log(`closed: ${error.message}`));
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
  // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
  stream.write(JSON.stringify(packet).replaceAll('¶', '\\u00b6') + '¶');
}
