//! Explains which instance is picked, and why.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Mesh, intent};
use crate::net::link::Link;
use crate::packet::Outgoing;
use crate::sync::read;

impl Mesh {
    /// Picks an instance for a request, other than `not`. Explains the choice if the request is explained.
    pub(super) fn pick_for(&self, request: &Outgoing<'_>, not: Option<&str>) -> Option<Arc<Link>> {
        match request.explanation {
            None => self.pick(request.method, request.uri, not),
            Some(_) => self.pick_and_explain(request, not),
        }
    }

    #[cold]
    fn pick_and_explain(&self, request: &Outgoing<'_>, not: Option<&str>) -> Option<Arc<Link>> {
        let candidates = RefCell::new(Vec::new());
        let usable = |address: &str, link: &Arc<Link>| {
            let rank = if not == Some(address) { None } else { link.rank(intent(request.method)) };
            let why = match (&rank, not == Some(address)) {
                (Some((_, in_flight)), _) => format!("{}, {in_flight} in flight", link.state().name()),
                (None, true) => "already tried".to_owned(),
                (None, false) => link.state().name().to_owned(),
            };
            candidates.borrow_mut().push(format!("{address} ({why})"));
            rank
        };
        let picked = read(&self.table).routes.pick(request.method, request.uri, usable);
        request.explain("src/routes.rs", || {
            let candidates = candidates.into_inner();
            let listed = if candidates.is_empty() { "none".to_owned() } else { candidates.join(", ") };
            match &picked {
                Some(link) => {
                    format!("candidates: {listed}; the least busy healthy one is {}", link.address())
                }
                None => format!("candidates: {listed}; no instance can take the request"),
            }
        });
        picked
    }
}
