//! The table that maps `METHOD uri` to a handler.
//!
//! A handler gets a request and answers it. It knows nothing about deadlines, hops, counting or panics. The dispatcher
//! in [`crate::service`] handles them.

use std::collections::HashMap;
use std::sync::Arc;

use super::request::Request;
use super::requested_route::RequestedRoute;
use super::responder::Responder;
use crate::packet::{Failure, Reply};
use crate::pool::{Admission, Pool};

/// A handler that answers when it returns.
pub(super) type AnswerNow = dyn Fn(&Request) -> Result<Reply, Failure> + Send + Sync;

/// A handler that may pass the responder on to another thread.
pub(super) type AnswerLater = dyn Fn(Request, Responder) + Send + Sync;

/// The handler of a route, and the thread on which it runs.
pub(super) enum Handler {
    /// On the thread that reads the packets of the connection.
    Now(Box<AnswerNow>),
    /// On a thread of the pool.
    Slow(Arc<AnswerNow>),
    /// On a thread that the handler chooses.
    Later(Box<AnswerLater>),
}

/// A route of this service.
pub(super) struct Endpoint {
    pub(super) handler: Handler,
    pub(super) requested: Arc<RequestedRoute>,
}

/// The routes of this service: first by uri, then by method.
#[derive(Default)]
pub(super) struct Endpoints(HashMap<String, HashMap<String, Endpoint>>);

impl Handler {
    /// Answers the request, now or later. `pool` runs the slow handlers.
    pub(super) fn handle(&self, request: Request, responder: Responder, pool: Option<&Pool>) {
        responder.explain(file!(), || match self {
            Self::Slow(_) => "the request goes to the queue of the pool".to_owned(),
            _ => "the handler begins, on the thread of the connection".to_owned(),
        });
        match self {
            Self::Now(answer) => responder.answer(&answer(&request)),
            Self::Later(answer) => answer(request, responder),
            Self::Slow(answer) => {
                let Some(pool) = pool else { return };
                answer_on_pool(pool, answer.clone(), request, responder);
            }
        }
    }
}

fn answer_on_pool(pool: &Pool, answer: Arc<AnswerNow>, request: Request, responder: Responder) {
    pool.submit(move |admission| {
        let outcome = match admission {
            Admission::Admitted => {
                responder.explain(file!(), || "the handler begins, on a thread of the pool".to_owned());
                answer(&request)
            }
            Admission::Refused => {
                Err(Failure::new(503, "too many requests wait here; try again in a moment"))
            }
        };
        responder.answer(&outcome);
    });
}

impl Endpoints {
    pub(super) fn add(&mut self, method: &str, uri: &str, handler: Handler) {
        let endpoint = Endpoint { handler, requested: RequestedRoute::known(method, uri) };
        self.0.entry(uri.to_owned()).or_default().insert(method.to_owned(), endpoint);
    }

    /// The endpoint of a request.
    ///
    /// # Errors
    /// 404 for an unknown uri, 405 for an unknown method.
    pub(super) fn find(&self, method: &str, uri: &str) -> Result<&Endpoint, Failure> {
        let methods = self
            .0
            .get(uri)
            .ok_or_else(|| Failure::not_found(format!("this service has no route {method} {uri}")))?;
        methods.get(method).ok_or_else(|| {
            let mut known: Vec<&str> = methods.keys().map(String::as_str).collect();
            known.sort_unstable();
            Failure::new(405, format!("{uri} accepts {}, not {method}", known.join(", ")))
        })
    }

    pub(super) fn has(&self, method: &str, uri: &str) -> bool {
        self.0.get(uri).is_some_and(|methods| methods.contains_key(method))
    }

    pub(super) fn has_slow(&self) -> bool {
        self.0.values().flat_map(HashMap::values).any(|one| matches!(one.handler, Handler::Slow(_)))
    }

    /// The routes as a registration names them, such as `GET/users`.
    pub(super) fn urls(&self) -> Vec<String> {
        let all = self
            .0
            .iter()
            .flat_map(|(uri, methods)| methods.keys().map(move |method| format!("{method}{uri}")));
        let mut urls: Vec<String> = all.collect();
        urls.sort();
        urls
    }
}
