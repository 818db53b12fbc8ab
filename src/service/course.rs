//! The only module in `service` that treats course nodes differently from ours.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::net::peer::Peer;
use crate::node::Node;
use crate::packet::course::is_from_pilcrow;
use crate::packet::{COURSE_MAX_BYTES, Dialect, Head};
use crate::sync::lock;

/// Whether a course node is registered, as gateway or as service. It may call us, and a long reply crashes it.
#[derive(Debug, Default)]
pub(super) struct CourseNodes {
    /// The places of the distributors whose list contains a course node.
    listed_by: Mutex<HashSet<usize>>,
    is_any_listed: AtomicBool,
}

/// The rules for the answer to an asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyRules {
    /// The longest reply that the asker can read.
    pub(super) limit_bytes: usize,
    /// Whether the asker understands several replies to one request.
    pub(super) allows_streams: bool,
}

impl CourseNodes {
    /// Stores whether the newest list of the distributor at `place` has a course node.
    pub(super) fn follow(&self, place: usize, nodes: &[Node]) {
        let is_listed = nodes.iter().any(|node| node.dialect() == Dialect::Course);
        let mut listed_by = lock(&self.listed_by);
        if is_listed {
            listed_by.insert(place);
        } else {
            listed_by.remove(&place);
        }
        self.is_any_listed.store(!listed_by.is_empty(), Ordering::Relaxed);
    }

    /// The rules for the answer to this request. A long reply crashes a course node, and so do two replies in one
    /// segment. While the list has a course node, an asker that is not known to be ours is treated as one. (A node that
    /// has just registered may ask a moment before that list arrives.)
    pub(super) fn reply_rules(&self, peer: &Peer, head: &Head<'_>) -> ReplyRules {
        if is_from_pilcrow(head) || !self.is_any_listed.load(Ordering::Relaxed) {
            return ReplyRules { limit_bytes: usize::MAX, allows_streams: true };
        }
        peer.outbox().set_one_by_one();
        ReplyRules { limit_bytes: COURSE_MAX_BYTES, allows_streams: false }
    }
}

/// Whether `params.key` is the key of the packet rather than an argument. The book's gateway writes its key only there.
/// Our gateway writes its key there too, as the next number, while it takes this service for a course node
/// ([`crate::packet::course`]).
pub(super) fn is_packet_key(head: &Head<'_>, in_params: &serde_json::Value) -> bool {
    let Some(key) = head.key else { return true };
    !is_from_pilcrow(head)
        && serde_json::from_str::<serde_json::Value>(key.get()).is_ok_and(|key| {
            let next = key.as_u64().and_then(|key| key.checked_add(1));
            key == *in_params || (next.is_some() && next == in_params.as_u64())
        })
}
