// Lesson 7: a users service with a change feed. As it is, nobody hears of a change.
//
// Begin with what you have written in lesson 6: copy its functions into this file. Several processes use one database
// here, so it must be SQLite (require('node:sqlite'), in Node.js 22.5 and later).
//
// Run it: node 7.js 127.0.0.1:9020 127.0.0.1:9000 lesson.db
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

const ROUTES = ['DELETE/users', 'GET/users', 'GET/users/changes', 'PATCH/users', 'POST/users'];
// The file of the users.
const DATABASE = argument(3, 'data/lesson.db');

const [host, port] = hostAndPort(argument(1, '127.0.0.1:9020'));
// Open the file here, before the port. A caller that comes early must not see an empty list.
const server = net.createServer({ noDelay: true }, serve);
server.listen(port, host, () => {
  console.log(`users listening on ${host}:${port}`);
  join('users', port, ROUTES);
});

// The life of one connection. Its requests are answered one after the other.
function serve(stream) {
  // Step 2 is about threads, which you do not need.
  readPackets(stream, (request) => {
    // Step 4: GET /users/changes starts sendChanges. It ends with this connection.
    // Step 6: CANCEL under the key of a stream ends that stream, and gets no reply.
    send(stream, { key: request.key, ...answer(request) });
  });
}

// Sends all changes with a number above `after`, first the old ones, then each new one.
function sendChanges(stream, key, after) {
  // Step 3: begin with a reply without results: { key, errorcode: 0, errormessage: 'success', seq: after, more: true }.
  // Then read from the table what has a greater number, in the order of the numbers. Each change is one reply:
  // { key, ...success({ seq, kind, user_id, user }), seq, more: true }
  // Step 5: do so again and again, and wait 50 ms when there was nothing (setTimeout).
}

// Step 1: createUser, changeUser and deleteUser write their change into a table `changes`, in the same transaction: the
// next number (the greatest one plus 1), the kind (created, updated, deleted), and the user as JSON, or NULL if it was
// deleted.

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
  return failure(501, 'copy this from lesson 6');
}

function findUser(id) {
  return failure(501, 'copy this from lesson 6');
}

function listUsers() {
  return success([]);
}

function changeUser(params) {
  return failure(501, 'copy this from lesson 6');
}

function deleteUser(params) {
  return failure(501, 'copy this from lesson 6');
}

// The arguments of a request. The last part of a path, such as the 1 of `/users/1`, is called `params`.
function readParams(params) {
  const id = params.params === undefined ? params.id : params.params;
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
