// Plays the nodes of the Node.js course: a service, a gateway, a distributor. Each has the limits that the course code
// really has (docs/protocol.md, "course nodes"): nothing is escaped, nobody has a timeout, keys begin at 0.
// A node that reads what it cannot parse dies: an uncaught exception, exit status 1.
//
//   node course.js service <distributor-port> [--name NAME] [--urls GET/goods,POST/goods] [--store | --calls /users]
//   node course.js gate <distributor-port>
//   node course.js distributor [--fragile]
//
// Every node takes `--dialect template|book`, `--port N` and `--merge`, and prints
// `course <role> listening on 127.0.0.1:PORT` on stdout. `--merge` gives it the buffer that most copies have: see
// `packetReader`. A service answers with what it was asked. With `--store` it keeps what is posted and lists it. With
// `--calls` it asks another service first.
'use strict';
const http = require('node:http');
const net = require('node:net');
const { parseArgs } = require('node:util');

const MARK = '¶';
const RETRY_MS = 3000;
const DIALECTS = ['template', 'book'];

const { positionals, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    dialect: { type: 'string', default: 'template' },
    name: { type: 'string', default: 'goods' },
    urls: { type: 'string', default: 'GET/goods,POST/goods' },
    port: { type: 'string', default: '0' },
    store: { type: 'boolean', default: false },
    calls: { type: 'string' },
    fragile: { type: 'boolean', default: false },
    merge: { type: 'boolean', default: false },
  },
});
const roles = { service, gate, distributor };
const [role, distributorPort] = positionals;
const book = options.dialect === 'book';

if (!Object.hasOwn(roles, role) || !DIALECTS.includes(options.dialect)) {
  console.error('usage: see the head of course.js');
  process.exit(2);
}
roles[role]();

// ---- what all of them share

// Takes every chunk for a number of whole packets. The node dies of a split packet, of an empty frame, and of a ¶ inside
// a string, because the pieces are no JSON. A chunk has at most 64 KiB, so more than that at once is split too.
// With `--merge` a beginning is kept for the next chunk, but, as in the course, it is never thrown away: the split
// packet arrives, and the node dies of the next one.
function packetReader(onPacket) {
  let merge = '';
  return (chunk) => {
    const frames = (merge + chunk.toString()).split(MARK);
    const rest = frames.pop();
    if (rest !== '' && !options.merge) throw new Error(`a packet is split after ${rest.length} characters`);
    if (rest !== '') merge = rest;
    frames.forEach((frame) => onPacket(JSON.parse(frame)));
  };
}

// A raw ¶ inside the packet stays as it is.
function send(socket, packet) {
  socket.write(JSON.stringify(packet) + MARK);
}

function receive(socket, onPacket) {
  socket.on('data', packetReader(onPacket));
  socket.on('error', () => {}); // `close` follows, and that is where the course code acts.
}

function listen(server, then) {
  server.listen(Number(options.port), () => {
    const { port } = server.address();
    console.log(`course ${role} listening on 127.0.0.1:${port}`);
    then(port);
  });
}

// Keeps a registration, and hands over what the distributor pushes.
function stayRegistered(port, name, urls, onPacket) {
  const params = { port: book ? String(port) : port, name, urls };
  const connect = () => {
    const socket = net.connect(Number(distributorPort), '127.0.0.1', () =>
      send(socket, { uri: '/distributes', method: 'POST', key: 0, params }));
    receive(socket, onPacket);
    socket.on('close', () => setTimeout(connect, RETRY_MS));
  };
  connect();
}

// ---- a service

const HANDLED = ['GET', 'POST', 'PUT', 'DELETE'];
const MAX_STORED = 20; // So that a list of them stays short.
const stored = []; // What was posted last, with `--store`.
let list = []; // The newest list, with `--calls`.

function service() {
  const server = net.createServer((socket) =>
    receive(socket, (request) => handle(request, (reply) => send(socket, reply))));
  listen(server, (port) =>
    stayRegistered(port, options.name, options.urls.split(','), ({ params }) => { list = params; }));
}

function handle({ uri, method, key, params }, reply) {
  if (!book && key === undefined) throw new Error('a request without a top-level key');
  if (!HANDLED.includes(method)) return reply(null);
  const answer = { key: book ? params.key : key };
  if (params.nokey) delete answer.key;
  if (params.textkey) answer.key = String(answer.key);
  const code = book ? 'errorCode' : 'errorcode';
  if (params.fail) return reply({ ...answer, [code]: 1, errormessage: { message: 'failed' } });
  const succeed = (results) =>
    reply({ ...answer, [code]: 0, errormessage: 'success', [book ? 'data' : 'results']: results });
  if (options.store) return succeed(store(method, params));
  if (options.calls) return call(options.calls, params, succeed);
  return succeed({ dialect: options.dialect, method, uri, params });
}

function store(method, { key, ...goods }) {
  if (method === 'POST') stored.push(goods);
  if (stored.length > MAX_STORED) stored.shift();
  return method === 'GET' ? stored : stored.length;
}

// As the largest course application calls: every call has key 0, and waits for its reply however long that takes.
function call(uri, { key, ...params }, onReply) {
  const callee = list.find(({ urls }) => urls.includes(`GET${uri}`));
  if (!callee) return onReply(null);
  const request = { uri, method: 'GET' };
  const socket = net.connect(Number(callee.port), callee.host, () =>
    send(socket, book ? { ...request, params: { ...params, key: 0 } } : { ...request, key: 0, params }));
  receive(socket, (reply) => {
    socket.end();
    onReply(reply);
  });
}

// ---- a gateway

const clients = new Map(); // `host:port` -> its socket
const routes = new Map(); // `GET/goods` -> the sockets of those who serve it
const waiting = new Map(); // key -> the HTTP response that waits for it
let nextKey = 0;
let turn = 0;

function gate() {
  const server = http.createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://gate');
    let body = '';
    for await (const chunk of request.setEncoding('utf8')) body += chunk;
    // Exactly this type: everything else, forms above all, is lost.
    const fields = request.headers['content-type'] === 'application/json' ? JSON.parse(body) : {};
    forward(request.method, pathname, { ...Object.fromEntries(searchParams), ...fields }, response);
  });
  listen(server, (port) => stayRegistered(port, 'gate', [], onList));
}

function forward(method, uri, params, response) {
  const sockets = routes.get(method + uri);
  if (!sockets) {
    response.writeHead(404).end();
    return;
  }
  const key = nextKey++;
  waiting.set(key, response);
  const packet = book ? { uri, method, params: { ...params, key } } : { uri, method, key, params };
  send(sockets[turn++ % sockets.length], packet);
}

function onList({ params }) {
  if (!Array.isArray(params)) throw new Error('the distributor sent something that is no list');
  const services = params.filter(({ name, urls }) => name !== 'gate' && urls.length > 0);
  services.filter(({ host, port }) => !clients.has(`${host}:${port}`)).forEach(dial);
}

function dial({ host, port, urls }) {
  const id = `${host}:${port}`;
  const socket = net.connect(Number(port), host);
  clients.set(id, socket);
  urls.forEach((url) => routes.set(url, [...(routes.get(url) ?? []), socket]));
  receive(socket, onReply);
  socket.on('close', () => {
    // The URL goes, and with it everybody else who serves it. Whoever waits for a reply waits on.
    urls.forEach((url) => routes.delete(url));
    clients.delete(id);
  });
}

// `null` and anything without a key that we know is the end.
function onReply(packet) {
  const response = waiting.get(packet.key);
  if (!response) throw new Error(`nobody waits for ${JSON.stringify(packet)}`);
  waiting.delete(packet.key);
  const body = JSON.stringify(packet);
  const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
  response.writeHead(200, headers).end(body);
}

// ---- a distributor

function distributor() {
  const nodes = new Map(); // the socket of each registered node -> its entry in the list
  const push = (sockets) => {
    const params = [...nodes.values()];
    for (const socket of sockets) send(socket, { uri: '/distributes', method: 'GET', key: 0, params });
  };
  const server = net.createServer((socket) => {
    push([socket]);
    receive(socket, ({ uri, method, params }) => {
      if (uri !== '/distributes' || method !== 'POST') return; // Not even a question gets an answer.
      // Fields that the course does not know are lost here.
      nodes.set(socket, { port: params.port, name: params.name, urls: params.urls, host: socket.remoteAddress });
      push(nodes.keys());
    });
    socket.on('close', () => {
      if (!nodes.delete(socket) && options.fragile) throw new Error('a peer left without a registration');
      push(nodes.keys());
    });
  });
  listen(server, () => {});
}
