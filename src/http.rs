//! HTTP/1.1 and 1.0 on a listener, one thread per connection.
//!
//! This layer knows neither packets nor the gateway. A program gives it an [`HttpHandler`], which turns an
//! [`HttpRequest`] into an [`HttpAnswer`] or into a stream of events. The gateway is one handler, the metrics page is
//! another.
//!
//! `httparse` reads request heads, `chunked_transfer` reads chunked bodies, and tiny_http's response writer writes
//! answers. The code here adds the rules between them: limits, deadlines, and which requests to reject.
//!
//! The modules, from the lowest to the highest. Each may use only the modules above it in this table.
//!
//! | module | what it does | what it must not know |
//! | --- | --- | --- |
//! | [`request`] | a request as a value, and why one is rejected | sockets |
//! | [`target`] | path and query of a request, percent-decoded | headers, sockets |
//! | [`answer`] | an answer as a value: status, headers, body, `ETag` | sockets |
//! | [`answer_writer`] | an answer as bytes; keeps the heads of this second | sockets |
//! | `request_head` | checks a request head | bodies, sockets |
//! | [`backlog`] | limits the bytes held for slow clients in all | requests, answers |
//! | `reader` | bytes of one connection, with the deadline of a request | answers |
//! | `chunks` | a chunked body | answers |
//! | [`event_stream`] | Server-Sent Events on a connection | requests, where events come from |
//! | [`broadcast`] | the same events for every reader | requests, where events come from |
//! | [`server`] | the life of one connection; the trait [`HttpHandler`] | what the handler does |

pub mod answer;
pub mod answer_writer;
pub mod backlog;
pub mod broadcast;
mod chunks;
pub mod event_stream;
mod reader;
pub mod request;
mod request_head;
pub mod server;
pub mod target;

pub use answer::HttpAnswer;
pub use broadcast::{Broadcast, Watcher};
pub use event_stream::{EventSource, NoEvents};
pub use request::{HttpRequest, MAX_BODY_BYTES, RequestError};
pub use server::{HttpHandler, HttpOutcome, HttpServer};
pub use target::Target;
