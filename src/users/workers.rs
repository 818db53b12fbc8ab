//! A pool of threads that answers 503 when its queue is full.

use crate::packet::Failure;
use crate::pool::{Admission, Pool};

/// Threads with a bounded queue. They reject a job for which the queue has no room.
#[derive(Debug)]
pub struct WorkerPool {
    pool: Pool,
    busy: &'static str,
}

impl WorkerPool {
    /// Starts `threads` threads called `name`, with room for `waiting` jobs. The 503 contains the text `busy`.
    ///
    /// # Errors
    /// A sentence, if the operating system starts no further thread.
    pub fn start(name: &str, threads: usize, waiting: usize, busy: &'static str) -> Result<Self, String> {
        Ok(Self { pool: Pool::start(name, threads, waiting)?, busy })
    }

    /// Runs `job` on a thread of the pool. If the queue is full, calls it on this thread with the 503.
    pub fn submit(&self, job: impl FnOnce(Result<(), Failure>) + Send + 'static) {
        let busy = self.busy;
        self.pool.submit(move |admission| match admission {
            Admission::Admitted => job(Ok(())),
            Admission::Refused => job(Err(Failure::new(503, busy))),
        });
    }
}
