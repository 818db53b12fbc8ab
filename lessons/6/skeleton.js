// Lesson 6: a users service. As it is, it has no users.
//
// Where to keep them: Node.js 22.5 and later have SQLite (require('node:sqlite')). With an older one, append each change
// to a file (fs.writeSync, then fs.fsyncSync), and read the file at the start.
//
// Run it: node 6.js 127.0.0.1:9020 127.0.0.1:9000 lesson.db
'use strict';
const net = require('net');

// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END = Buffer.from('¶');
// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET = 1024 * 1024;
// A packet that has begun must be complete after this time, in milliseconds.
const PACKET_TIME = 10_000;
// A lost connection is opened again after this time, as often as necessary.
const RETRY = 3_000;

const ROUTES = ['DELETE/users', 'GET/users', 'PATCH/users', 'POST/users'];
// The file of the users.
const DATABASE = argument(3, 'data/lesson.db');

const [host, port] = hostAndPort(argument(1, '127.0.0.1:9020'));
// Step 1: open the file before the port. A caller that comes early must not see an empty list.
const server = net.createServer({ noDelay: true }, serve);
server.listen(port, host, () => {
  console.log(`users listening on ${host}:${port}`);
  join('users', port, ROUTES);
});

// The life of one connection. Its requests are answered one after the other.
function serve(stream) {
  readPackets(stream, (request) => send(stream, { key: request.key, ...answer(request) }));
}

// The reply of a success, or a failure with the HTTP status that fits.
function answer(request) {
  const { method, uri } = request;
  const params = readParams(request.params || {});
  if (uri !== '/users') return failure(404, `this service has no route ${method} ${uri}`);
  if (method === 'GET') return params.id === undefined ? listUsers() : findUser(params.id);
  if (method === 'POST') return createUser(params);
  if (method === 'PATCH') return changeUser(params);
  if (method === 'DELETE') return deleteUser(params);
  return failure(405, `${uri} does not accept ${method}`);
}

function createUser(params) {
  // Step 2: { id, email, name } under an id that was never used. 409 if somebody has this e-mail address, also if it is
  // written with other capitals. The reply is success(user), with status: 201.
  return failure(501, 'step 2: create a user');
}

function findUser(id) {
  // Step 3: success(user), or failure(404, …).
  return failure(501, 'step 3: find a user');
}

function listUsers() {
  // Step 3: at least the first 50 users.
  return success([]);
}

// Step 4: answered means saved. Reply only when the disk has the change.

function changeUser(params) {
  // Step 5: a field that is undefined keeps its old value.
  return failure(501, 'step 5: change a user');
}

function deleteUser(params) {
  // Step 5: the reply has the user as it was.
  return failure(501, 'step 5: delete a user');
}

// The arguments of a request. The last part of a path, such as the 1 of `/users/1`, is called `params`.
function readParams(params) {
  const id = params.params === undefined ? params.id : params.params;
  // Step 6: answer 400 to an id that is no number, an address without an `@` and an empty name.
  return { id, email: params.email, name: params.name };
}

function success(results) {
  return { errorcode: 0, errormessage: 'success', results };
}

function failure(errorcode, errormessage) {
  return { errorcode, errormessage };
}

// From here on everything is as in lessons 1 and 2.

// An argument by its position, or else what is usual.
function argument(position, usual) {
  return process.argv[position + 1] || usual;
}

function hostAndPort(address) {
  const colon = address.lastIndexOf(':');
  return [address.slice(0, colon), Number(address.slice(colon + 1))];
}

// Registers at the distributor, and again whenever that connection is lost.
function join(name, port, urls) {
  const [distributorHost, distributorPort] = hostAndPort(argument(2, '127.0.0.1:9000'));
  const params = { port, name, urls, proto: 'pilcrow/1' };
  const stream = net.connect({ host: distributorHost, port: distributorPort, noDelay: true });
  stream.on('connect', () => send(stream, { uri: '/distributes', method: 'POST', key: 0, params }));
  // A registration lives as long as its connection. So we keep it open and read what comes.
  readPackets(stream, () => {});
  // A distributor may start after us, and it may start again. So we try for ever.
  stream.on('close', () => setTimeout(join, RETRY, name, port, urls));
}

// Calls `onPacket` with each packet.
function readPackets(stream, onPacket) {
  let received = Buffer.alloc(0);
  let timer = null;
  stream.on('data', (piece) => {
    // A peer that breaks the rules loses its connection. The others do not notice.
    try {
      received = Buffer.concat([received, piece]);
      let found = false;
      for (let end; (end = received.indexOf(END)) >= 0; ) {
        const text = received.subarray(0, end).toString();
        received = received.subarray(end + END.length);
        found = true;
        // White space between packets does no harm: people who type packets press Enter.
        if (text.trim()) onPacket(parse(text));
      }
      if (received.length > MAX_PACKET) throw new Error('a packet is longer than 1 MiB');
      // A packet that has begun must soon be complete. Between packets, silence is fine.
      const isBetween = received.toString().trim() === '';
      if (isBetween || found) timer = clearTimeout(timer);
      const giveUp = () => stream.destroy(new Error('a packet was not complete after 10 s'));
      if (!isBetween && !timer) timer = setTimeout(giveUp, PACKET_TIME);
    } catch (error) {
      console.log(`closed: ${error.message}`);
      stream.destroy();
    }
  });
  stream.on('close', () => clearTimeout(timer));
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
