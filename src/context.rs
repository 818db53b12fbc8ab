//! What a request passes on to the calls that are made for it: how long its asker still waits, through how many
//! services it has come, and where it began.
//!
//! A service sets it around each handler, the mesh reads it at each call. So deadlines travel by themselves, and
//! services that call each other in a ring end with an error instead of a storm, even if nobody thought of it. A
//! thread that a handler starts begins anew; take a [`Context`] along with [`Context::run`].

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::packet::Origin;

/// The most services that a request may pass through. More is taken for a ring.
pub const MAX_HOPS: u32 = 8;

/// What the calls of the current handler inherit.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Until when the asker waits.
    pub deadline: Option<Instant>,
    /// Through how many services the request has come.
    pub hops: u32,
    /// Where the request began, if it came through a gateway.
    pub origin: Option<Arc<Origin>>,
}

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context { deadline: None, hops: 0, origin: None }) };
}

impl Context {
    /// The context of the handler that runs on this thread; outside of any, one without deadline.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.with_borrow(Self::clone)
    }

    /// Runs `work` so that its calls inherit this context.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let _restore = Restore(CURRENT.replace(self));
        work()
    }
}

/// Puts the former context back, also when the work panics.
struct Restore(Context);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.replace(std::mem::take(&mut self.0));
    }
}
