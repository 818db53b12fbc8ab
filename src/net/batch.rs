//! Packets that arrived together, so that their handlers can share work.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// Packets of one connection that had all arrived before the first of them was handled. The thread of the connection
/// handles one after the other. A handler may leave a value here, and the next handler goes on with it.
#[derive(Default)]
pub struct Batch {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    value: Option<Box<dyn Any + Send>>,
    /// The last packet has been handled: nothing is kept any more.
    has_ended: bool,
}

/// A batch that has begun. Dropping this ends the batch, even if a handler still refers to it.
#[derive(Debug, Default)]
pub struct OpenBatch(Arc<Batch>);

impl Batch {
    /// Takes the value that an earlier handler of this batch has left, if it has this type.
    #[must_use]
    pub fn take<T: Send + 'static>(&self) -> Option<Box<T>> {
        let value = lock(&self.state).value.take();
        value?.downcast().ok()
    }

    /// Leaves a value for the next handler. It is dropped when the batch ends, or at once if the batch has ended.
    pub fn leave<T: Send + 'static>(&self, value: Box<T>) {
        let mut state = lock(&self.state);
        let dropped = if state.has_ended { Some(value as Box<_>) } else { state.value.replace(value) };
        drop(state); // dropping a value may do I/O: never under the lock
        drop(dropped);
    }
}

impl OpenBatch {
    /// The batch, for the handlers of its packets.
    #[must_use]
    pub fn batch(&self) -> &Arc<Batch> {
        &self.0
    }
}

impl Drop for OpenBatch {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.has_ended = true;
        let value = state.value.take();
        drop(state); // dropping a value may do I/O: never under the lock
        drop(value);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}
